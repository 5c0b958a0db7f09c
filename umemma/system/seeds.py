"""Named, independent sources of randomness.

Every random choice names what it is for, so no result depends on the order of calls, on a worker
or on a machine. `np.random.default_rng(derive(seed, "order", epoch))` and
`torch.Generator().manual_seed(derive(...))` make generators. The randomness of a sample comes from
its
key: call `hash_keys(keys)` once, and `mix(hashes, seed, "mma", epoch)` for each purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream called `names`.

    Different names or seeds give unrelated streams.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def uniform(seed: int, *names: str | int) -> float:
    """Return a number in [0, 1) that belongs to `names`, such as the key of a sample."""
    return (derive(seed, *names) >> 10) / 2**53


def hash_keys(keys: Sequence[str]) -> np.ndarray:
    """Return (N,) uint64: a hash of each sample key, as input of `mix`."""
    return np.array([derive(0, "key", key) for key in keys], dtype=np.uint64)


def mix(hashes: np.ndarray, seed: int, *names: str | int) -> np.ndarray:
    """Return (N,) uint64 numbers that belong to `names` and to each sample.

    They do not depend on the batch or the process of a sample.

    Reference: the finaliser of SplitMix64 (Steele, Lea & Flood, Fast splittable pseudorandom number
    generators, 2014).
    """
    z = hashes ^ np.uint64(derive(seed, *names))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def to_unit(numbers: np.ndarray) -> np.ndarray:
    """Return uint64 numbers as float64 in [0, 1)."""
    return (numbers >> np.uint64(11)) / 2.0**53

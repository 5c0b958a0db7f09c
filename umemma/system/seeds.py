"""Named, independent sources of chance.

Every random choice names what it is for; nothing depends on the order of calls, on a worker or on a machine.
`np.random.default_rng(derive(seed, "order", epoch))` and `torch.Generator().manual_seed(derive(...))` make streams.
Chance that belongs to a sample comes from its key: `hashes(keys)` once, `mixed(those, seed, "mma", epoch)` each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names`. Different names, or a different `seed`, give unrelated streams."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def uniform(seed: int, *names: str | int) -> float:
    """A number in [0, 1) that belongs to `names`, such as a sample's key: the same on every machine, in any order."""
    return (derive(seed, *names) >> 10) / 2**53


def hashes(keys: Sequence[str]) -> np.ndarray:
    """(N,) uint64: a hash of each sample key, to be `mixed`."""
    return np.array([derive(0, "key", key) for key in keys], dtype=np.uint64)


def mixed(hashes: np.ndarray, seed: int, *names: str | int) -> np.ndarray:
    """(N,) uint64 numbers that belong to `names` and to each sample, whatever batch or process it is in.

    Reference: the finaliser of SplitMix64 (Steele, Lea & Flood, Fast splittable pseudorandom number generators, 2014).
    """
    z = hashes ^ np.uint64(derive(seed, *names))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def unit(numbers: np.ndarray) -> np.ndarray:
    """uint64 numbers as float64 in [0, 1)."""
    return (numbers >> np.uint64(11)) / 2.0**53

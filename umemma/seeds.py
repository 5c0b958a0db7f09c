"""Named, independent sources of chance.

Every random choice names what it is for; nothing depends on the order of calls, on a worker or on a machine.
`np.random.default_rng(derive(seed, "order", epoch))` and `torch.Generator().manual_seed(derive(...))` make streams.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names`. Different names, or a different `seed`, give unrelated streams."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def uniform(seed: int, *names: str | int) -> float:
    """A number in [0, 1) that belongs to `names`, such as a sample's key: the same on every machine, in any order."""
    return (derive(seed, *names) >> 10) / 2**53

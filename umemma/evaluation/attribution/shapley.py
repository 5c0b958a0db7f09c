"""Exact Shapley values of modalities, from the answers of every subset.

An ensemble answers from any subset, so nothing is sampled and no hole is filled in to find out what
a modality adds. Row S of `values` (2**M, ...) is the worth of the subset whose modalities are the
bits of S; row 0 is that of nothing, the prior.

Reference: Shapley, A value for n-person games, 1953; Grabisch and Roubens, An axiomatic approach to
the concept of interaction among players in cooperative games, International Journal of Game Theory
1999 (the index of a pair).
"""

from __future__ import annotations

import math

import numpy as np


def contributions(values: np.ndarray) -> np.ndarray:
    """Return what each modality adds, (M, ...): its gain over the subsets without it, a mean.

    The mean is over the orders in which modalities may arrive, so the sum over modalities is the
    worth of all less that of nothing.
    """
    subsets, sizes = _list_subsets(values)
    count = sizes[-1]
    shares = []
    for i in range(count):
        without = subsets[(subsets >> i) % 2 == 0]
        gains = values[without | 1 << i] - values[without]
        weights = [_weigh(size, count) for size in sizes[without]]
        shares.append(np.tensordot(weights, gains, 1))
    return np.stack(shares)


def interactions(values: np.ndarray) -> np.ndarray:
    """Return the interaction index of each pair, (M, M, ...), with 0 on the diagonal.

    Above 0 two modalities tell more together than apart (synergy), below 0 the same (redundancy).
    """
    subsets, sizes = _list_subsets(values)
    count = sizes[-1]
    index = np.zeros((count, count, *values.shape[1:]))
    for i in range(count):
        for j in range(i):
            without = subsets[((subsets >> i) % 2 == 0) & ((subsets >> j) % 2 == 0)]
            both, one, other = without | 1 << i | 1 << j, without | 1 << i, without | 1 << j
            gains = values[both] - values[one] - values[other] + values[without]
            weights = [_weigh(size, count - 1) for size in sizes[without]]
            index[i, j] = index[j, i] = np.tensordot(weights, gains, 1)
    return index


def _list_subsets(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (2**M,) numbers of all subsets and their sizes."""
    subsets = np.arange(len(values))
    return subsets, np.array([int(subset).bit_count() for subset in subsets])


def _weigh(size: int, count: int) -> float:
    """Return the share of the orders of `count` players in which these `size` come before one."""
    return math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)

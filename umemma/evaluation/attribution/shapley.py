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
    return np.tensordot(weigh_contributions(_count_modalities(values)), values, 1)


def interactions(values: np.ndarray) -> np.ndarray:
    """Return the interaction index of each pair, (M, M, ...), with 0 on the diagonal.

    Above 0 two modalities tell more together than apart (synergy), below 0 the same (redundancy).
    """
    return np.tensordot(weigh_interactions(_count_modalities(values)), values, 1)


def weigh_contributions(count: int) -> np.ndarray:
    """Return (M, 2**M): how often the worth of each subset counts in each contribution."""
    subsets, sizes = _list_subsets(count)
    weights = np.zeros((count, len(subsets)))
    for i in range(count):
        without = subsets[(subsets >> i) % 2 == 0]
        shares = [_weigh(size, count) for size in sizes[without]]
        weights[i, without | 1 << i] += shares
        weights[i, without] -= shares
    return weights


def weigh_interactions(count: int) -> np.ndarray:
    """Return (M, M, 2**M): how often the worth of each subset counts in each interaction."""
    subsets, sizes = _list_subsets(count)
    weights = np.zeros((count, count, len(subsets)))
    for i in range(count):
        for j in range(i):
            without = subsets[((subsets >> i) % 2 == 0) & ((subsets >> j) % 2 == 0)]
            shares = [_weigh(size, count - 1) for size in sizes[without]]
            weights[i, j, without | 1 << i | 1 << j] += shares
            weights[i, j, without | 1 << i] -= shares
            weights[i, j, without | 1 << j] -= shares
            weights[i, j, without] += shares
            weights[j, i] = weights[i, j]
    return weights


def _count_modalities(values: np.ndarray) -> int:
    return len(values).bit_length() - 1


def _list_subsets(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the (2**M,) numbers of all subsets and their sizes."""
    subsets = np.arange(2**count)
    return subsets, np.array([int(subset).bit_count() for subset in subsets])


def _weigh(size: int, count: int) -> float:
    """Return the share of the orders of `count` players in which these `size` come before one."""
    return math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)

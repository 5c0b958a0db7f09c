"""The test of a difference between two methods that were trained with the same seeds.

Each column of a comparison is a weighted sum of means over samples, so the variance of a difference
has a closed form. No torch.

References: Cameron, Gelbach & Miller, Robust inference with multiway clustering, J. Business &
Economic Statistics 29 (2011); Satterthwaite, An approximate distribution of estimates of variance
components, Biometrics Bulletin 2 (1946), on the degrees of freedom of a sum of variances; Kish,
Survey sampling (1965), on how many equal groups unequal ones are worth; Holm, A simple sequentially
rejective multiple test procedure, Scand. J. Statist. 6 (1979), which holds for dependent tests too;
Dror et al., The hitchhiker's guide to testing statistical significance in NLP, ACL 2018, for paired
tests of trained models; Nadeau & Bengio, Inference for the generalization error, Machine Learning
52 (2003), on training sets that overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.special import stdtr

LEVEL = 0.05  # of the test that an interval goes with
HALVINGS = 80  # of the interval in which a quantile is searched
LARGEST_T = 1e6
TINY = 1e-9

Names: TypeAlias = Sequence[Any] | np.ndarray


FOLD = "tested in fold"  # a grouping of samples, by the fold that tests them


class PairedTest(NamedTuple):
    """The results of `run_paired_test`, (K,) each, one per column; see `MethodDifference`."""

    difference: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seed_share: np.ndarray
    p: np.ndarray


class Contributions(NamedTuple):
    """What seeds and samples contribute to K columns of differences.

    values: (S, K) the columns of each seed, NaN where nothing is scored; beyond: (S, N, K) what
    each sample adds to them beyond the mean; share: (N, K) the share of each sample in them.
    """

    values: np.ndarray
    beyond: np.ndarray
    share: np.ndarray


class SampleClusters(NamedTuple):
    """The clusters of samples by one grouping, or by an intersection of groupings.

    sign: of their variance in the sum over all of these; member: (N,) the cluster of each sample;
    equal_clusters: (K,) how many clusters of equal size are worth as much as these.
    """

    sign: int
    member: np.ndarray
    equal_clusters: np.ndarray


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p-values (Holm 1979).

    Where all that are below a level are called differences, the probability of even one false alarm
    is at most that level.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted.tolist()


def sample_contributions(apart: np.ndarray, weights: np.ndarray) -> Contributions:
    """Return the columns of each seed, and what each sample adds to them.

    apart: (S, N, J) differences, paired by seed and sample, NaN where a part isn't scored; weights:
    (K, J) of the parts in each column. A column is linear in means. Around its expectation a mean,
    over a number of samples that is itself by chance, varies as the sum of `beyond` does.
    """
    scored = ~np.isnan(apart[0])
    share = scored / np.maximum(scored.sum(0), 1)
    means = np.nansum(apart * share, 1)  # (S, J)
    beyond = (
        np.where(
            scored,
            apart - means[:, None],
            0.0,
        )
        * share
    )
    unscored = ~scored.any(0)
    is_unscored = (weights[:, unscored] > 0).any(1)
    values = np.where(is_unscored, np.nan, means @ weights.T)
    return Contributions(values, beyond @ weights.T, share @ weights.T)


def run_paired_test(
    values: np.ndarray,
    beyond: np.ndarray,
    share: np.ndarray,
    groups: Mapping[str, Names],
    inflation: float = 1.0,
) -> PairedTest:
    """Test the mean over S seeds of (S, K) differences against 0.

    values, beyond, share: as in `Contributions`; groups: {grouping: N names}; inflation: of the
    variance over samples, from `inflate_for_folds`.

    Chance is in the seeds, in the samples, whose groups may cross, and in what each training
    answers on each sample. The variances over seeds and over samples both contain the third, so it
    is taken off once, as far as the variance over seeds is larger. p is the mean of two t-tests,
    two-sided, with the degrees of freedom of the seeds and of the smallest grouping, weighted by
    the two variances; the interval is of the differences that would have p > 0.05. With few seeds
    this is stricter than Satterthwaite's degrees of freedom, by which a variance over seeds that
    comes out too small passes for certainty; docs/compare.md has the simulations. With one seed
    there are only samples.
    """
    runs = len(values)
    difference = np.round(values.mean(0), 12)  # what cancels out leaves no rest
    mean = beyond.mean(0)
    clusters = list(_list_clusters(groups, share))
    by_sample = inflation * _clustered_variance(mean[None], clusters)
    by_seed = np.zeros(difference.shape)
    by_both = np.zeros(difference.shape)
    if runs > 1:
        by_seed = values.var(0, ddof=1) / runs
        by_both = _clustered_variance(beyond - mean, clusters) / (runs * (runs - 1))
    variance = by_sample + np.maximum(by_seed - by_both, 0.0)
    # The smallest grouping, counted in groups of equal size. A single group says nothing of others,
    # and no difference is surer than that so few groups agree.
    fewest = np.min([one.equal_clusters for one in clusters], 0)
    variance = np.where(fewest < 1 + TINY, np.nan, variance)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.maximum(variance, (difference / fewest) ** 2)
        seed_share = np.nan_to_num(by_seed / (by_seed + by_sample))
        error = np.sqrt(variance)
        t = np.where(
            error == 0,
            0.0,
            np.abs(difference) / error,
        )
    seed_freedom = max(runs - 1, 1)
    sample_freedom = np.maximum(fewest - 1, TINY)
    p = _two_sided(t, seed_share, seed_freedom, sample_freedom)
    reach = _quantile(LEVEL, seed_share, seed_freedom, sample_freedom) * error
    low = difference - reach
    high = difference + reach
    p = np.where(np.isnan(p), 1.0, p)
    return PairedTest(difference, error, low, high, seed_share, p)


def inflate_for_folds(train: Sequence[int], test: Sequence[int]) -> float:
    """Return by how much the variance over K folds is too small, as their training sets overlap.

    train, test: how many samples each fold has. The samples of a fold are a group (`FOLD`), so the
    variance over samples is that of the mean of K independent folds, S^2 / K. Nadeau & Bengio
    (2003) put (1 / K + n_test / n_train) S^2 in its place, which is 1 + K n_test / n_train times as
    much. With one fold nothing overlaps.
    """
    if len(train) < 2:
        return 1.0
    ratios = np.asarray(test) / np.asarray(train)
    return float(1 + ratios.sum())


def number_names(names: Names) -> np.ndarray:
    """Return (N,) numbers 0, 1, 2 and so on, the same for equal names."""
    return np.unique(np.asarray(names), return_inverse=True)[1]


def _list_clusters(
    groups: Mapping[str, Names],
    share: np.ndarray,
) -> Iterator[SampleClusters]:
    """Yield the clusters of every grouping and of every intersection of groupings.

    A grouping that has a single group is left out, unless all have; without groupings each sample
    is a group.
    """
    numbered = [number_names(names) for names in groups.values()]
    members = [member for member in numbered if member.any()] or numbered[:1]
    if not members:
        members = [np.arange(len(share))]
    for size in range(1, len(members) + 1):
        sign = (-1) ** (size + 1)
        for crossed in combinations(members, size):
            cluster = crossed[0]
            for member in crossed[1:]:
                cluster = number_names(cluster * (member.max() + 1) + member)
            with np.errstate(divide="ignore"):
                count = 1 / (_sum_clusters(share, cluster) ** 2).sum(0)
            yield SampleClusters(sign, cluster, count)


def _clustered_variance(beyond: np.ndarray, clusters: Sequence[SampleClusters]) -> np.ndarray:
    """Return (K,) variances of the sums over samples of (..., N, K), added up over the first axis.

    Samples of one group, in any grouping, depend on each other (Cameron, Gelbach & Miller 2011). A
    variance is never less than by one grouping alone.
    """
    terms = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for sign, member, count in clusters:
            squares = (_sum_clusters(beyond, member) ** 2).sum((0, 1))
            terms.append(sign * squares / (1 - 1 / count))
    return np.maximum(np.sum(terms, 0), np.max(terms, 0))


def _sum_clusters(values: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Return (..., clusters, K) sums of (..., N, K) over the samples of each cluster."""
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    return np.add.reduceat(
        values[..., order, :],
        starts,
        axis=-2,
    )


def _two_sided(
    t: np.ndarray,
    seed_share: np.ndarray,
    seed_freedom: float,
    sample_freedom: np.ndarray,
) -> np.ndarray:
    """Return the probability beyond t and -t of a mixture of two t distributions.

    seed_share: the share of the one with `seed_freedom` degrees of freedom.
    """
    by_seeds = seed_share * stdtr(seed_freedom, -t)
    by_samples = (1 - seed_share) * stdtr(sample_freedom, -t)
    return 2 * (by_seeds + by_samples)


def _quantile(
    p: float,
    seed_share: np.ndarray,
    seed_freedom: float,
    sample_freedom: np.ndarray,
) -> np.ndarray:
    """Return the t whose `_two_sided` is p, by bisection."""
    low = np.zeros_like(seed_share)
    high = np.full_like(seed_share, LARGEST_T)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_over = _two_sided(middle, seed_share, seed_freedom, sample_freedom) > p
        low = np.where(is_over, middle, low)
        high = np.where(is_over, high, middle)
    return high

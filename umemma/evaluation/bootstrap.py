"""95 % intervals by resampling whole groups of samples, as samples of a group are dependent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from umemma.evaluation.metrics import Stats, mean_of_sums
from umemma.system.seeds import derive, hash_keys


class Clustering(NamedTuple):
    """One way to put the samples together, and its resamples.

    member: (N,) the cluster of each sample; weights: (times, clusters) how often each cluster is in
    each resample; sign: the sign of its variance in the sum over all clusterings.
    """

    member: np.ndarray
    weights: np.ndarray
    sign: int


class Bootstrap:
    """Resamples of groups, and the intervals that they give.

    With one grouping the interval is the percentile interval of its resamples. With several (images
    and voices, say) each of them, and each intersection of them, is resampled by itself, and the
    variances are added up by inclusion and exclusion, V = V_images + V_voices - V_both, but never
    to less than the largest of the single groupings. The interval is that of the grouping with the
    largest variance, stretched about the estimate by the ratio of the standard deviations.

    Few groups understate the variance and its uncertainty: the interval of G groups is stretched by
    sqrt(G / (G - 1)) and by the ratio of the 97.5 % quantiles of Student's t with G - 1 degrees of
    freedom (at least 1) and the normal distribution. For groups of unequal sizes n, G is the
    effective number (sum n)^2 / sum n^2. One group tells nothing: the interval is NaN.

    A grouping whose groups all lie within groups of another one adds nothing and is left out. If
    there are more than `LIMIT` groups, a hash of their names puts them together into `LIMIT`
    clusters: these are independent too, and memory stays bounded.

    References: Cameron, Gelbach & Miller, Robust inference with multiway clustering, J. Bus. Econ.
    Stat. 29 (2011); Field & Welsh, Bootstrapping clustered data, JRSS B 69 (2007); Carter, Schnepel
    & Steigerwald, Asymptotic behavior of a t-test robust to cluster heterogeneity, Rev. Econ. Stat.
    99 (2017), for the effective number of groups. Product weights (Owen, The pigeonhole bootstrap,
    Ann. Appl. Stat. 1 (2007)) count the part that belongs to neither grouping three times;
    `benchmarks/intervals.py` compares the rules.
    """

    LIMIT = 2_000

    def __init__(
        self,
        groups: Mapping[str, Sequence[str]],
        seed: int,
        times: int,
    ) -> None:
        labels = {name: np.asarray(groups[name]) for name in sorted(groups)}
        crossed = _drop_nested(labels)
        self.clusterings: list[Clustering] = []
        for size in range(1, len(crossed) + 1):
            sign = 1 if size % 2 else -1
            for names in itertools.combinations(crossed, size):
                stream: tuple[str, ...] = ()
                if len(crossed) > 1:
                    stream = names
                generator = np.random.default_rng(derive(seed, "bootstrap", *stream))
                member, count = self._cluster([labels[name] for name in names])
                weights = np.zeros((times, count))
                for row in weights:
                    draw = generator.integers(0, count, count)
                    row += np.bincount(draw, minlength=count)
                self.clusterings.append(Clustering(member, weights, sign))
        single = self.clusterings[: len(crossed)]  # the groupings without their intersections
        self.counts = [clustering.weights.shape[1] for clustering in single]
        self.stretches = [_stretch_for_few(clustering.member) for clustering in single]

    def _cluster(
        self,
        labels: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, int]:
        """Return the (N,) cluster of each sample and the number of clusters.

        Samples are of one group where they have the same name in each (N,) of `labels`.
        """
        names, member = np.unique(labels[0], return_inverse=True)
        for label in labels[1:]:
            others, number = np.unique(label, return_inverse=True)
            pairs, member = np.unique(member * len(others) + number, return_inverse=True)
            first = names[pairs // len(others)]
            second = others[pairs % len(others)]
            names = np.char.add(np.char.add(first, "\x1f"), second)
        if len(names) <= self.LIMIT:
            return member, len(names)
        hashes = hash_keys(names.tolist())
        cluster = (hashes % np.uint64(self.LIMIT)).astype(np.int64)
        return cluster[member], self.LIMIT

    def totals(self, stats: Stats, weight: np.ndarray) -> np.ndarray:
        """Return (R, times, K) sums over each resample of each of the R clusterings.

        weight: (N,) of the samples.
        """
        return self.resample(self.sum_by_cluster(stats, weight))

    def sum_by_cluster(self, stats: Stats, weight: np.ndarray) -> list[np.ndarray]:
        """Return the (clusters, K) sums over each cluster, of each of the R clusterings."""
        sums = []
        for clustering in self.clusterings:
            clusters = clustering.weights.shape[1]
            sums.append(stats.sum_by_label(clustering.member, clusters, weight))
        return sums

    def resample(self, sums: Sequence[np.ndarray]) -> np.ndarray:
        """Return (R, times, K) sums over each resample, of sums over each cluster."""
        pairs = zip(self.clusterings, sums, strict=True)
        return np.stack([clustering.weights @ by_cluster for clustering, by_cluster in pairs])

    def bounds(self, draws: np.ndarray, estimate: float) -> tuple[float, float]:
        """Return the interval of an estimate from its (R, times) values in the resamples.

        NaN values are left out.
        """
        variances = np.array([_variance(values) for values in draws])
        single = variances[: len(self.counts)]
        if np.isnan(single).all():
            return float("nan"), float("nan")
        largest = int(np.nanargmax(single))
        stretch = self.stretches[largest]
        if len(draws) > 1 and single[largest] > 0:
            signs = np.array([clustering.sign for clustering in self.clusterings])
            together = float(np.nansum(signs * variances))
            stretch *= math.sqrt(max(together / single[largest], 1.0))
        low, high = interval_95(draws[largest])
        return estimate + stretch * (low - estimate), estimate + stretch * (high - estimate)

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Return the interval of the mean of (N,) values, NaN values left out."""
        return self.estimate_means(values[:, None])[0][1:]

    def estimate_means(self, values: np.ndarray) -> list[tuple[float, float, float]]:
        """Return the mean of each column of (N, K) values, NaN values left out, and its interval.

        The interval stays within the range of the values, as a mean does.
        """
        scored = ~np.isnan(values)
        count = values.shape[1]
        sums = np.column_stack([np.where(scored, values, 0.0), scored])
        stats = Stats(np.arange(2 * count), sums, 2 * count)
        resampled = self.totals(stats, np.ones(len(values)))
        rows = []
        for k in range(count):
            own = values[scored[:, k], k]
            if not len(own):
                rows.append((math.nan, math.nan, math.nan))
                continue
            mean = float(own.mean())
            low, high = self.bounds(mean_of_sums(resampled[..., [k, count + k]]), mean)
            rows.append((mean, max(low, float(own.min())), min(high, float(own.max()))))
        return rows


def interval_95(values: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles without NaN values; NaN if there is nothing else."""
    numbers = values[~np.isnan(values)]
    if not len(numbers):
        return float("nan"), float("nan")
    low, high = np.quantile(numbers, [0.025, 0.975])
    return float(low), float(high)


def _drop_nested(labels: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of the groupings whose groups don't all lie within groups of another one.

    Of equal groupings the first stays.
    """
    names = list(labels)
    return [name for name in names if not any(_is_nested(labels, name, o) for o in names)]


def _is_nested(
    labels: Mapping[str, np.ndarray],
    name: str,
    other: str,
) -> bool:
    """Return whether a grouping adds nothing to another one; of two equal ones the later one."""
    if name == other or not _is_within(labels[name], labels[other]):
        return False
    is_first_of_equals = name < other and _is_within(labels[other], labels[name])
    return not is_first_of_equals


def _is_within(fine: np.ndarray, coarse: np.ndarray) -> bool:
    """Return whether each group of (N,) `fine` lies in one group of `coarse`."""
    _, first, group = np.unique(
        fine,
        return_index=True,
        return_inverse=True,
    )
    return bool((coarse[first][group] == coarse).all())


def _stretch_for_few(member: np.ndarray) -> float:
    """Return how much an interval over the groups of (N,) `member` is stretched; NaN for one."""
    sizes = np.bincount(member).astype(np.float64)
    count = sizes.sum() ** 2 / (sizes**2).sum()
    if (sizes > 0).sum() < 2:
        return float("nan")
    quantile = stdtrit(max(count - 1, 1.0), 0.975)
    return math.sqrt(count / (count - 1)) * float(quantile / ndtri(0.975))


def _variance(values: np.ndarray) -> float:
    """Return the variance, NaN values left out; NaN where nothing else is there."""
    numbers = values[~np.isnan(values)]
    if not len(numbers):
        return float("nan")
    return float(numbers.var())

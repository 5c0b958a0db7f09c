"""Metrics as sums over samples, so that a metric can be averaged over draws, mixed, weighted and resampled without
another pass over the logits.

A metric turns (N, C) logits and the target into what each sample adds to some sums; these, over any samples and with any
weights, give its value. Average precision alone needs the samples in order, and says so by `ranked`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_expit, log_softmax, ndtri, softmax, stdtrit

from umemma.errors import UserError, unknown
from umemma.system.seeds import derive, hashes

BINS = 15  # of confidence, for the calibration error
# What a task is scored by where the settings don't say. The first is a mean over samples.
USUAL = {
    "multiclass": ("accuracy", "f1_macro", "log_loss", "ece"),
    "multilabel": ("f1_samples", "f1_macro", "f1_micro", "f1_weighted", "log_loss", "ece"),
}


@dataclass(frozen=True)
class Stats:
    """What each sample adds to `width` sums: values (N, J), and the sums that they belong to, (N, J), or (J,) for all."""

    columns: np.ndarray
    values: np.ndarray
    width: int

    def by(self, label: np.ndarray, count: int, weight: np.ndarray) -> np.ndarray:
        """(count, width): the sums over the samples of each label (N,) in 0..count - 1, weighted by (N,)."""
        sums = np.zeros(count * self.width)
        table = sums.reshape(count, self.width)  # the same numbers
        for j, values in enumerate(self.values.T):
            if self.columns.ndim == 1:
                table[:, self.columns[j]] += np.bincount(label, weight * values, count)
            else:
                sums += np.bincount(
                    label * self.width + self.columns[:, j], weight * values, len(sums)
                )
        return table

    def total(self, weight: np.ndarray) -> np.ndarray:
        """(width,)"""
        return self.by(np.zeros(len(weight), np.int64), 1, weight)[0]


@dataclass(frozen=True)
class Metric:
    """stats: (N, C) logits, target -> sums of K columns; value: (..., K) sums of these -> (...); ranked: (N, C) logits,
    target and (..., N) weights -> (...). percent: it is a share; higher: better."""

    name: str
    label: str
    stats: Callable[[np.ndarray, np.ndarray], Stats] | None
    value: Callable[[np.ndarray], np.ndarray] | None = None
    ranked: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    percent: bool = True
    higher: bool = True

    def shown(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.percent else f"{value:.3f}"


def task(target: np.ndarray) -> str:
    """(N,) classes are a multiclass task, (N, C) sets of labels a multilabel one."""
    return "multiclass" if target.ndim == 1 else "multilabel"


def get(name: str, task: str, classes: int) -> Metric:
    """UserError for a metric that isn't known or doesn't fit the task."""
    table = _table()
    if top := re.fullmatch(r"top_([1-9]\d*)", name):
        k = int(top[1])
        if task == "multiclass" and k >= classes:
            raise _unfit(name, f"there are only {classes} classes")
        tasks, metric = (
            {"multiclass"},
            Metric(name, f"top-{k} accuracy", _mean(lambda z, y: _in_top(z, y, k)), _ratio),
        )
    elif name in table:
        tasks, metric = table[name]
    else:
        raise unknown("metric", name, [*table, "top_5"], "evaluate.metrics")
    if task not in tasks:
        raise _unfit(name, f"the task is {task}")
    return metric


def chosen(names: Sequence[str] | None, task: str, classes: int) -> list[Metric]:
    """The metrics of `names`, or those that are usual for the task. UserError as `get`, and where none is named."""
    names = USUAL[task] if names is None else names
    if not names or len(set(names)) < len(names):
        raise UserError(
            "has to name each metric once, and at least one", "evaluate.metrics", usage=True
        )
    found = [get(name, task, classes) for name in names]
    if not found[0].percent or not found[0].higher or found[0].ranked:
        fitting = ", ".join(USUAL[task][:2])
        raise UserError(
            f"{names[0]} can't lead the tables",
            "evaluate.metrics",
            f"Put one such as {fitting} first.",
            usage=True,
        )
    return found


def score(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, ...) float in 0..1 for (N, ..., C) logits: what a sample's answer is worth; NaN where the logits are NaN."""
    return correct(logits, target) if task(target) == "multiclass" else sample_f1(logits, target)


def sample_f1(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, ...) float: 2 |found and right| / (|found| + |right|), found = logits above 0; target: (N, C) of 0 and 1.

    Averaged over samples this is scikit-learn's f1_score(average="samples"); nothing found and nothing right is 0.
    """
    target = target.reshape(len(target), *[1] * (logits.ndim - 2), target.shape[-1])
    found = logits > 0
    sizes = found.sum(-1) + target.sum(-1)
    f1 = 2 * (found * target).sum(-1) / np.maximum(sizes, 1)
    return np.where(np.isnan(logits).any(-1), np.nan, f1)


def correct(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, ...) float: 1 where the largest of (N, ..., C) logits is the (N,) target; NaN where the logits are NaN."""
    target = target.reshape(-1, *[1] * (logits.ndim - 2))
    hits = (np.nan_to_num(logits, nan=-np.inf).argmax(-1) == target).astype(np.float64)
    return np.where(np.isnan(logits).any(-1), np.nan, hits)


def log_loss(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) nats: cross entropy, for sets of labels the mean binary one over labels."""
    logits = logits.astype(np.float64)
    if target.ndim == 1:
        return -np.take_along_axis(log_softmax(logits, axis=-1), target[:, None], -1)[:, 0]
    return -(target * log_expit(logits) + (1 - target) * log_expit(-logits)).mean(-1)


def average_precision(logits: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over classes of the area under precision against recall (scikit-learn's average_precision_score, macro);
    classes that don't occur are left out. weights: (..., N), each giving one of the values (...)."""
    table = target if target.ndim == 2 else target[:, None] == np.arange(logits.shape[1])
    areas = []
    for c in range(logits.shape[1]):
        order = np.argsort(-logits[:, c], kind="stable")
        ends = np.append(
            np.diff(logits[order, c]) != 0, True
        )  # samples of equal score come together
        found = np.cumsum(weights[..., order], -1)[..., ends]
        right = np.cumsum(weights[..., order] * table[order, c], -1)[..., ends]
        area = (np.diff(right, prepend=0.0) * right / np.maximum(found, 1e-300)).sum(-1)
        with np.errstate(invalid="ignore"):
            areas.append(area / right[..., -1])
    counted = ~np.isnan(areas)
    with np.errstate(invalid="ignore"):
        return np.nansum(areas, 0) / counted.sum(0)


class Clustering(NamedTuple):
    """member: (N,) the cluster of each sample; weights: (times, clusters) how often each is in each resample; sign: of its
    variance in the sum over all clusterings."""

    member: np.ndarray
    weights: np.ndarray
    sign: int


class Bootstrap:
    """95 % intervals, resampling whole groups: samples of one group are not independent.

    With one grouping the interval is the percentile interval of its resamples. With several (images and voices, say) each
    of them, and each intersection of them, is resampled by itself, and the variances are added up by inclusion and
    exclusion, V = V_images + V_voices - V_both, but never to less than the largest of the single groupings. The interval is
    that of the grouping with the largest variance, stretched about the estimate by the ratio of the standard deviations.
    Few groups understate the variance and its uncertainty: the interval of G groups is stretched by sqrt(G / (G - 1)) and by
    the ratio of the 97.5 % quantiles of Student's t with G - 1 degrees of freedom (at least 1) and the normal distribution.
    Of groups of unequal sizes n, G is the effective number (sum n)^2 / sum n^2. One group tells nothing: the interval is NaN.

    A grouping whose groups all lie within groups of another one adds nothing and is left out. More than `LIMIT` groups are
    first put together, by a hash of their name, into so many clusters: these are independent too, and memory stays bounded.

    References: Cameron, Gelbach & Miller, Robust inference with multiway clustering, J. Bus. Econ. Stat. 29 (2011); Field &
    Welsh, Bootstrapping clustered data, JRSS B 69 (2007); Carter, Schnepel & Steigerwald, Asymptotic behavior of a t-test
    robust to cluster heterogeneity, Rev. Econ. Stat. 99 (2017), for the effective number of groups. Product weights (Owen,
    The pigeonhole bootstrap, Ann. Appl. Stat. 1 (2007)) count the part that belongs to neither grouping three times;
    `benchmarks/intervals.py` compares the rules.
    """

    LIMIT = 2_000

    def __init__(self, groups: Mapping[str, Sequence[str]], seed: int, times: int) -> None:
        labels = {name: np.asarray(own) for name, own in sorted(groups.items())}
        crossed = _not_nested(labels)
        self.clusterings: list[Clustering] = []
        for size in range(1, len(crossed) + 1):
            for names in itertools.combinations(crossed, size):
                stream = names if len(crossed) > 1 else ()
                chance = np.random.default_rng(derive(seed, "bootstrap", *stream))
                member, count = self._clusters([labels[name] for name in names])
                weights = np.zeros((times, count))
                for row in weights:
                    row += np.bincount(chance.integers(0, count, count), minlength=count)
                self.clusterings.append(Clustering(member, weights, 1 if size % 2 else -1))
        self.counts = [
            one.weights.shape[1] for one in self.clusterings[: len(crossed)]
        ]  # of the groupings themselves
        self.stretches = [_few_groups(one.member) for one in self.clusterings[: len(crossed)]]

    def _clusters(self, labels: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
        """The cluster (N,) of each sample, and how many there are, where a group has the same in each (N,) of `labels`."""
        names, member = np.unique(labels[0], return_inverse=True)
        for other in labels[1:]:
            others, number = np.unique(other, return_inverse=True)
            pairs, member = np.unique(member * len(others) + number, return_inverse=True)
            names = np.char.add(
                np.char.add(names[pairs // len(others)], "\x1f"), others[pairs % len(others)]
            )
        if len(names) <= self.LIMIT:
            return member, len(names)
        cluster = (hashes(names.tolist()) % np.uint64(self.LIMIT)).astype(np.int64)
        return cluster[member], self.LIMIT

    def totals(self, stats: Stats, weight: np.ndarray) -> np.ndarray:
        """(R, times, K): of each of R clusterings the sums over each resample, of samples weighted by (N,)."""
        return np.stack(
            [c.weights @ stats.by(c.member, c.weights.shape[1], weight) for c in self.clusterings]
        )

    def bounds(self, draws: np.ndarray, estimate: float) -> tuple[float, float]:
        """The interval of an estimate, from what it is in (R, times) resamples, NaN ones left out."""
        variances = np.array([_variance(one) for one in draws])
        single = variances[: len(self.counts)]
        if np.isnan(single).all():
            return float("nan"), float("nan")
        largest = int(np.nanargmax(single))
        stretch = self.stretches[largest]
        if len(draws) > 1 and single[largest] > 0:
            signs = np.array([one.sign for one in self.clusterings])
            together = float(np.nansum(signs * variances))
            stretch *= math.sqrt(max(together / single[largest], 1.0))
        low, high = quantiles(draws[largest])
        return estimate + stretch * (low - estimate), estimate + stretch * (high - estimate)

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Of the mean of (N,) values, NaN ones left out. As a mean it stays within the range of the values."""
        scored = ~np.isnan(values)
        if not scored.any():
            return float("nan"), float("nan")
        stats = _each(np.where(scored, values, 0.0))
        draws = _ratio(self.totals(stats, scored.astype(np.float64)))
        low, high = self.bounds(draws, float(values[scored].mean()))
        return max(low, float(values[scored].min())), min(high, float(values[scored].max()))


def _not_nested(labels: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the groupings that aren't as fine as another one or finer; of equal ones the first."""
    kept: list[str] = []
    for name, own in labels.items():
        others = [other for other in labels if other != name]
        if not any(
            _within(own, labels[other]) and not (name < other and _within(labels[other], own))
            for other in others
        ):
            kept.append(name)
    return kept


def _within(fine: np.ndarray, coarse: np.ndarray) -> bool:
    """Whether each group of (N,) `fine` lies in one group of `coarse`."""
    _, first, group = np.unique(fine, return_index=True, return_inverse=True)
    return bool((coarse[first][group] == coarse).all())


def _few_groups(member: np.ndarray) -> float:
    """By how much an interval over the groups of (N,) `member` is stretched; NaN for one group."""
    sizes = np.bincount(member).astype(np.float64)
    count = sizes.sum() ** 2 / (sizes**2).sum()
    if (sizes > 0).sum() < 2:
        return float("nan")
    return math.sqrt(count / (count - 1)) * float(
        stdtrit(max(count - 1, 1.0), 0.975) / ndtri(0.975)
    )


def _variance(values: np.ndarray) -> float:
    """NaN ones left out; NaN where nothing else is."""
    kept = values[~np.isnan(values)]
    return float(kept.var()) if len(kept) else float("nan")


def quantiles(values: np.ndarray) -> tuple[float, float]:
    """2.5 % and 97.5 %, NaN ones left out; NaN where nothing else is."""
    kept = values[~np.isnan(values)]
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (np.nan, np.nan)
    return float(low), float(high)


def _table() -> dict[str, tuple[set[str], Metric]]:
    one, many = {"multiclass"}, {"multilabel"}
    both = one | many
    return {
        "accuracy": (one, Metric("accuracy", "accuracy", _mean(correct), _ratio)),
        "f1_samples": (many, Metric("f1_samples", "F1 (samples)", _mean(sample_f1), _ratio)),
        "f1_macro": (both, Metric("f1_macro", "F1 (macro)", _counts, lambda s: _f1(s, "macro"))),
        "f1_micro": (both, Metric("f1_micro", "F1 (micro)", _counts, lambda s: _f1(s, "micro"))),
        "f1_weighted": (
            both,
            Metric("f1_weighted", "F1 (weighted)", _counts, lambda s: _f1(s, "weighted")),
        ),
        "map": (both, Metric("map", "mean average precision", None, ranked=average_precision)),
        "log_loss": (
            both,
            Metric("log_loss", "log-loss", _mean(log_loss), _ratio, percent=False, higher=False),
        ),
        "ece": (
            both,
            Metric("ece", "calibration error", _confidence, _calibration_error, higher=False),
        ),
    }


def _unfit(name: str, why: str) -> UserError:
    return UserError(
        f"{name} doesn't fit: {why}", "evaluate.metrics", "Take it out of the settings.", usage=True
    )


def _mean(
    each: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Callable[[np.ndarray, np.ndarray], Stats]:
    return lambda logits, target: _each(each(logits, target))


def _each(values: np.ndarray) -> Stats:
    return Stats(np.arange(2), np.stack([values, np.ones(len(values))], 1), 2)


def _ratio(sums: np.ndarray) -> np.ndarray:
    """(..., 2) sum and count -> mean; NaN of nothing."""
    with np.errstate(invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def _in_top(logits: np.ndarray, target: np.ndarray, k: int) -> np.ndarray:
    own = np.take_along_axis(logits, target[:, None], -1)
    return ((logits > own).sum(-1) < k).astype(np.float64)


def _counts(logits: np.ndarray, target: np.ndarray) -> Stats:
    """3C sums: of each class how often it was found and right, found, right."""
    n, classes = logits.shape
    if target.ndim == 2:
        found = logits > 0
        values = np.concatenate([found * target, found, target], 1).astype(np.float64)
        return Stats(np.arange(3 * classes), values, 3 * classes)
    best = logits.argmax(-1)
    columns = np.stack([best, classes + best, 2 * classes + target], 1)
    return Stats(columns, np.stack([best == target, np.ones(n), np.ones(n)], 1), 3 * classes)


def _f1(sums: np.ndarray, average: str) -> np.ndarray:
    """As scikit-learn's f1_score; macro is over the classes that occur, found or right."""
    both, found, right = np.split(sums, 3, -1)
    with np.errstate(invalid="ignore"):
        if average == "micro":
            return 2 * both.sum(-1) / (found.sum(-1) + right.sum(-1))
        each = 2 * both / np.maximum(found + right, 1e-300)
        weight = right if average == "weighted" else (found + right > 0).astype(np.float64)
        return (each * weight).sum(-1) / weight.sum(-1)


def _confidence(logits: np.ndarray, target: np.ndarray) -> Stats:
    """3 BINS sums: of each bin of confidence the confidence in it, the right answers, and how many. For sets of labels each
    label's probability counts by itself, against how often it is right."""
    if target.ndim == 1:
        sure = softmax(logits.astype(np.float64), axis=-1).max(-1, keepdims=True)
        right = (logits.argmax(-1) == target)[:, None].astype(np.float64)
    else:
        sure, right = expit(logits.astype(np.float64)), target
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    columns = np.concatenate([bins, BINS + bins, 2 * BINS + bins], 1)
    return Stats(columns, np.concatenate([sure, right, np.ones_like(sure)], 1), 3 * BINS)


def _calibration_error(sums: np.ndarray) -> np.ndarray:
    """The expected calibration error. Reference: Guo et al., ICML 2017, equation 3."""
    sure, right, count = np.split(sums, 3, -1)
    with np.errstate(invalid="ignore"):
        return np.abs(sure - right).sum(-1) / count.sum(-1)

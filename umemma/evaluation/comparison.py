"""From the predictions of many trained cells to one table: means over seeds, and whether a difference is more than chance.

A cell is one method, trained with one seed under one setting of what training misses. Cells are boiled down one by one,
as the predictions of all of them together may not fit into memory. A column is what a method is asked for: a modality
subset, the average of the lesser subsets, the worst case, a share of samples that lose something. Each column is a
weighted sum of means over samples, so that the variance of a difference has a closed form. No torch.

References: Cameron, Gelbach & Miller, Robust inference with multiway clustering, J. Business & Economic Statistics 29
(2011); Satterthwaite, An approximate distribution of estimates of variance components, Biometrics Bulletin 2 (1946), on the
degrees of freedom of a sum of variances; Kish, Survey sampling (1965), on how many equal groups unequal ones are worth;
Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979), which holds for dependent tests
too; Dror et al., The hitchhiker's guide to testing statistical significance in NLP, ACL 2018, for paired tests of trained
models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr

from umemma.evaluation.grid import Grid
from umemma.evaluation.metrics import USUAL, score
from umemma.evaluation.predictions import Predictions
from umemma.missing import Missing, patterns, settings, written
from umemma.types import joined

ALONE, AVERAGE = "uni-modal alone", "uni-modal average"
WORST, LESSER = "worst case", "lesser average"


class Key(NamedTuple):
    """Of a column of a row of the table. method: a preset, ALONE or AVERAGE."""

    train: str
    method: str
    metric: str
    column: str


class Score(NamedTuple):
    """Over the seeds: mean and sample standard deviation, NaN for one seed."""

    train: str
    method: str
    metric: str
    column: str
    mean: float
    std: float
    seeds: int


class Difference(NamedTuple):
    """Of a method to a `baseline` in a column: its mean over seeds, its standard error, its 95 % interval, the two-sided
    p-value that it is 0, and that value after Holm's adjustment for all columns and baselines of the same `train`.
    seed_share: how far p goes by the degrees of freedom of the seeds, 0 to 1. NaN where all samples are of one group."""

    train: str
    method: str
    column: str
    baseline: str
    metric: str
    difference: float
    error: float
    low: float
    high: float
    seed_share: float
    p: float
    p_holm: float


class Tested(NamedTuple):
    """What `paired` finds: (K,) each, as in Difference."""

    difference: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seed_share: np.ndarray
    p: np.ndarray


class Point(NamedTuple):
    """Of a curve: the first metric, mean and standard deviation over the seeds, where a share `ratio` of the samples loses
    `missing`."""

    train: str
    method: str
    missing: str
    ratio: float
    score: float
    std: float


@dataclass(frozen=True)
class Cell:
    """What remains of a cell. values: {(method, metric, column): value}; curves: {(missing, ratio): value}; parts: (N, J) what
    a sample's answer is worth, NaN where it isn't scored; weights: {column: (J,)} of the means over samples of the parts.
    """

    train: str
    method: str
    seed: int
    values: Mapping[tuple[str, str, str], float]
    curves: Mapping[tuple[str, float], float]
    parts: np.ndarray
    weights: Mapping[str, np.ndarray]


def boil_down(
    train: str,
    method: str,
    seed: int,
    predictions: Predictions,
    metrics: Sequence[str] | None,
    ratios: Sequence[float],
    also: tuple[Missing, float] | None,
) -> Cell:
    """also: what goes missing, and from which share of the samples, for a column of its own; None for none."""
    grid = Grid(
        predictions, 0, 0, 1, metrics
    )  # no draws; intervals are made over all seeds, not here
    rows = [(WORST, grid.worst())]
    for metric in grid.metrics:
        rows += [(row.left, row) for row in grid.subsets(metric)]
        if also:
            rows += [(named(*also), row) for row in grid.ratios(metric, [also[0]], [also[1]])]
    values = {}
    for column, row in rows:
        for name in {"ensemble": [method], "unimodal": [ALONE, AVERAGE], "average": [AVERAGE]}[
            row.model
        ]:
            values[name, row.metric, column] = row.value
    lesser = [joined(pattern) for pattern in patterns(grid.modalities)[1:]]
    for metric in grid.metrics if lesser else ():
        for name in (method, AVERAGE):
            values[name, metric.name, LESSER] = float(
                np.mean([values[name, metric.name, one] for one in lesser])
            )
    curve = grid.ratios(grid.metrics[0], settings(grid.modalities), ratios)
    curves = {(row.missing, row.ratio): row.value for row in curve if row.model == "ensemble"}
    return Cell(train, method, seed, values, curves, *_parts(predictions, lesser, also))


def columns(modalities: Sequence[str], also: tuple[Missing, float] | None) -> list[str]:
    """In the order of the table."""
    subsets = [joined(pattern) for pattern in patterns(modalities)]
    return [
        *subsets,
        *([LESSER] if len(subsets) > 1 else []),
        WORST,
        *([named(*also)] if also else []),
    ]


def named(missing: Missing, ratio: float) -> str:
    return f"{written(missing)} missing from {100 * ratio:g} %"


def scores(cells: Sequence[Cell]) -> list[Score]:
    """Mean and spread of everything that the cells have, over their seeds. What is the same for all methods (the uni-modal
    models) is counted once per seed."""
    found: dict[Key, dict[int, float]] = {}
    for cell in cells:
        for (method, metric, column), value in cell.values.items():
            found.setdefault(Key(cell.train, method, metric, column), {})[cell.seed] = value
    return [
        Score(*key, *_spread([*by_seed.values()]), len(by_seed)) for key, by_seed in found.items()
    ]


def points(cells: Sequence[Cell]) -> list[Point]:
    found: dict[tuple[str, str, str, float], list[float]] = {}
    for cell in cells:
        for at, value in cell.curves.items():
            found.setdefault((cell.train, cell.method, *at), []).append(value)
    return [Point(*key, *_spread(values)) for key, values in found.items()]


def differences(
    cells: Sequence[Cell],
    method: str,
    task: str,
    groups: Mapping[str, Sequence[str]],
    baseline: str | None = None,
) -> Iterator[Difference]:
    """Of `method` to each of the others, or to `baseline` alone, in each column, for every `train`; nothing where there are
    no others. groups: {grouping: N names}, samples of one name in any of them depend on each other.

    The metric is the mean over samples of what an answer is worth, paired by seed and sample; see `paired`. Nothing is chosen
    by these numbers.
    """
    numbered = {grouping: _numbers(names) for grouping, names in groups.items()}
    for train in dict.fromkeys(cell.train for cell in cells):
        methods: dict[str, dict[int, Cell]] = {}
        for cell in cells:
            if cell.train == train:
                methods.setdefault(cell.method, {})[cell.seed] = cell
        ours = methods.pop(method)
        weights = next(iter(ours.values())).weights
        others = methods if baseline is None else [baseline]
        rows: list[tuple[str, str, list[float]]] = []
        for name in others:
            apart = np.stack(
                [ours[seed].parts - methods[name][seed].parts for seed in sorted(ours)]
            )
            tested = np.stack(
                paired(*contributions(apart, np.stack([*weights.values()])), numbered), 1
            )
            rows += [
                (name, column, numbers.tolist())
                for column, numbers in zip(weights, tested, strict=True)
            ]
        adjusted = holm([numbers[-1] for *_, numbers in rows])
        metric = USUAL[task][0]
        for (name, column, numbers), p_holm in zip(rows, adjusted, strict=True):
            yield Difference._make((train, method, column, name, metric, *numbers, p_holm))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: below a level they have together at most that probability of one false alarm (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted.tolist()


def contributions(
    apart: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of (S, N, J) differences, paired by seed and sample, NaN where a part isn't scored, and (K, J) weights of columns: (S, K)
    the columns of each seed, NaN where nothing is scored; (S, N, K) what each sample adds to them beyond the mean; (N, K) its
    share in them.

    A column is linear in means. Around its expectation a mean, of a number of samples that is itself by chance, varies as the
    sum of the second does.
    """
    there = ~np.isnan(apart[0])
    share = there / np.maximum(there.sum(0), 1)
    means = np.nansum(apart * share, 1)  # (S, J)
    beyond = np.where(there, apart - means[:, None], 0.0) * share
    lost = (weights[:, ~there.any(0)] > 0).any(1)
    return np.where(lost, np.nan, means @ weights.T), beyond @ weights.T, share @ weights.T


def paired(
    values: np.ndarray,
    beyond: np.ndarray,
    share: np.ndarray,
    groups: Mapping[str, Sequence[Any] | np.ndarray],
) -> Tested:
    """Test the mean over S seeds of (S, K) differences against 0. beyond, share: as `contributions` gives them.

    Chance is in the seeds, in the samples, whose groups may cross, and in what each training answers on each sample. The
    variances over seeds and over samples both contain the third, so it is taken off once, as far as the seeds' is larger.
    p is the mean of two t-tests, two-sided, with the degrees of freedom of the seeds and of the smallest grouping,
    weighted by the two variances; the interval is of the differences that would have p > 0.05. With few seeds this is
    stricter than Satterthwaite's degrees of freedom, by which a variance over seeds that comes out too small passes for
    certainty; docs/compare.md has the simulations. With one seed there are only samples.
    """
    runs = len(values)
    difference = np.round(values.mean(0), 12)  # what cancels out leaves no rest
    mean = beyond.mean(0)
    clusters = list(_clusters(groups, share))
    by_sample = _clustered(mean[None], clusters)
    by_seed, by_both = np.zeros((2, *difference.shape))
    if runs > 1:
        by_seed = values.var(0, ddof=1) / runs
        by_both = _clustered(beyond - mean, clusters) / (runs * (runs - 1))
    variance = by_sample + np.maximum(by_seed - by_both, 0.0)
    least = np.min(
        [count for _, _, count in clusters], 0
    )  # of equal groups, in the smallest grouping
    variance = np.where(least < 1 + 1e-9, np.nan, variance)  # a single group says nothing of others
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.maximum(
            variance, (difference / least) ** 2
        )  # so few groups can't be surer than that
        seed_share = np.nan_to_num(by_seed / (by_seed + by_sample))
        error = np.sqrt(variance)
        t = np.where(error == 0, 0.0, np.abs(difference) / error)
    freedom = max(runs - 1, 1), np.maximum(least - 1, 1e-9)
    p = _two_sided(t, seed_share, *freedom)
    reach = _quantile(0.05, seed_share, *freedom) * error
    return Tested(
        difference,
        error,
        difference - reach,
        difference + reach,
        seed_share,
        np.where(np.isnan(p), 1.0, p),
    )


Clusters = Sequence[tuple[int, np.ndarray, np.ndarray]]


def _clusters(
    groups: Mapping[str, Sequence[Any] | np.ndarray], share: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Of every set of groupings: the sign of its variance in the sum of all, (N,) the number of the cluster that a sample is
    in, and how many clusters of equal size are worth as much as these, (K,). A grouping that has a single group is left
    out, unless all have; without groupings each sample is a group."""
    members = [_numbers(names) for names in groups.values()]
    members = (
        [member for member in members if member.any()] or members[:1] or [np.arange(len(share))]
    )
    for size in range(1, len(members) + 1):
        for chosen in combinations(members, size):
            cluster = chosen[0]
            for member in chosen[1:]:
                cluster = _numbers(cluster * (member.max() + 1) + member)
            with np.errstate(divide="ignore"):
                yield (-1) ** (size + 1), cluster, 1 / (_totals(share, cluster) ** 2).sum(0)


def _clustered(beyond: np.ndarray, clusters: Clusters) -> np.ndarray:
    """(K,): of (..., N, K), the variance of their sums over samples where those of one group, in any grouping, depend on each
    other, added up over the first axis (Cameron, Gelbach & Miller 2011). Never less than by one grouping alone."""
    with np.errstate(invalid="ignore", divide="ignore"):
        terms = [
            sign * (_totals(beyond, one) ** 2).sum((0, 1)) / (1 - 1 / count)
            for sign, one, count in clusters
        ]
    return np.maximum(np.sum(terms, 0), np.max(terms, 0))


def _totals(values: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """(..., clusters, K): the sums of (..., N, K) over the samples of each cluster."""
    order = np.argsort(cluster, kind="stable")
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    return np.add.reduceat(values[..., order, :], starts, axis=-2)


def _numbers(names: Sequence[Any] | np.ndarray) -> np.ndarray:
    """(N,): 0, 1, 2, ..., the same for equal names."""
    return np.unique(np.asarray(names), return_inverse=True)[1]


def _two_sided(t: np.ndarray, seed_share: np.ndarray, few: float, many: np.ndarray) -> np.ndarray:
    """The probability beyond t and -t: to a share of a t distribution with `few` degrees of freedom, else with `many`."""
    return 2 * (seed_share * stdtr(few, -t) + (1 - seed_share) * stdtr(many, -t))


def _quantile(p: float, seed_share: np.ndarray, few: float, many: np.ndarray) -> np.ndarray:
    """The t whose `_two_sided` is p, by halving."""
    low, high = np.zeros_like(seed_share), np.full_like(seed_share, 1e6)
    for _ in range(80):
        middle = (low + high) / 2
        over = _two_sided(middle, seed_share, few, many) > p
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return high


def _parts(
    predictions: Predictions, lesser: Sequence[str], also: tuple[Missing, float] | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The parts and weights of a Cell, a part per subset first."""
    complete = joined(predictions.modalities)
    parts = {
        subset: score(logits, predictions.target) for subset, logits in predictions.ensemble.items()
    }
    weights: dict[str, dict[str, float]] = {subset: {subset: 1.0} for subset in (complete, *lesser)}
    if lesser:
        weights[LESSER] = dict.fromkeys(lesser, 1 / len(lesser))
    worst = np.fmin.reduce([*parts.values()])
    if also:
        lefts = [joined({*predictions.modalities} - {*one}) for one in also[0]]
        where = np.logical_and.reduce([~np.isnan(parts[left]) for left in lefts])
        mixed = {complete: 1 - also[1]} | dict.fromkeys(lefts, also[1] / len(lefts))
        parts |= {f"also/{one}": np.where(where, parts[one], np.nan) for one in mixed}
    parts[WORST], weights[WORST] = worst, {WORST: 1.0}
    if also:
        weights[named(*also)] = {f"also/{one}": share for one, share in mixed.items()}
    table = {
        column: np.array([own.get(name, 0.0) for name in parts]) for column, own in weights.items()
    }
    return np.stack([*parts.values()], 1), table


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float(
        "nan"
    )

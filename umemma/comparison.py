"""From the predictions of many trained cells to one table: means over seeds, and whether a difference is more than chance.

A cell is one method, trained with one seed under one setting of what training misses. Cells are boiled down one by one,
as the predictions of all of them together may not fit into memory. A column is what a method is asked for: a modality
subset, the average of the lesser subsets, the worst case, a share of samples that lose something. Each column is a
weighted sum of means over samples, so that it can be resampled. No torch.

References: Efron & Tibshirani, An introduction to the bootstrap (1993), chapter 16, and Davison & Hinkley, Bootstrap methods
and their application (1997), chapters 3.8 and 4, for resampling on two levels and p-values with "+1"; Holm, A simple
sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979), which holds for dependent tests too; Dror et
al., The hitchhiker's guide to testing statistical significance in NLP, ACL 2018, for paired tests of trained models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from umemma.contracts import joined
from umemma.grid import Grid
from umemma.metrics import USUAL, Bootstrap, Stats, quantiles, score
from umemma.missing import Missing, patterns, settings, written
from umemma.predictions import Predictions
from umemma.seeds import derive

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
    """Of a method to the `baseline` that is best in the column: its mean, its 95 % interval, the two-sided p-value that it is
    0, and that value after Holm's adjustment for all columns of the same `train`."""

    train: str
    method: str
    column: str
    baseline: str
    metric: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


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
    grid = Grid(predictions, 0, 0, 1, metrics)  # no draws; intervals are made over all seeds, not here
    rows = [(WORST, grid.worst())]
    for metric in grid.metrics:
        rows += [(row.left, row) for row in grid.subsets(metric)]
        if also:
            rows += [(named(*also), row) for row in grid.ratios(metric, [also[0]], [also[1]])]
    values = {}
    for column, row in rows:
        for name in {"ensemble": [method], "unimodal": [ALONE, AVERAGE], "average": [AVERAGE]}[row.model]:
            values[name, row.metric, column] = row.value
    lesser = [joined(pattern) for pattern in patterns(grid.modalities)[1:]]
    for metric in grid.metrics if lesser else ():
        for name in (method, AVERAGE):
            values[name, metric.name, LESSER] = float(np.mean([values[name, metric.name, one] for one in lesser]))
    curve = grid.ratios(grid.metrics[0], settings(grid.modalities), ratios)
    curves = {(row.missing, row.ratio): row.value for row in curve if row.model == "ensemble"}
    return Cell(train, method, seed, values, curves, *_parts(predictions, lesser, also))


def columns(modalities: Sequence[str], also: tuple[Missing, float] | None) -> list[str]:
    """In the order of the table."""
    subsets = [joined(pattern) for pattern in patterns(modalities)]
    return [*subsets, *([LESSER] if len(subsets) > 1 else []), WORST, *([named(*also)] if also else [])]


def named(missing: Missing, ratio: float) -> str:
    return f"{written(missing)} missing from {100 * ratio:g} %"


def scores(cells: Sequence[Cell]) -> list[Score]:
    """Mean and spread of everything that the cells have, over their seeds. What is the same for all methods (the uni-modal
    models) is counted once per seed."""
    found: dict[Key, dict[int, float]] = {}
    for cell in cells:
        for (method, metric, column), value in cell.values.items():
            found.setdefault(Key(cell.train, method, metric, column), {})[cell.seed] = value
    return [Score(*key, *_spread([*by_seed.values()]), len(by_seed)) for key, by_seed in found.items()]


def points(cells: Sequence[Cell]) -> list[Point]:
    found: dict[tuple[str, str, str, float], list[float]] = {}
    for cell in cells:
        for at, value in cell.curves.items():
            found.setdefault((cell.train, cell.method, *at), []).append(value)
    return [Point(*key, *_spread(values)) for key, values in found.items()]


def differences(cells: Sequence[Cell], method: str, task: str, bootstrap: Bootstrap, seed: int) -> Iterator[Difference]:
    """Of `method` to the best of the others in each column, for every `train`; nothing where there are no others.

    The metric is the mean over samples of what an answer is worth. Each resample draws seeds, the same ones for both
    methods (one seed is always itself), and groups of samples; see `_differ`. The best of the baselines is chosen on
    these same numbers, which flatters it: the test is strict towards `method`.
    """
    for train in dict.fromkeys(cell.train for cell in cells):
        own: dict[str, dict[int, Cell]] = {}
        for cell in cells:
            if cell.train == train:
                own.setdefault(cell.method, {})[cell.seed] = cell
        ours = own.pop(method)
        if not own:
            continue
        weights = next(iter(ours.values())).weights
        table = np.stack([*weights.values()])  # (columns, J)
        means = {
            name: np.mean([np.nanmean(one.parts, 0) @ table.T for one in its.values()], 0) for name, its in own.items()
        }
        best = [max(means, key=lambda name: float(means[name][k])) for k in range(len(table))]
        found = []
        for k, name in enumerate(best):
            apart = np.stack([ours[s].parts - own[name][s].parts for s in sorted(ours)])
            found.append(_differ(apart, table[k], bootstrap, seed))
        adjusted = holm([p for *_, p in found])
        metric = USUAL[task][0]
        for column, name, numbers, p_holm in zip(weights, best, found, adjusted, strict=True):
            yield Difference(train, method, column, name, metric, *numbers, p_holm)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: below a level they have together at most that probability of one false alarm (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted.tolist()


def _differ(
    apart: np.ndarray, weights: np.ndarray, bootstrap: Bootstrap, seed: int
) -> tuple[float, float, float, float]:
    """Difference, low, high, p of (S, N, J) differences, paired by seed and sample, of a column with (J,) weights.

    Resampling S seeds finds only (S - 1) / S of their variance, so what seeds add is stretched by the root of S / (S - 1).
    p is twice the smaller share of resamples on one side of 0, with one more resample that is exactly there.
    """
    used = np.flatnonzero(weights)
    apart, weights = apart[:, :, used], weights[used]
    runs, n, parts = apart.shape
    there = ~np.isnan(apart[0])
    value = float(np.nanmean(apart, (0, 1)) @ weights)
    sums = _totals(np.nan_to_num(apart).transpose(1, 0, 2).reshape(n, -1), bootstrap).reshape(-1, runs, parts)
    counts = _totals(there.astype(np.float64), bootstrap)  # (times, J)
    times = len(sums)
    chance = np.random.default_rng(derive(seed, "bootstrap", "seeds"))
    share = chance.multinomial(runs, np.full(runs, 1 / runs), times) / runs  # (times, S)
    share = 1 / runs + (share - 1 / runs) * np.sqrt(runs / max(runs - 1, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (np.einsum("ts,tsj->tj", share, sums) / counts) @ weights
    drawn = drawn[np.isfinite(drawn)]
    below, above = (1 + (drawn <= 0).sum()) / (1 + len(drawn)), (1 + (drawn >= 0).sum()) / (1 + len(drawn))
    return value, *quantiles(drawn), float(min(1.0, 2 * min(below, above)))


def _totals(values: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """(times, K) sums of (N, K) values over each resample of the first grouping."""
    width = values.shape[1]
    return bootstrap.totals(Stats(np.arange(width), values, width), np.ones(len(values)))[0]


def _parts(
    predictions: Predictions, lesser: Sequence[str], also: tuple[Missing, float] | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The parts and weights of a Cell, a part per subset first."""
    complete = joined(predictions.modalities)
    parts = {subset: score(logits, predictions.target) for subset, logits in predictions.ensemble.items()}
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
    table = {column: np.array([own.get(name, 0.0) for name in parts]) for column, own in weights.items()}
    return np.stack([*parts.values()], 1), table


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")

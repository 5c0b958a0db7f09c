"""From the predictions of many experiments to one table: means over seeds, and tested differences.

An experiment is one method, trained with one seed under one setting of what training misses. Each
experiment is summarized by itself, as the predictions of all of them together may not fit into
memory. A column is a condition that methods are scored under: a modality subset, the average of the
lesser subsets, the worst case, or a share of the samples that lose something. Each column is a
weighted sum of means over samples; `paired_test` tests its differences. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np

from umemma.evaluation.grid import Grid
from umemma.evaluation.metrics import USUAL, score
from umemma.evaluation.paired_test import (
    adjust_holm,
    number_names,
    run_paired_test,
    sample_contributions,
)
from umemma.evaluation.predictions import Predictions
from umemma.missing import (
    Missing,
    format_missing,
    list_conditions,
    list_patterns,
    list_shown_patterns,
)
from umemma.types import ResultRow, format_pattern

# Rows of the table that are no presets. The average is a baseline that is tested like any preset.
ALONE = "uni-modal alone"
AVERAGE = "uni-modal average"
PRIOR = "class prior"
# Columns of the table that are no modality subsets.
WORST = "worst case"
LESSER = "lesser average"

ScoreKey: TypeAlias = tuple[str, str, str, str]  # train, method, metric, column
CurveKey: TypeAlias = tuple[str, str, str, float]  # train, method, missing, ratio


class AbsenceColumn(NamedTuple):
    """A column of its own: what goes missing, and from which share of the samples."""

    missing: Missing
    ratio: float

    @property
    def name(self) -> str:
        return f"{format_missing(self.missing)} missing from {100 * self.ratio:g} %"


class MethodScore(NamedTuple):
    """The mean and sample standard deviation over the seeds (NaN for one seed) of a method's score.

    method: a preset, `ALONE`, `AVERAGE` or `PRIOR`.
    """

    train: str
    method: str
    metric: str
    column: str
    mean: float
    std: float
    seeds: int


class MethodDifference(NamedTuple):
    """The difference of a method to a `baseline` in one column.

    difference: the mean over seeds; error: its standard error; low, high: its 95 % interval; p: the
    two-sided p-value that it is 0; p_holm: that value after Holm's adjustment for all columns and
    baselines of the same `train`. seed_share: how far p goes by the degrees of freedom of the
    seeds, 0 to 1. NaN where all samples are of one group.
    """

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


class CurvePoint(NamedTuple):
    """The mean and standard deviation of the first metric over the seeds.

    A share `ratio` of the samples loses `missing`.
    """

    train: str
    method: str
    missing: str
    ratio: float
    score: float
    std: float


@dataclass(frozen=True)
class ExperimentResult:
    """What is kept of an experiment.

    values: {(method, metric, column): value}; curves: {(missing, ratio): value}; parts: (N, J) the
    score of each sample in each part, NaN where it isn't scored; weights: {column: (J,)} of the
    means over samples of the parts.
    """

    train: str
    method: str
    seed: int
    values: Mapping[tuple[str, str, str], float]
    curves: Mapping[tuple[str, float], float]
    parts: np.ndarray
    weights: Mapping[str, np.ndarray]


def make_references(predictions: Predictions) -> dict[str, Predictions]:
    """Return the predictions of `AVERAGE` and `PRIOR`, which need no ensemble.

    They are the same for all presets of a seed. Without the shares of the classes there is no
    `PRIOR`, with one modality no `AVERAGE`.
    """
    references = {}
    if len(predictions.modalities) > 1:
        averages = {subset: predictions.average(subset) for subset in predictions.ensemble}
        references[AVERAGE] = _replace_ensemble(predictions, "average", averages)
    if predictions.has_prior:
        prior = predictions.class_prior()
        priors = {}
        for subset, logits in predictions.ensemble.items():
            priors[subset] = np.where(np.isnan(logits), np.nan, prior)
        references[PRIOR] = _replace_ensemble(predictions, "prior", priors)
    return references


def _replace_ensemble(
    predictions: Predictions, model: str, tables: dict[str, np.ndarray]
) -> Predictions:
    """Return predictions in which the `tables` of a reference, and its thresholds, are those of the
    ensemble."""
    thresholds = {}
    for subset in tables:
        found = predictions.thresholds_of(model, subset)
        if found:
            thresholds[f"ensemble/{subset}"] = found
    for name, found in predictions.thresholds.items():
        if not name.startswith("ensemble/"):
            thresholds[name] = found
    return replace(predictions, ensemble=tables, thresholds=thresholds)


def summarize_experiment(
    train: str,
    method: str,
    seed: int,
    predictions: Predictions,
    metrics: Sequence[str] | None,
    ratios: Sequence[float],
    extra: AbsenceColumn | None,
) -> ExperimentResult:
    """Return what the table needs of an experiment. extra: a further column; None for none."""
    # There are no draws; intervals are computed over all seeds, not here.
    grid = Grid(
        predictions,
        seed=0,
        draws=0,
        bootstrap=1,
        names=metrics,
    )
    values: dict[tuple[str, str, str], float] = {}
    for column, row in _list_columns_with_rows(grid, extra):
        if row.model == "ensemble":
            values[method, row.metric, column] = row.value
        elif row.model == "unimodal":
            values[ALONE, row.metric, column] = row.value
    patterns = list_patterns(grid.modalities)
    lesser = [format_pattern(pattern) for pattern in patterns[1:]]
    if lesser:
        for metric in grid.metrics:
            scores = [values[method, metric.name, subset] for subset in lesser]
            values[method, metric.name, LESSER] = float(np.mean(scores))
    conditions = list_conditions(grid.modalities)
    curves: dict[tuple[str, float], float] = {}
    for row in grid.ratios(
        grid.metrics[0],
        conditions,
        ratios,
    ):
        if row.model == "ensemble":
            curves[row.missing, row.ratio] = row.value
    parts, weights = _score_parts(predictions, lesser, extra)
    return ExperimentResult(train, method, seed, values, curves, parts, weights)


def list_columns(modalities: Sequence[str], extra: AbsenceColumn | None) -> list[str]:
    """Return the columns in the order of the table; of many modalities, not every subset."""
    columns = [format_pattern(pattern) for pattern in list_shown_patterns(modalities)]
    if len(columns) > 1:
        columns.append(LESSER)
    columns.append(WORST)
    if extra:
        columns.append(extra.name)
    return columns


def summarize_scores(results: Sequence[ExperimentResult]) -> list[MethodScore]:
    """Return mean and standard deviation over the seeds of every score.

    What is the same for all methods (the uni-modal models) is counted once per seed.
    """
    by_seed: dict[ScoreKey, dict[int, float]] = {}
    for result in results:
        for (method, metric, column), value in result.values.items():
            key = (result.train, method, metric, column)
            by_seed.setdefault(key, {})[result.seed] = value
    scores = []
    for key, values in by_seed.items():
        mean, std = _mean_and_std(list(values.values()))
        scores.append(
            MethodScore(
                *key,
                mean,
                std,
                len(values),
            )
        )
    return scores


def summarize_folds(results: Mapping[int, Sequence[ExperimentResult]]) -> list[MethodScore]:
    """Return mean and standard deviation over the folds of every score.

    results: {fold: those of its experiments}. The score of a fold is its mean over seeds; `seeds`
    of a MethodScore counts the folds.
    """
    by_fold: dict[ScoreKey, list[float]] = {}
    for own_results in results.values():
        for score_of_fold in summarize_scores(own_results):
            key = score_of_fold[:4]
            by_fold.setdefault(key, []).append(score_of_fold.mean)
    scores = []
    for key, values in by_fold.items():
        mean, std = _mean_and_std(values)
        scores.append(MethodScore(*key, mean, std, len(values)))
    return scores


def curve_points(results: Sequence[ExperimentResult]) -> list[CurvePoint]:
    """Return mean and standard deviation over the seeds of every point of the curves."""
    values: dict[CurveKey, list[float]] = {}
    for result in results:
        for (missing, ratio), value in result.curves.items():
            key = (result.train, result.method, missing, ratio)
            values.setdefault(key, []).append(value)
    points = []
    for key, own_values in values.items():
        mean, std = _mean_and_std(own_values)
        points.append(CurvePoint(*key, mean, std))
    return points


def compare_methods(
    results: Sequence[ExperimentResult],
    method: str,
    task: str,
    groups: Mapping[str, Sequence[str]],
    baseline: str | None = None,
    inflation: float = 1.0,
) -> Iterator[MethodDifference]:
    """Yield the difference of `method` to each other method, in each column, for every `train`.

    With a `baseline` it is compared with that one alone; where there are no others nothing is
    yielded. A difference to `PRIOR` says nothing of a method, so it isn't tested. groups:
    {grouping: N names}; samples of one name in any of them depend on each other. inflation: see
    `run_paired_test`.

    The metric is the mean over samples of `metrics.score`, paired by seed and sample; see
    `run_paired_test`. Nothing is chosen by these numbers.
    """
    numbered = {grouping: number_names(names) for grouping, names in groups.items()}
    metric = USUAL[task][0]
    for train in dict.fromkeys(result.train for result in results):
        methods: dict[str, dict[int, ExperimentResult]] = {}
        for result in results:
            if result.train == train:
                methods.setdefault(result.method, {})[result.seed] = result
        ours = methods.pop(method)
        others = [name for name in methods if name != PRIOR]
        if baseline is not None:
            others = [baseline]
        tests: list[tuple[str, str, list[float]]] = []
        for name in others:
            for column, numbers in _test_columns(ours, methods[name], numbered, inflation):
                tests.append((name, column, numbers))
        adjusted = adjust_holm([numbers[-1] for _, _, numbers in tests])
        for (name, column, numbers), p_holm in zip(
            tests,
            adjusted,
            strict=True,
        ):
            fields = (train, method, column, name, metric, *numbers, p_holm)
            yield MethodDifference._make(fields)


def _test_columns(
    ours: Mapping[int, ExperimentResult],
    theirs: Mapping[int, ExperimentResult],
    groups: Mapping[str, np.ndarray],
    inflation: float,
) -> Iterator[tuple[str, list[float]]]:
    """Yield each column with the numbers of its `PairedTest`. ours, theirs: {seed: result}."""
    weights = next(iter(ours.values())).weights
    apart = np.stack([ours[seed].parts - theirs[seed].parts for seed in sorted(ours)])
    contributions = sample_contributions(apart, np.stack(list(weights.values())))
    test = run_paired_test(*contributions, groups, inflation)
    by_column = np.stack(test, 1)
    for column, numbers in zip(weights, by_column, strict=True):
        yield column, numbers.tolist()


def _list_columns_with_rows(
    grid: Grid, extra: AbsenceColumn | None
) -> Iterator[tuple[str, ResultRow]]:
    yield WORST, grid.worst()
    for metric in grid.metrics:
        for row in grid.subsets(metric):
            yield row.left, row
        if extra:
            for row in grid.ratios(
                metric,
                [extra.missing],
                [extra.ratio],
            ):
                yield extra.name, row


def _score_parts(
    predictions: Predictions, lesser: Sequence[str], extra: AbsenceColumn | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the parts and weights of an `ExperimentResult`: first a part per subset."""
    complete = format_pattern(predictions.modalities)
    parts: dict[str, np.ndarray] = {}
    for subset in predictions.ensemble:
        parts[subset] = score(predictions.decide("ensemble", subset), predictions.target)
    worst = np.fmin.reduce(list(parts.values()))
    weights = {subset: {subset: 1.0} for subset in (complete, *lesser)}
    if lesser:
        weights[LESSER] = dict.fromkeys(lesser, 1 / len(lesser))
    weights[WORST] = {WORST: 1.0}
    if extra:
        weights[extra.name] = {}
        for subset, weight in _weigh_absence(predictions.modalities, extra).items():
            weights[extra.name][f"also/{subset}"] = weight
        parts |= _score_absence(predictions, parts, extra)
    parts[WORST] = worst
    table = {}
    for column, by_part in weights.items():
        table[column] = np.array([by_part.get(name, 0.0) for name in parts])
    return np.stack(list(parts.values()), 1), table


def _weigh_absence(modalities: Sequence[str], extra: AbsenceColumn) -> dict[str, float]:
    """Return {subset: weight} of the complete set and of what the absences of a column leave."""
    lefts = _subsets_left(modalities, extra)
    weights = {format_pattern(modalities): 1 - extra.ratio}
    return weights | dict.fromkeys(lefts, extra.ratio / len(lefts))


def _score_absence(
    predictions: Predictions, parts: Mapping[str, np.ndarray], extra: AbsenceColumn
) -> dict[str, np.ndarray]:
    """Return the parts of a column of its own, over the samples that all its absences leave."""
    lefts = _subsets_left(predictions.modalities, extra)
    scored = np.logical_and.reduce([~np.isnan(parts[left]) for left in lefts])
    own_parts = {}
    for subset in _weigh_absence(predictions.modalities, extra):
        own_parts[f"also/{subset}"] = np.where(scored, parts[subset], np.nan)
    return own_parts


def _subsets_left(modalities: Sequence[str], extra: AbsenceColumn) -> list[str]:
    return [format_pattern({*modalities} - {*taken}) for taken in extra.missing]


def _mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation; unlike in results.py it is NaN for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    return mean, float(np.std(values, ddof=1))

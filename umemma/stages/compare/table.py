"""The table of a comparison, from its experiments' predictions -> results/<dataset>/compare/."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from umemma.config import Params
from umemma.data import shard_reader
from umemma.data.shard_reader import Index
from umemma.errors import UserError
from umemma.evaluation import comparison, experiments
from umemma.evaluation.comparison import PRIOR, AbsenceColumn, ExperimentResult
from umemma.evaluation.experiments import Experiment, ExperimentMarker
from umemma.evaluation.metrics import Metric, select_metrics
from umemma.evaluation.paired_test import FOLD, inflate_for_folds
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.tables.folds import pool_folds
from umemma.missing import parse_missing
from umemma.reports.comparison.files import write
from umemma.reports.comparison.report import ComparisonReport, ComparisonSetup
from umemma.system.storage import Store

NAMED = 5  # incomplete experiments that a message names


def run(params: Params) -> ComparisonReport:
    """Write the table. UserError where an experiment is incomplete: a table with holes misleads."""
    experiments.plan_experiments(params)  # which checks the settings first
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    folds = experiments.select_folds(params, [fold.number for fold in index.folds])
    plan = experiments.plan_experiments(params, folds)
    metrics = select_metrics(params.evaluate.metrics, index.task, len(index.classes))
    markers = _read_markers(params, plan, index)
    summaries = _summarize(params, plan, metrics, folds)
    inflation = _inflate(params, index, folds)
    method = experiments.compared_method(params)
    differences = comparison.compare_methods(
        summaries.results,
        method,
        index.task,
        summaries.groups,
        params.compare.baseline,
        inflation,
    )
    columns = {}
    for train in params.compare.train:
        extra = _training_column(params, train)
        columns[train] = comparison.list_columns(sorted(params.modalities), extra)
    rates = _list_rates(params, markers)
    setup = ComparisonSetup(
        dataset=params.name,
        variant=index.variant,
        split=params.evaluate.split,
        samples=summaries.samples,
        absent=params.finetune.absent,
        calibrated=params.evaluate.calibrate,
    )
    report = ComparisonReport(
        setup,
        metrics,
        method,
        seeds=list(params.compare.seeds),
        columns=columns,
        scores=comparison.summarize_scores(summaries.results),
        points=comparison.curve_points(summaries.results),
        differences=list(differences),
        rates=rates,
        folds=[fold for fold in folds if fold is not None],
        fold_scores=comparison.summarize_folds(summaries.by_fold),
        inflation=inflation,
    )
    write(params.paths.results / "compare", report)
    return report


class _Summaries(NamedTuple):
    """results: of each experiment, of all folds together; groups, samples: of the split that all of
    them are scored on; by_fold: {fold: results}, empty without folds.
    """

    results: list[ExperimentResult]
    groups: dict[str, list[str]]
    samples: int
    by_fold: dict[int, list[ExperimentResult]]


def _read_markers(
    params: Params, plan: list[Experiment], index: Index
) -> dict[Experiment, ExperimentMarker]:
    markers = {}
    incomplete = []
    for experiment in plan:
        marker = experiments.read_marker(
            params, experiment, index.select_fold(experiment.fold).fingerprint
        )
        if marker is None:
            incomplete.append(str(experiment))
        else:
            markers[experiment] = marker
    if incomplete:
        names = incomplete[:NAMED]
        if len(incomplete) > NAMED:
            names.append("and others")
        problem = (
            f"{len(incomplete)} of {len(plan)} experiments aren't complete with these settings: "
            f"{'; '.join(names)}"
        )
        raise UserError(problem, "compare", "Run: umemma compare")
    return markers


def _list_rates(
    params: Params, markers: Mapping[Experiment, ExperimentMarker]
) -> dict[Experiment, float]:
    """Return the chosen learning rates. A uni-modal model has pretrain/<modality> as its preset."""
    rates = {}
    for experiment in markers:
        paths = experiments.experiment_params(params, experiment).paths
        for m in params.modalities:
            rate = experiments.best_rate(experiments.read_rates(params, paths.pretrain(m)))
            if rate is not None:
                rates[experiment._replace(preset=f"pretrain/{m}")] = rate
    for experiment, marker in markers.items():
        if marker.learning_rate is not None:
            rates[experiment] = marker.learning_rate
    return rates


def _inflate(params: Params, index: Index, folds: Sequence[int | None]) -> float:
    """Return the inflation of the variance over folds, see `paired_test.inflate_for_folds`."""
    views = [index.select_fold(fold) for fold in folds if fold is not None]
    train = [view.samples("train") for view in views]
    test = [view.samples(params.evaluate.split) for view in views]
    return inflate_for_folds(train, test)


def _summarize(
    params: Params,
    plan: list[Experiment],
    metrics: list[Metric],
    folds: Sequence[int | None],
) -> _Summaries:
    """One experiment after another, as the predictions of all of them may not fit into memory."""
    summaries = _Summaries([], {}, 0, {fold: [] for fold in folds if fold is not None})
    references: set[tuple[str, int]] = set()
    for experiment in dict.fromkeys(one._replace(fold=None) for one in plan):
        by_fold = []
        for fold in folds:
            predictions = experiments.load_predictions(params, experiment._replace(fold=fold))
            by_fold.append(predictions)
        pooled = pool_folds(by_fold)
        with_references = (experiment.train, experiment.seed) not in references
        references.add((experiment.train, experiment.seed))
        summarize = functools.partial(
            _summarize_methods, params, experiment, metrics, with_references
        )
        summaries.results.extend(summarize(pooled, params.evaluate.ratios))
        for number, predictions in zip(folds, by_fold, strict=True):
            if number is not None:
                summaries.by_fold[number].extend(summarize(predictions, ()))
        groups = dict(pooled.groups)
        if len(folds) > 1:
            sizes = [len(predictions.keys) for predictions in by_fold]
            groups[FOLD] = np.repeat([str(fold) for fold in folds], sizes).tolist()
        summaries = summaries._replace(groups=groups, samples=len(pooled.keys))
    return summaries


def _summarize_methods(
    params: Params,
    experiment: Experiment,
    metrics: list[Metric],
    with_references: bool,
    predictions: Predictions,
    ratios: Sequence[float],
) -> Iterator[ExperimentResult]:
    """Yield the result of an experiment, and of what needs no ensemble if it is asked for."""
    methods = {experiment.preset: predictions}
    if with_references:
        methods |= comparison.make_references(predictions)
    for method, own_predictions in methods.items():
        own_ratios = ratios
        if method == PRIOR:  # its curve is a flat line far below the others
            own_ratios = ()
        yield comparison.summarize_experiment(
            experiment.train,
            method,
            experiment.seed,
            own_predictions,
            [metric.name for metric in metrics],
            own_ratios,
            _training_column(params, experiment.train),
        )


def _training_column(params: Params, train: str) -> AbsenceColumn | None:
    """Return a column for what training misses, scored at the same ratio.

    None where training misses several things or none, or where nothing would be left.
    """
    absences = experiments.training_absences(train, params)
    if len(absences) != 1:
        return None
    ((text, ratio),) = absences.items()
    try:
        missing = parse_missing(text, sorted(params.modalities), "compare.train")
    except UserError:
        return None
    return AbsenceColumn(missing, ratio)

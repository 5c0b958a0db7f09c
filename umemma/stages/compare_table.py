"""The table of a comparison, from its experiments' predictions -> results/<dataset>/compare/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from umemma.config import Params
from umemma.data import shard_reader
from umemma.data.shard_reader import Index
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.evaluation import comparison, experiments
from umemma.evaluation.comparison import PRIOR, AbsenceColumn, ExperimentResult
from umemma.evaluation.experiments import Experiment, ExperimentMarker
from umemma.evaluation.metrics import Metric, select_metrics
from umemma.missing import parse_missing
from umemma.reports.comparison import ComparisonReport, ComparisonSetup
from umemma.reports.comparison_files import write

NAMED = 5  # incomplete experiments that a message names


def run(params: Params) -> ComparisonReport:
    """Write the table. UserError where an experiment is incomplete: a table with holes misleads."""
    plan = experiments.plan_experiments(params)
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    metrics = select_metrics(params.evaluate.metrics, index.task, len(index.classes))
    markers = _read_markers(params, plan, index)
    summaries = _summarize(params, plan, metrics)
    method = experiments.compared_method(params)
    differences = comparison.compare_methods(
        summaries.results,
        method,
        index.task,
        summaries.groups,
        params.compare.baseline,
    )
    columns = {}
    for train in params.compare.train:
        extra = _training_column(params, train)
        columns[train] = comparison.list_columns(sorted(params.modalities), extra)
    rates = _list_rates(params, markers)
    setup = ComparisonSetup(
        dataset=params.dataset,
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
    )
    write(params.paths.results / "compare", report)
    return report


class _Summaries(NamedTuple):
    """results: of each experiment; groups, samples: of the split that all of them are scored on."""

    results: list[ExperimentResult]
    groups: dict[str, list[str]]
    samples: int


def _read_markers(
    params: Params, plan: list[Experiment], index: Index
) -> dict[Experiment, ExperimentMarker]:
    markers = {}
    incomplete = []
    for experiment in plan:
        marker = experiments.read_marker(params, experiment, index.fingerprint)
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


def _summarize(params: Params, plan: list[Experiment], metrics: list[Metric]) -> _Summaries:
    """One experiment after another, as the predictions of all of them may not fit into memory."""
    results = []
    summarized: set[tuple[str, int]] = set()
    groups: dict[str, list[str]] = {}
    samples = 0
    for experiment in plan:
        predictions = experiments.load_predictions(params, experiment)
        groups = predictions.groups
        samples = len(predictions.keys)
        methods = {experiment.preset: predictions}
        if (experiment.train, experiment.seed) not in summarized:
            methods |= comparison.make_references(predictions)
        summarized.add((experiment.train, experiment.seed))
        for method, own_predictions in methods.items():
            ratios = params.evaluate.ratios
            if method == PRIOR:  # its curve is a flat line far below the others
                ratios = ()
            result = comparison.summarize_experiment(
                experiment.train,
                method,
                experiment.seed,
                own_predictions,
                [metric.name for metric in metrics],
                ratios,
                _training_column(params, experiment.train),
            )
            results.append(result)
    return _Summaries(results, groups, samples)


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

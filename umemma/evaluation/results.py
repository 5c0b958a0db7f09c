"""The outcome of an evaluation, and the numbers that tables, pages and machines share. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from umemma.evaluation import information
from umemma.evaluation.attribution.additions import measure_evenness
from umemma.evaluation.attribution.right_answers import select_overall
from umemma.evaluation.grid import Grid
from umemma.evaluation.information_report import Information
from umemma.evaluation.metrics import USUAL, Metric, get
from umemma.missing import list_conditions, list_shown_patterns
from umemma.system.files import replace_nan
from umemma.types import ResultRow, format_pattern

# Figures show the complete set and at most this many others: first each set that lacks one
# modality, then those with the lowest values.
MAX_CURVES = 6
NO_FOLDS: Mapping[str, Mapping[int, float]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What the numbers of an evaluation belong to.

    preset, init, mma, train and balance are those of `finetune`; absent: its rule for an absent
    modality, the name of the fusion if that is not `mean`. metric: the name of the metric that
    leads; samples: the number in the split; train_missing: {missing set: ratio} of training;
    calibrated: whether logits are calibrated before they are scored; folds: those whose test
    samples are scored, empty where the data has none; source: the table of an audit, whose model
    was trained elsewhere, so that the fields about training are "".
    """

    preset: str = ""
    init: str = ""
    mma: str = ""
    train: str = ""
    balance: str = ""
    absent: str = ""
    dataset: str
    variant: str = ""
    metric: str
    split: str = ""
    samples: int
    seed: int
    train_missing: Mapping[str, float] = field(default_factory=dict)
    calibrated: bool = False
    folds: tuple[int, ...] = ()
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as they stand in metrics.json."""
        fields = asdict(self)
        if self.source:
            known = ("source", "metric", "samples", "seed")
            return {name: fields[name] for name in known}
        del fields["source"]
        if not self.folds:
            del fields["folds"]
        return fields


class SizeSummary(NamedTuple):
    """The leading metric over all subsets of one size.

    size: how many modalities are present; subsets: how many such subsets there are.
    """

    size: int
    subsets: int
    mean: float
    lowest: ResultRow
    highest: ResultRow


def _summarize_size(size: int, rows: Sequence[ResultRow]) -> SizeSummary:
    values = [row.value for row in rows]
    lowest = min(rows, key=lambda row: row.value)
    highest = max(rows, key=lambda row: row.value)
    return SizeSummary(size, len(rows), float(np.mean(values)), lowest, highest)


@dataclass(frozen=True)
class Outcome:
    """The outcome of an evaluation.

    subsets: a row per metric, modality subset and model, and the worst case; ratios: a row per
    metric, missing set, ratio and draw; metrics: the first leads the tables; information: None
    where it was not computed; folds: {modalities present: {fold: the leading metric of the
    ensemble}} where several folds are scored together.
    """

    subsets: list[ResultRow]
    ratios: list[ResultRow]
    metrics: list[Metric]
    settings: EvaluationSettings
    information: Information | None = None
    folds: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The dataset with its variant, the split and the method."""
        settings = self.settings
        if settings.source:
            return settings.source
        dataset = settings.dataset
        if settings.variant:
            dataset = f"{dataset} ({settings.variant})"
        split = settings.split
        if len(settings.folds) == 1:
            split += f" (fold {settings.folds[0]})"
        elif settings.folds:
            split += f" ({len(settings.folds)} folds together)"
        return f"{dataset} {split}, {settings.preset}"

    @property
    def trained(self) -> str:
        """How many trainings the numbers come from, or the table of an audit."""
        if self.settings.source:
            return f"the answers in {self.settings.source}"
        trainings = "one training"
        if len(self.settings.folds) > 1:
            trainings = f"{len(self.settings.folds)} trainings, one for each fold"
        return f"{trainings}, seed {self.settings.seed}"

    @property
    def worst(self) -> ResultRow:
        """The worst case: each sample is scored under the subset that is worst for it."""
        return next(row for row in self.subsets if row.missing == "any")

    @property
    def complete(self) -> ResultRow:
        """The leading metric of the ensemble with all modalities present."""
        complete, *_ = self.lead().values()
        return complete

    def lead(self, model: str = "ensemble") -> dict[str, ResultRow]:
        """Return {modalities present: row} of the leading metric; the complete set is first."""
        metric = self.metrics[0].name
        rows = {}
        for row in self.subsets:
            if row.model == model and row.metric == metric and row.missing != "any":
                rows[row.left] = row
        return rows

    def listed(self) -> dict[str, ResultRow]:
        """Return {modalities present: row} of the subsets that tables have room for, as `lead`."""
        rows = self.lead()
        complete, *_ = rows
        shown = list_shown_patterns(complete.split("+"))
        return {left: rows[left] for left in map(format_pattern, shown)}

    def sizes(self) -> list[SizeSummary]:
        """Return a summary per number of modalities present, where not all subsets are listed."""
        rows = self.lead()
        if len(rows) == len(self.listed()):
            return []
        by_size: dict[int, list[ResultRow]] = {}
        for left, row in rows.items():
            by_size.setdefault(len(left.split("+")), []).append(row)
        return [_summarize_size(size, rows_of_size) for size, rows_of_size in by_size.items()]

    def unimodal_values(self) -> dict[str, float]:
        """Return {modality: value} of the uni-modal models, in the leading metric."""
        return {modality: row.value for modality, row in self.lead("unimodal").items()}

    def curves(self, model: str = "ensemble") -> dict[str, list[ResultRow]]:
        """Return {missing set: its expectation at every ratio} of the leading metric."""
        metric = self.metrics[0].name
        curves: dict[str, list[ResultRow]] = {}
        for row in self.ratios:
            if row.model == model and row.metric == metric and row.draw < 0:
                curves.setdefault(row.missing, []).append(row)
        for rows in curves.values():
            rows.sort(key=lambda row: row.ratio)
        return curves

    @property
    def shown(self) -> list[str]:
        """The subsets that figures have room for: the complete one, then `MAX_CURVES` others."""
        rows = self.lead()
        subsets = sorted(rows, key=lambda left: _rank_row(rows[left]))
        return subsets[: 1 + MAX_CURVES]


def select_shown_sets(curves: Mapping[str, Sequence[ResultRow]]) -> list[str]:
    """Return the missing sets that figures have room for.

    Alternatives ("a|b") come first, then single modalities, then the sets with the lowest values.
    """

    def rank(missing: str) -> tuple[bool, int, float]:
        return ("|" not in missing, *_rank_row(curves[missing][-1]))

    return sorted(curves, key=rank)[:MAX_CURVES]


def _rank_row(row: ResultRow) -> tuple[int, float]:
    """Rank a subset among those shown: by the number missing (2 or more are alike), then value."""
    if not row.missing:
        return 0, 0.0
    if "+" not in row.missing:
        return 1, 0.0
    return 2, row.value


def find_lowest_subset(outcome: Outcome) -> ResultRow | None:
    """Return the incomplete subset with the lowest value; None if there is one modality."""
    _, *incomplete = outcome.lead().values()
    return min(incomplete, key=lambda row: row.value, default=None)


def find_best_model(outcome: Outcome, left: str) -> ResultRow:
    """Return the row of the best uni-modal model of the modalities that are left.

    It is the model that the row "gap" of this subset compares with. There has to be one.
    """
    models = outcome.lead("unimodal")
    rows = [models[modality] for modality in left.split("+")]
    scored = [row for row in rows if not math.isnan(row.value)]
    return max(scored or rows, key=lambda row: row.value)


def summarize(outcome: Outcome) -> dict[str, Any]:
    """Return what metrics.json holds besides the settings.

    {metric, say "accuracy": {subset: value}, "unimodal", "average" and "prior":
    {modalities: value},
    "gap_to_ceiling": {modality: difference}, "gaps": {subset: the difference with its interval},
    "worst_case": its value with its interval, "hurts_most": the subset with the lowest value,
    "information": {subset: bits}, "contributions": {modality: the bits that it adds, with their
    interval}, "evenness": of these}.
    """
    summary: dict[str, Any] = {}
    for row in outcome.subsets:
        if row.model == "ensemble" and row.missing != "any":
            summary.setdefault(row.metric, {})[row.left] = row.value
    for model in ("unimodal", "average", "prior"):
        summary[model] = {left: row.value for left, row in outcome.lead(model).items()}
    values = summary[outcome.complete.metric]
    summary["gap_to_ceiling"] = {}
    for modality, value in summary["unimodal"].items():
        summary["gap_to_ceiling"][modality] = values[modality] - value
    summary["gaps"] = {}
    for left, row in outcome.lead("gap").items():
        summary["gaps"][left] = _with_interval(row)
    summary["worst_case"] = _with_interval(outcome.worst)
    summary["hurts_most"] = ""
    lowest = find_lowest_subset(outcome)
    if lowest:
        summary["hurts_most"] = lowest.left
    if outcome.information:
        told = {}
        for bound in outcome.information.bounds:
            if bound.model == "ensemble":
                told[bound.modalities] = bound.bits
        told["entropy"] = outcome.information.entropy_bits
        summary["information"] = told
        summary["contributions"] = {}
        for part in select_overall(outcome.information.contributions):
            interval = {"value": part.bits, "low": part.low, "high": part.high}
            summary["contributions"][part.modality] = interval
        bits = [part["value"] for part in summary["contributions"].values()]
        summary["evenness"] = measure_evenness(bits)
    if outcome.folds:
        summary["by_fold"] = {}
        for left, by_fold in outcome.folds.items():
            summary["by_fold"][left] = {str(fold): value for fold, value in by_fold.items()}
    return summary


def measure_outcome(
    grid: Grid,
    settings: EvaluationSettings,
    ratios: Sequence[float],
    smallest: float,
    folds: Mapping[str, Mapping[int, float]] = NO_FOLDS,
) -> Outcome:
    """Return the outcome of everything that can go missing, at every ratio.

    smallest: the smallest difference that advice is given on; folds: as in `Outcome`.
    """
    subset_rows, ratio_rows = grid.rows(list_conditions(grid.modalities), ratios)
    report = information.estimate_information(
        grid.predictions, grid.bootstrap, grid.metrics[0], smallest, is_ours=not settings.source
    )
    return Outcome(subset_rows, ratio_rows, grid.metrics, settings, report, folds)


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for machines.

    It has the numbers of metrics.json, and in `results` an entry per metric, missing set and ratio.
    """
    complete = {}
    unimodal: dict[str, dict[str, float]] = {metric.name: {} for metric in outcome.metrics}
    for row in outcome.subsets:
        if row.model == "ensemble" and not row.missing:
            complete[row.metric] = row.value
        if row.model == "unimodal":
            unimodal[row.metric][row.left] = row.value
    higher = {metric.name: metric.higher for metric in outcome.metrics}
    results = []
    for row, draws in group_by_condition(outcome.ratios):
        mean, std = mean_and_std([draw.value for draw in draws])
        ceiling = find_ceiling(row.left, unimodal[row.metric], higher[row.metric])
        entry = {
            "missing": row.missing,
            "left": row.left,
            "ratio": row.ratio,
            "metric": row.metric,
            "value": row.value,
            "low": row.low,
            "high": row.high,
            "samples": row.n,
            "refused": row.refused,
            "complete": complete[row.metric],
            "unimodal_ceiling": ceiling,
            "draws": {"mean": mean, "std": std, "count": len(draws)},
        }
        results.append(entry)
    answer = {**summarize(outcome), **outcome.settings.to_dict(), "results": results}
    return dict(replace_nan(answer))


def _with_interval(row: ResultRow) -> dict[str, float]:
    return {"value": row.value, "low": row.low, "high": row.high}


def find_ceiling(left: str, unimodal: Mapping[str, float], higher: bool = True) -> float:
    """Return the value of the best uni-modal model of the modalities that are left.

    Of alternatives ("a|b") it is the mean. higher: whether a higher value is better. NaN without
    uni-modal models.
    """
    if not unimodal:
        return math.nan
    best = min
    if higher:
        best = max
    ceilings = []
    for subset in left.split("|"):
        ceilings.append(best(unimodal[modality] for modality in subset.split("+")))
    return sum(ceilings) / len(ceilings)


def name_worst_case(outcome: Outcome) -> str:
    """Return the metric of the worst case, in words; it may differ from the leading metric."""
    name = outcome.worst.metric
    tasks = [task for task, usual in USUAL.items() if usual[0] == name]
    return get(name, tasks[0], 0).label


def list_fold_rows(outcome: Outcome, subsets: Sequence[str]) -> Iterator[tuple[str, list[float]]]:
    """Yield (name, the leading metric of the subsets): all folds together, their mean, their
    standard deviation, then each fold."""
    by_subset = {left: outcome.folds[left] for left in subsets}
    pooled = outcome.lead()
    yield "together", [pooled[left].value for left in by_subset]
    spread = [mean_and_std(list(by_fold.values())) for by_fold in by_subset.values()]
    yield "mean", [mean for mean, _ in spread]
    yield "std", [std for _, std in spread]
    for fold in outcome.settings.folds:
        yield str(fold), [by_fold[fold] for by_fold in by_subset.values()]


def group_by_condition(rows: Sequence[ResultRow]) -> list[tuple[ResultRow, list[ResultRow]]]:
    """Return the expectation of each (metric, missing set, ratio) with its seeded draws."""
    draws: dict[tuple[str, str, float], list[ResultRow]] = {}
    for row in rows:
        if row.draw >= 0:
            draws.setdefault(_condition(row), []).append(row)
    groups = []
    for row in rows:
        if row.draw < 0 and row.model == "ensemble":
            groups.append((row, draws.get(_condition(row), [])))
    return groups


def _condition(row: ResultRow) -> tuple[str, str, float]:
    return row.metric, row.missing, row.ratio


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (0 for fewer than two values)."""
    if not values:
        return 0.0, 0.0
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return mean, variance**0.5

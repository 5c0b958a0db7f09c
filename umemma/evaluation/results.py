"""What an evaluation found, and the numbers that tables, pages and machines share. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from umemma.evaluation.information_report import Information
from umemma.evaluation.metrics import USUAL, Metric, get
from umemma.types import ResultRow

CURVES = 6  # beside the complete set: each modality alone missing, then the sets that hurt most


@dataclass(frozen=True)
class Outcome:
    """subsets: a row per metric, modality subset and model, and the worst case; ratios: per metric, what goes missing, ratio
    and draw; metrics: the first leads; about: settings; information: where it was asked for."""

    subsets: list[ResultRow]
    ratios: list[ResultRow]
    metrics: list[Metric]
    about: dict[str, Any]
    information: Information | None = None

    @property
    def title(self) -> str:
        """The dataset with its variant, the split, the method."""
        variant = f" ({self.about['variant']})" if self.about["variant"] else ""
        return f"{self.about['dataset']}{variant} {self.about['split']}, {self.about['preset']}"

    @property
    def trained(self) -> str:
        """How many trainings the numbers are of."""
        return f"one training, seed {self.about['seed']}"

    @property
    def worst(self) -> ResultRow:
        """The worst of all subsets, sample by sample."""
        return next(row for row in self.subsets if row.missing == "any")

    def lead(self, model: str = "ensemble") -> dict[str, ResultRow]:
        """{modalities that are left: row} of the leading metric."""
        name = self.metrics[0].name
        return {
            r.left: r
            for r in self.subsets
            if (r.model, r.metric) == (model, name) and r.missing != "any"
        }

    def curves(self, model: str = "ensemble") -> dict[str, list[ResultRow]]:
        """{what goes missing: its expectation by ratio} of the leading metric."""
        found: dict[str, list[ResultRow]] = {}
        for row in self.ratios:
            if (row.model, row.metric) == (model, self.metrics[0].name) and row.draw < 0:
                found.setdefault(row.missing, []).append(row)
        return {missing: sorted(rows, key=lambda row: row.ratio) for missing, rows in found.items()}

    @property
    def shown(self) -> list[str]:
        """The subsets that figures have room for: the complete one, then `CURVES` lesser ones."""
        rows = self.lead()
        return sorted(rows, key=lambda left: _rank(rows[left]))[: 1 + CURVES]


def select_shown_sets(curves: Mapping[str, Sequence[ResultRow]]) -> list[str]:
    """The missing sets that figures have room for: one of all first, then likewise."""
    return sorted(curves, key=lambda missing: ("|" not in missing, *_rank(curves[missing][-1])))[
        :CURVES
    ]


def _rank(row: ResultRow) -> tuple[int, float]:
    size = len(row.missing.split("+")) if row.missing else 0
    return min(size, 2), row.value if size > 1 else 0.0


def summarize(outcome: Outcome) -> dict[str, Any]:
    """{metric, say "accuracy": {subset: value}, "unimodal": {modality: value}, "gap_to_ceiling": {modality: difference},
    "gaps": {subset: that difference with its interval}}, the worst case with its interval, the subset that hurts most, and
    the bits that each subset tells."""
    found: dict[str, Any] = {}
    for row in outcome.subsets:
        if row.model == "ensemble" and row.missing != "any":
            found.setdefault(row.metric, {})[row.left] = row.value
    for model in ("unimodal", "average"):
        found[model] = {left: row.value for left, row in outcome.lead(model).items()}
    complete, *lesser = outcome.lead().values()
    values = found[complete.metric]
    found["gap_to_ceiling"] = {m: values[m] - alone for m, alone in found["unimodal"].items()}
    gaps = outcome.lead("gap")
    found["gaps"] = {
        left: {"value": row.value, "low": row.low, "high": row.high} for left, row in gaps.items()
    }
    worst = outcome.worst
    found["worst_case"] = {"value": worst.value, "low": worst.low, "high": worst.high}
    found["hurts_most"] = (
        min(lesser, key=lambda row: row.value, default=complete).left if lesser else ""
    )
    if outcome.information:
        bounds = outcome.information.bounds
        found["information"] = {
            row.modalities: row.bits for row in bounds if row.model == "ensemble"
        }
        found["information"]["entropy"] = outcome.information.entropy_bits
    return found


def find_ceiling(left: str, unimodal: Mapping[str, float], higher: bool = True) -> float:
    """The best uni-modal model of the modalities that are left, of "a|b" the mean. higher: whether that is better."""
    best = [
        (max if higher else min)(unimodal[m] for m in one.split("+")) for one in left.split("|")
    ]
    return sum(best) / len(best)


def describe_left_out(outcome: Outcome) -> str:
    """What figures don't show, "" for nothing."""
    shown, every = len(outcome.shown), len(outcome.lead())
    return (
        f"Shown are {shown} of {every} subsets: each modality missing, and those that hurt most."
        * (shown < every)
    )


def format_headline(outcome: Outcome) -> str:
    """The result in two sentences."""
    metric, worst = outcome.metrics[0], outcome.worst
    complete, *lesser = outcome.lead().values()
    said = f"With {complete.left} {metric.label} is {metric.shown(complete.value)} ({format_interval(complete)})"
    if not lesser:
        return f"{said}."
    least = min(lesser, key=lambda row: row.value)
    said += f"; with {least.left} alone, the subset that hurts most, {metric.shown(least.value)} ({format_interval(least)}). "
    value = f"{100 * worst.value:.1f} % ({format_interval(worst)})"
    if worst.metric == "accuracy":
        return f"{said}Of the samples {value} are answered correctly whatever is missing."
    return (
        f"{said}Where each sample loses what hurts it most, {name_worst_case(outcome)} is {value}."
    )


def name_worst_case(outcome: Outcome) -> str:
    """What the worst case is measured in, which needn't be the leading metric."""
    name = outcome.worst.metric
    return get(name, next(task for task, usual in USUAL.items() if usual[0] == name), 0).label


def format_interval(row: ResultRow, percent: bool = True) -> str:
    """Its 95 % interval, "" where none is drawn."""
    if math.isnan(row.low):
        return ""
    return (
        f"{100 * row.low:.1f} - {100 * row.high:.1f}"
        if percent
        else f"{row.low:.3f} - {row.high:.3f}"
    )


def format_gap(row: ResultRow) -> str:
    """A difference in points."""
    return f"{100 * row.value:+.1f}"


def format_percent(value: float | None) -> str:
    """Without its sign, "" for none."""
    return "" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def format_range(low: float, high: float, digits: int = 3) -> str:
    """An interval of numbers of any sign, "" where none is drawn."""
    return "" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def describe_absence(missing: str) -> str:
    """In words: "without audio", "without one of audio, image"."""
    return (
        f"without one of {missing.replace('|', ', ')}" if "|" in missing else f"without {missing}"
    )


def group_by_condition(rows: Sequence[ResultRow]) -> list[tuple[ResultRow, list[ResultRow]]]:
    """Each setting's expectation with its seeded draws."""
    draws: dict[tuple[str, str, float], list[ResultRow]] = {}
    for row in rows:
        if row.draw >= 0:
            draws.setdefault((row.metric, row.missing, row.ratio), []).append(row)
    expected = [row for row in rows if row.draw < 0 and row.model == "ensemble"]
    return [(row, draws.get((row.metric, row.missing, row.ratio), [])) for row in expected]


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for fewer than two)."""
    if not values:
        return 0.0, 0.0
    mean = sum(values) / len(values)
    return mean, (sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)) ** 0.5


def replace_nan(data: Any) -> Any:
    """For JSON, which has no NaN: null."""
    if isinstance(data, Mapping):
        return {key: replace_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [replace_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data

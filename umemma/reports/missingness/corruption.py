"""A metric by the severity of a corruption: tables, figure, CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from umemma.evaluation.metrics import Metric
from umemma.evaluation.missingness.severity import ABSENT, INTACT, SeverityScore
from umemma.evaluation.results import EvaluationSettings
from umemma.modalities.corruption import describe_level, describe_measure
from umemma.reports import figures
from umemma.reports.figures import Curve
from umemma.reports.wording import EN_DASH, format_range, with_interval
from umemma.system.files import replace_nan, write_csv, write_json

if TYPE_CHECKING:
    from umemma.reports.figures import Draw

FOLDER = "corruption"  # in results/<dataset>/
NOTE = (
    "Severity 0 is the modality intact; differences are from it, both resampled together. "
    "Intervals resample groups of dependent samples; they do not cover another training."
)


def write_files(
    folder: Path,
    scores: Sequence[SeverityScore],
    metric: Metric,
    settings: EvaluationSettings,
    kinds: Mapping[str, str],
) -> None:
    """Write corruption.csv, corruption.json and corruption.png."""
    write_csv(folder / "corruption.csv", SeverityScore._fields, scores)
    write_json(folder / "corruption.json", to_json(scores, settings, kinds))
    figures.png(folder / "corruption.png", list(_draw_panels(scores, metric)))


def to_json(
    scores: Sequence[SeverityScore], settings: EvaluationSettings, kinds: Mapping[str, str]
) -> dict[str, Any]:
    """Return the scores for machines. levels: of each severity, and what they are."""
    levels: dict[str, dict[str, dict[str, str]]] = {}
    for score in scores:
        if score.severity not in (INTACT, ABSENT):
            of_modality = levels.setdefault(score.modality, {})
            measure = describe_measure(kinds[score.modality], score.corruption)
            of_corruption = of_modality.setdefault(score.corruption, {"measure": measure})
            of_corruption[score.severity] = _describe(score, kinds)
    results = [score._asdict() for score in scores]
    answer = {"settings": settings.to_dict(), "levels": levels, "results": results}
    return dict(replace_nan(answer))


def make_tables(
    scores: Sequence[SeverityScore], metric: Metric, kinds: Mapping[str, str]
) -> Iterator[Table]:
    """Yield a table per modality and corruption, with a line per severity."""
    averages = {score[:3]: score for score in scores if score.model == "average"}
    for (modality, corruption), curve in _group_by_corruption(scores):
        measure = describe_measure(kinds[modality], corruption)
        title = Text(f"{modality}: {corruption} ({measure})", style="table.title")
        table = Table(title=title, title_justify="left")
        table.add_column("severity")
        intervals = ("95 %\ninterval", "difference\n(95 % interval)")
        for heading in (metric.label, *intervals, "uni-modal\naverage"):
            table.add_column(heading, justify="right", no_wrap=True)
        for score in curve:
            severity = score.severity
            if severity == INTACT:
                severity = "0: intact"
            elif severity != ABSENT:
                severity = f"{severity}: {_describe(score, kinds)}"
            average = metric.shown(averages[score[:3]].value)
            table.add_row(
                severity, metric.shown(score.value), *_format_intervals(score, metric), average
            )
        yield table


def _format_intervals(score: SeverityScore, metric: Metric) -> tuple[str, str]:
    """Return the interval, and the difference with its interval; "" for the modality intact."""
    scale, digits = (100.0, 1) if metric.percent else (1.0, 3)
    interval = "-"
    if not math.isnan(score.low):
        interval = format_range(scale * score.low, scale * score.high, digits)
        if score.low >= 0:
            interval = interval.replace(" to ", EN_DASH)
    if score.severity == INTACT:
        return interval, ""
    bounds = format_range(scale * score.difference_low, scale * score.difference_high, digits)
    return interval, with_interval(f"{scale * score.difference:+z.{digits}f}", bounds)


def _group_by_corruption(
    scores: Sequence[SeverityScore], model: str = "ensemble"
) -> Iterator[tuple[tuple[str, str], list[SeverityScore]]]:
    of_model = [score for score in scores if score.model == model]
    for (modality, corruption), curve in groupby(of_model, key=lambda score: score[:2]):
        yield (modality, corruption), list(curve)


def _describe(score: SeverityScore, kinds: Mapping[str, str]) -> str:
    return describe_level(kinds[score.modality], score.corruption, int(score.severity))


def _draw_panels(scores: Sequence[SeverityScore], metric: Metric) -> Iterator[Draw]:
    """Yield a panel per modality and corruption, all with the same range of the metric."""
    scale = 100.0 if metric.percent else 1.0
    ends = [score.value for score in scores]
    ends += [end for score in scores for end in (score.low, score.high) if not math.isnan(end)]
    margin = 0.05 * (max(ends) - min(ends)) or 0.05
    limits = (scale * (min(ends) - margin), scale * (max(ends) + margin))
    averages = dict(_group_by_corruption(scores, "average"))
    label = f"{metric.label} (%)" if metric.percent else metric.label
    for (modality, corruption), curve in _group_by_corruption(scores):
        lines = [
            _make_curve("ensemble", curve, scale, has_interval=True),
            _make_curve("uni-modal average", averages[modality, corruption], scale),
        ]
        lines += _make_levels(curve, scale)
        yield partial(
            figures.curves,
            lines=lines,
            xlabel="severity",
            ylabel=label,
            percent=False,
            title=f"{modality}: {corruption}",
            ylim=limits,
        )


def _make_curve(
    label: str, curve: Sequence[SeverityScore], scale: float, has_interval: bool = False
) -> Curve:
    points = [score for score in curve if score.severity != ABSENT]
    low: list[float] = []
    high: list[float] = []
    if has_interval:
        low = [scale * score.low for score in points]
        high = [scale * score.high for score in points]
    x = [int(score.severity) for score in points]
    return Curve(label, x, [scale * score.value for score in points], low, high)


def _make_levels(curve: Sequence[SeverityScore], scale: float) -> Iterator[Curve]:
    """Yield the lines of the modality intact and absent."""
    largest = max(int(score.severity) for score in curve if score.severity != ABSENT)
    for severity, label in ((INTACT, "intact"), (ABSENT, "absent")):
        for score in curve:
            if score.severity == severity:
                yield Curve(label, [0, largest], [scale * score.value] * 2)

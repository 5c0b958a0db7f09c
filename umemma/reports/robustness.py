"""The leading metric with modalities missing: by subset, and by the share of samples affected."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from umemma.evaluation.metrics import Metric
from umemma.evaluation.results import (
    Outcome,
    find_best_model,
    find_ceiling,
    select_shown_sets,
)
from umemma.reports import figures
from umemma.reports.figures import Curve, Level
from umemma.reports.html import Block, Cell, Figure, JudgedCell, Table, Text
from umemma.reports.verdict import judge_subset
from umemma.reports.wording import (
    NO_UNIMODAL,
    capitalize,
    describe_absence,
    describe_listed_subsets,
    format_gap,
    format_interval,
    format_percent,
    format_points_range,
    with_interval,
)
from umemma.types import ResultRow

ABOUT_INTERVALS = (
    "Intervals resample groups of dependent samples; they do not cover another training."
)
HOW_TO_READ = (
    "The ceiling is the best uni-modal model of the modalities present; of several, the best is "
    "chosen on these same numbers, which favours it slightly. The gap is the ensemble minus the "
    "ceiling, in points, both resampled together: ▲ better or ▼ worse where the interval excludes "
    "0 and no sample lacks the modality of the ceiling. " + ABOUT_INTERVALS
)


def results(outcome: Outcome) -> Iterator[Block]:
    """Yield the table with a line per subset, how to read it, and the other metrics."""
    averages = outcome.lead("average")
    if outcome.sizes():
        yield _draw_sizes(outcome)
        yield _make_size_table(outcome)
        yield Text(describe_listed_subsets(outcome))
    yield _make_subset_table(outcome, averages)
    if outcome.unimodal_values():
        yield Text(HOW_TO_READ)
    else:
        yield Text(f"{NO_UNIMODAL} {ABOUT_INTERVALS}")
    for left, row in averages.items():
        if len(averages) == 1:
            metric = outcome.metrics[0]
            value = with_interval(metric.shown(row.value), format_interval(row, metric.percent))
            yield Text(
                f"A baseline without fusion: the average of the logits of the uni-modal models has "
                f"{metric.label} {value} with {left}."
            )
    others = outcome.metrics[1:]
    if others:
        yield _make_metric_table(outcome, others)


def _make_subset_table(outcome: Outcome, averages: Mapping[str, ResultRow]) -> Table:
    """The column of the averages is only there if more than one subset has one."""
    metric = outcome.metrics[0]
    gaps = outcome.lead("gap")
    unimodal = outcome.unimodal_values()
    headings = ["modalities present", metric.label, "95 % interval"]
    if unimodal:
        headings += ["ceiling", "gap", "95 % interval"]
    if len(averages) > 1:
        headings.append("average of the uni-modal models")
    headings.append("samples")
    rows = []
    for left, row in outcome.listed().items():
        cells: list[Cell] = [left, metric.shown(row.value), format_interval(row)]
        if unimodal:
            gap = gaps[left]
            cells += [
                metric.shown(find_ceiling(left, unimodal)),
                JudgedCell(format_gap(gap), judge_subset(outcome, left)),
                format_points_range(gap),
            ]
        if len(averages) > 1:
            cells.append(_show_average(metric, averages.get(left)))
        cells.append(str(row.n))
        rows.append(cells)
    caption = f"{metric.label} by the modalities present ({outcome.trained})"
    return Table(capitalize(caption), headings, rows)


def _draw_sizes(outcome: Outcome) -> Figure:
    metric = outcome.metrics[0]
    scale = 1.0
    label = metric.label
    if metric.percent:
        scale = 100.0
        label += ", %"
    sizes = outcome.sizes()
    line = Curve(
        "mean over the subsets",
        [summary.size for summary in sizes],
        [scale * summary.mean for summary in sizes],
        [scale * min(summary.lowest.value, summary.highest.value) for summary in sizes],
        [scale * max(summary.lowest.value, summary.highest.value) for summary in sizes],
    )
    draw = partial(
        figures.curves,
        lines=[line],
        xlabel="modalities present",
        ylabel=label,
        percent=False,
        xticks=line.x,
    )
    first, last = sizes[-1], sizes[0]
    caption = (
        f"With {first.size} of {last.size} modalities present {metric.label} is "
        f"{metric.shown(first.mean)} on average, with all {metric.shown(last.mean)}"
    )
    about = "The band reaches from the lowest to the highest subset of that size."
    return Figure(figures.svg("sizes", draw, 4, 3), caption, about)


def _make_size_table(outcome: Outcome) -> Table:
    metric = outcome.metrics[0]
    headings = ["number present", "subsets", "mean", "lowest", "with", "highest", "with"]
    rows: list[list[Cell]] = []
    for summary in outcome.sizes():
        lowest, highest = summary.lowest, summary.highest
        rows.append(
            [
                str(summary.size),
                str(summary.subsets),
                metric.shown(summary.mean),
                metric.shown(lowest.value),
                lowest.left,
                metric.shown(highest.value),
                highest.left,
            ]
        )
    caption = f"{metric.label} by how many modalities are present ({outcome.trained})"
    return Table(capitalize(caption), headings, rows)


def _show_average(metric: Metric, row: ResultRow | None) -> str:
    if row is None:
        return ""
    return metric.shown(row.value)


def _make_metric_table(outcome: Outcome, metrics: Sequence[Metric]) -> Table:
    values = {}
    for row in outcome.subsets:
        if row.model == "ensemble":
            values[row.left, row.metric] = row.value
    rows = []
    for left in outcome.listed():
        row_values = [metric.shown(values[left, metric.name]) for metric in metrics]
        rows.append([left, *row_values])
    labels = [metric.label for metric in metrics]
    return Table("Other metrics", ["modalities present", *labels], rows)


def ratios(outcome: Outcome) -> Iterator[Block]:
    """Yield the leading metric by what goes missing and from how many samples."""
    metric = outcome.metrics[0]
    curves = outcome.curves()
    averages = outcome.curves("average")
    if not curves:
        yield Text("There is one modality: nothing can be taken away.")
        return
    unimodal = outcome.unimodal_values()
    file = "robustness.png"  # stands for all figures in Markdown
    drawings = panels(outcome)
    for missing, draw in drawings.items():
        svg = figures.svg(f"robustness {missing}", draw, 4, 3.6)
        start = curves[missing][0]
        end = curves[missing][-1]
        caption = (
            f"{describe_absence(missing)}: {metric.label} goes from {metric.shown(start.value)} to "
            f"{metric.shown(end.value)}"
        )
        about = "Against the share of samples."
        if unimodal:
            ceiling = metric.shown(find_ceiling(end.left, unimodal))
            about = f"Against the share of samples; the uni-modal ceiling is {ceiling}."
        yield Figure(svg, capitalize(caption), about, file)
        file = ""
    if len(curves) > len(drawings):
        yield Text(
            f"Figures show {len(drawings)} of {len(curves)} missing sets; the table has all."
        )
    first, *_ = curves.values()
    shares = [f"{100 * row.ratio:g} %" for row in first]
    rows = []
    for missing, line in curves.items():
        shown = [*line, *averages.get(missing, [])[-1:]]
        rows.append([missing, *(format_percent(row.value) for row in shown)])
    headings = ["missing", *shares]
    caption = f"{metric.label} in %, by the share of samples that lose the missing set"
    if averages:
        headings.append(f"average, {shares[-1]}")
        caption += "; the last column is the average of the uni-modal models"
    yield Table(capitalize(caption), headings, rows)


def panels(outcome: Outcome) -> dict[str, figures.Draw]:
    """Return {missing set: drawing of the leading metric against the ratio}, on one scale."""
    metric = outcome.metrics[0]
    curves = outcome.curves()
    averages = outcome.curves("average")
    shown = select_shown_sets(curves)
    levels: dict[str, Level] = {}
    if outcome.unimodal_values():
        levels = {missing: _make_level(outcome, curves[missing][0].left) for missing in shown}
    values = [level.y for level in levels.values()]
    for missing in shown:
        for row in [*curves[missing], *averages.get(missing, [])]:
            values += [row.value, row.low, row.high]
    values = [value for value in values if not math.isnan(value)]
    limits = _find_limits(values, metric.lowest)
    drawings: dict[str, figures.Draw] = {}
    for missing in shown:
        average = None
        if missing in averages:
            average = _make_curve("average of the uni-modal models", averages[missing])
        drawings[missing] = partial(
            figures.robustness,
            ours=_make_curve("ensemble, 95 % interval", curves[missing]),
            average=average,
            ceiling=levels.get(missing),
            ylabel=metric.label,
            ylim=limits,
            title=describe_absence(missing),
        )
    return drawings


def _find_limits(values: Sequence[float], lowest_value: float) -> tuple[float, float]:
    """Return the ends of the axis of a share, which is at least `lowest_value`.

    The margin below the values is the larger, as a line has its name below it.
    """
    lowest = min(values, default=0)
    highest = max(values, default=1)
    above = 0.04 * (highest - lowest) + 0.005
    below = 0.12 * (highest - lowest) + 0.005
    return max(lowest_value, lowest - below), min(1.0, highest + above)


def _make_level(outcome: Outcome, left: str) -> Level:
    """Return the line of the best uni-modal models of the modalities that are left."""
    models = []
    for subset in left.split("|"):
        models.append(find_best_model(outcome, subset).left)
    names = list(dict.fromkeys(models))
    name = f"{names[0]} model"
    if len(names) > 1:
        name = f"mean of {' and '.join(names)} models"
    y = find_ceiling(left, outcome.unimodal_values())
    return Level("best uni-modal model of what is left", name, y)


def _make_curve(label: str, rows: Sequence[ResultRow]) -> Curve:
    return Curve(
        label,
        [row.ratio for row in rows],
        [row.value for row in rows],
        [row.low for row in rows],
        [row.high for row in rows],
    )

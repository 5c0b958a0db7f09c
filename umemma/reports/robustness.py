"""What the leading metric becomes when modalities are missing: by subset, and by the share of samples that lose them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from umemma.evaluation.results import (
    Outcome,
    ceiling,
    extent,
    gap,
    interval,
    percent,
    shown_sets,
    summary,
    without,
    worst_label,
)
from umemma.reports import figures
from umemma.reports.figures import Curve
from umemma.reports.html import Block, Figure, Table, Text, sentence
from umemma.types import ResultRow


def results(outcome: Outcome) -> Iterator[Block]:
    """A line per subset."""
    metric, alone, average = outcome.metrics[0], outcome.lead("unimodal"), outcome.lead("average")
    gaps = outcome.lead("gap")
    ceilings = {m: row.value for m, row in alone.items()}
    rows = []
    for row in outcome.lead().values():
        best = ceiling(row.left, ceilings)
        mean = metric.shown(average[row.left].value) if row.left in average else ""
        apart = [
            gap(gaps[row.left]),
            extent(100 * gaps[row.left].low, 100 * gaps[row.left].high, 1),
        ]
        rows.append(
            [
                row.left,
                metric.shown(row.value),
                interval(row),
                metric.shown(best),
                *apart,
                mean,
                str(row.n),
            ]
        )
    headings = [
        "modalities present",
        metric.label,
        "95 % interval",
        "ceiling",
        "gap",
        "95 % interval",
        "average",
    ]
    caption = sentence(f"{metric.label} by the modalities present ({outcome.trained})")
    yield Table(caption, [*headings, "samples"], rows)
    worst = outcome.worst
    hurts = summary(outcome)["hurts_most"]
    yield Text(
        f"Worst case, sample by sample, in {worst_label(outcome)}: {100 * worst.value:.1f} % ({interval(worst)}). "
        + (f"The subset that hurts most: {hurts}. " if hurts else "")
        + "The ceiling is the best uni-modal model of what is left, and the gap is the ensemble less it, in points, both "
        "resampled together. Where several modalities are left, the best is chosen on these same numbers, which flatters "
        "it a little. The average is that of the uni-modal models' logits. Intervals resample groups of dependent samples; "
        "they don't cover another training."
    )
    if others := outcome.metrics[1:]:
        found = {(row.left, row.metric): row for row in outcome.subsets if row.model == "ensemble"}
        cells = [
            [left, *(one.shown(found[left, one.name].value) for one in others)]
            for left in outcome.lead()
        ]
        yield Table("Other metrics", ["modalities present", *(one.label for one in others)], cells)


def ratios(outcome: Outcome) -> Iterator[Block]:
    """The leading metric by what goes missing and from how many samples."""
    metric, curves, averages = outcome.metrics[0], outcome.curves(), outcome.curves("average")
    if not curves:
        yield Text("There is one modality: nothing can be taken away.")
        return
    shown, ceilings = (
        shown_sets(curves),
        {m: row.value for m, row in outcome.lead("unimodal").items()},
    )
    for i, (missing, draw) in enumerate(panels(outcome).items()):
        svg = figures.svg(f"robustness {missing}", draw, 4, 3.3)
        start, end = curves[missing][0], curves[missing][-1]
        caption = f"{without(missing)}: {metric.label} goes from {metric.shown(start.value)} to {metric.shown(end.value)}"
        about = f"Against the share of samples; the uni-modal ceiling is {metric.shown(ceiling(end.left, ceilings))}."
        yield Figure(svg, sentence(caption), about, "" if i else "robustness.png")
    if len(curves) > len(shown):
        yield Text(f"Figures show {len(shown)} of {len(curves)} missing sets; the table has all.")
    shares = [f"{100 * row.ratio:g} %" for row in next(iter(curves.values()))]
    rows = [
        [m, *(percent(row.value) for row in (*line, averages[m][-1]))] for m, line in curves.items()
    ]
    headings = ["missing", *shares, f"average, {shares[-1]}"]
    caption = f"{metric.label} in %, by the share of samples that lose the missing set; last the uni-modal models' average"
    yield Table(sentence(caption), headings, rows)


def panels(outcome: Outcome) -> dict[str, figures.Draw]:
    """{missing set: drawing of the leading metric against the ratio}, on one scale."""
    metric, curves, averages = outcome.metrics[0], outcome.curves(), outcome.curves("average")
    ceilings = {m: row.value for m, row in outcome.lead("unimodal").items()}
    shown = shown_sets(curves)
    lines = [row for one in shown for row in [*curves[one], *averages[one]]]
    values = [v for row in lines for v in (row.value, row.low, row.high) if not np.isnan(v)]
    values += [ceiling(curves[one][0].left, ceilings) for one in shown]
    margin = 0.04 * (max(values, default=1) - min(values, default=0)) + 0.005
    limits = (max(0.0, min(values, default=0) - margin), min(1.0, max(values, default=1) + margin))
    return {
        one: partial(
            figures.robustness,
            ours=_curve("ensemble, 95 % interval", curves[one]),
            average=_curve("average of the uni-modal models", averages[one]),
            ceiling=ceiling(curves[one][0].left, ceilings),
            ylabel=metric.label,
            ylim=limits,
            title=without(one),
        )
        for one in shown
    }


def _curve(label: str, rows: Sequence[ResultRow]) -> Curve:
    x, y, low, high = zip(*((row.ratio, row.value, row.low, row.high) for row in rows), strict=True)
    return Curve(label, x, y, low, high)

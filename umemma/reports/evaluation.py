"""What an evaluation found -> the terminal's tables, and the files of results/: numbers, plot tables, figure, pages."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from umemma.evaluation import error_analysis
from umemma.evaluation.information_report import InformationBound, describe_threshold
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import (
    Outcome,
    find_ceiling,
    format_gap,
    format_headline,
    format_interval,
    format_range,
    group_by_condition,
    mean_and_std,
    name_worst_case,
    replace_nan,
    summarize,
)
from umemma.reports import figures, html
from umemma.reports.robustness import panels
from umemma.reports.sections import ABSENCE, sections
from umemma.system.files import new_file, write_json
from umemma.system.log import make_table


def subset_table(outcome: Outcome) -> Table:
    """The metric per modality subset beside the uni-modal ceilings, for the terminal."""
    metric, gaps = outcome.metrics[0], outcome.lead("gap")
    unimodal = {m: row.value for m, row in outcome.lead("unimodal").items()}
    rows = []
    for left, row in outcome.lead().items():
        best = find_ceiling(left, unimodal)
        apart = f"{format_gap(gaps[left])} ({format_range(100 * gaps[left].low, 100 * gaps[left].high, 1)})"
        rows.append(
            [
                left,
                metric.shown(row.value),
                format_interval(row),
                metric.shown(best),
                apart.removesuffix(" ()"),
            ]
        )
    headings = ["present", metric.label, "95 % interval", "uni-modal ceiling", "gap (95 %)"]
    made = make_table(
        f"{outcome.title}: {metric.label} per modality subset; {outcome.trained}", headings, rows
    )
    for column in (made.columns[2], made.columns[-1]):  # intervals
        column.no_wrap = True
    return made


def ratio_table(outcome: Outcome) -> Table:
    """A line per metric, missing set and ratio, for the terminal."""
    metrics = {metric.name: metric for metric in outcome.metrics}
    rows = []
    for row, drawn in group_by_condition(outcome.ratios):
        metric = metrics[row.metric]
        mean, std = mean_and_std([one.value for one in drawn])
        draws = (
            f"{metric.shown(mean)} ± {100 * std:.1f}"
            if metric.percent
            else f"{mean:.3f} ± {std:.3f}"
        )
        cells = [
            f"{row.ratio:g}",
            metric.shown(row.value),
            format_interval(row, metric.percent),
            draws if drawn else "-",
        ]
        rows.append([row.missing, metric.label, *cells, str(row.n)])
    headings = ["missing", "metric", "ratio", "value", "95 % interval", "seeded draws", "samples"]
    return make_table(f"{outcome.title}: with modalities missing", headings, rows, 2)


def remarks(outcome: Outcome) -> Iterator[str]:
    """The worst case, what the ceiling and absence were, and the advice: lines for the terminal."""
    worst, hurts = outcome.worst, summarize(outcome)["hurts_most"]
    most = f"; {hurts} alone hurts most" if hurts else ""
    value = f"{100 * worst.value:.1f} % ({format_interval(worst)})"
    yield f"worst case, sample by sample, in {name_worst_case(outcome)}: {value}{most}"
    yield "ceiling: the best uni-modal model of what is present; of several the best is chosen on these same numbers"
    yield f"absence: {ABSENCE[outcome.about['absent']]}"
    if outcome.information:
        yield describe_threshold(outcome.information)
        yield from (
            f"- {line}" for line in outcome.information.advice or ["There is nothing to advise."]
        )


def write(folder: Path, outcome: Outcome, predictions: Predictions, command: str) -> None:
    """metrics.json, information.json, the tables for plots, robustness.png, report.md and report.html. command: what makes
    them again."""
    assert outcome.information
    write_json(folder / "metrics.json", replace_nan({**summarize(outcome), **outcome.about}))
    write_json(folder / "information.json", replace_nan(outcome.information.as_json()))
    _csv(
        folder / "robustness.csv",
        ["missing", "ratio", "score", "low", "high", "ceiling", "average"],
        _robustness(outcome),
    )
    _csv(folder / "information.csv", InformationBound._fields, outcome.information.bounds)
    _csv(
        folder / "per_class.csv",
        error_analysis.ClassScore._fields,
        error_analysis.score_classes(predictions),
    )
    _csv(
        folder / "confusion.csv",
        ["modalities", "right", "answered", "n"],
        _confusion(outcome, predictions),
    )
    figures.png(folder / "robustness.png", [*panels(outcome).values()] or [figures.nothing])
    parts = list(sections(outcome, predictions, command))
    title = f"{outcome.title}: {outcome.metrics[0].label} with modalities missing"
    for name, write in (("report.md", html.markdown), ("report.html", html.render)):
        with new_file(folder / name) as aside:
            aside.write_text(
                write(title, format_headline(outcome), parts), encoding="utf-8", newline="\n"
            )


def _robustness(outcome: Outcome) -> Iterator[list[Any]]:
    unimodal = {m: row.value for m, row in outcome.lead("unimodal").items()}
    averages = outcome.curves("average")
    for missing, rows in outcome.curves().items():
        for row, average in zip(rows, averages[missing], strict=True):
            values = (row.value, row.low, row.high, find_ceiling(row.left, unimodal), average.value)
            yield [missing, f"{row.ratio:g}", *values]


def _confusion(outcome: Outcome, predictions: Predictions) -> Iterator[list[Any]]:
    """The cells that hold anything, of the subsets that figures show; none for sets of labels."""
    for left in outcome.shown if predictions.task == "multiclass" else ():
        matrix = error_analysis.confusion_matrix(predictions.ensemble[left], predictions.target)
        for right, answered in np.argwhere(matrix).tolist():
            yield [
                left,
                predictions.classes[right],
                predictions.classes[answered],
                int(matrix[right, answered]),
            ]


def _csv(path: Path, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with new_file(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headings)
        for row in rows:
            writer.writerow([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row])

"""What happens to each class: how much of it is found, and what it is taken for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from umemma.evaluation import error_analysis
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import Outcome, left_out, percent, without
from umemma.reports import figures
from umemma.reports.html import Block, Figure, Heat, Table, Text

CLASSES = 20  # listed, of those that lose most
HEAT = 32  # classes that a heat map has room for


def classes(outcome: Outcome, predictions: Predictions) -> Iterator[Block]:
    """What each class loses with a modality; the other subsets are in per_class.csv."""
    kind = "recall" if predictions.task == "multiclass" else "F1"
    named = {
        left: without(row.missing)
        for left, row in outcome.lead().items()
        if row.missing and "+" not in row.missing
    }
    complete, *_ = outcome.lead()
    scores = {(row.name, row.modalities): row for row in error_analysis.per_class(predictions)}

    def loss(name: str) -> float:
        """The largest, over the subsets under which any sample of the class is scored; NaN where none is."""
        whole, *lesser = (scores[name, left].score for left in (complete, *named))
        losses = [whole - score for score in lesser if whole is not None and score is not None]
        return max(losses, default=float("nan"))

    there = [name for name in dict.fromkeys(predictions.classes) if not math.isnan(loss(name))]
    if not there or not named:
        return
    names = sorted(there, key=loss, reverse=True)[:CLASSES]
    columns = {complete: "everything", **named}
    values = {
        title: [scores[name, left].score for name in names] for left, title in columns.items()
    }
    drawing = partial(figures.dots, names=names, columns=values, xlabel=kind)
    svg = figures.svg("classes", drawing, 4, 1.1 + 0.2 * len(names) + 0.09 * len(columns))
    which = "Classes by what they lose with a modality, most first"
    if len(there) > len(names):
        which = f"Of {len(there)} classes the {len(names)} that lose most with a modality"
    about = f"{names[0]} loses most: {100 * loss(names[0]):.0f} points."
    yield Figure(svg, f"{which}: {kind}", about)
    rows = [
        [
            name,
            str(scores[name, complete].n),
            *(percent(scores[name, left].score) for left in columns),
            percent(loss(name)),
        ]
        for name in names
    ]
    caption = f"{which}: {kind} in %; per_class.csv has all classes under all subsets"
    yield Table(caption, ["class", "samples", *columns.values(), "largest loss"], rows)


def confusions(outcome: Outcome, predictions: Predictions) -> Iterator[Block]:
    """What classes are taken for, under each subset that figures show."""
    if some := left_out(outcome):
        yield Text(some)
    few, rows = len(predictions.classes) <= HEAT, []
    for left in outcome.shown:
        matrix = error_analysis.confusion(predictions.ensemble[left], predictions.target)
        if few:
            shares = (matrix / np.maximum(matrix.sum(1, keepdims=True), 1)).tolist()
            classes = [" ".join(name.split()) for name in predictions.classes]
            yield Heat(
                f"{left}: answers (columns) in % of each class (rows)", "", classes, classes, shares
            )
        for one in error_analysis.confused(matrix, predictions.classes, 3 if few else 5):
            rows.append([left, one.right, one.answered, str(one.n), percent(one.share)])
    headings = ["modalities present", "class", "answered", "samples", "% of the class"]
    yield Table("The most frequent confusions", headings, rows, 3)

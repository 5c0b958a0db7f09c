"""What happens to each class: its score under each subset, and what it is mistaken for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from umemma.evaluation import error_analysis
from umemma.evaluation.error_analysis import ClassScore
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import Outcome
from umemma.reports import figures
from umemma.reports.html import Block, Figure, Heat, Table, Text
from umemma.reports.wording import (
    capitalize,
    describe_absence,
    describe_shown_subsets,
    describe_subset,
    format_percent,
)

MAX_CLASSES = 20  # that are listed, those that lose most
MAX_HEAT = 32  # classes that a heat map has room for
CONFUSIONS = 3  # that are listed of each subset, beside a heat map
CONFUSIONS_WITHOUT_HEAT = 5

# {task: (the score of a class, what a class is)}
KINDS = {
    "multiclass": ("recall", "class"),
    "multilabel": ("F1", "class"),
    "regression": ("R2", "target"),
}

Scores = Mapping[tuple[str, str], ClassScore]  # by (class, modalities present)


def classes(outcome: Outcome, predictions: Predictions) -> Iterator[Block]:
    """Yield what each class loses with a modality. The other subsets are in per_class.csv."""
    kind, unit = KINDS[predictions.task]
    complete = outcome.complete.left
    absences = {}
    for left, row in outcome.lead().items():
        if row.missing and "+" not in row.missing:
            absences[left] = describe_absence(row.missing)
    scores = {}
    for score in error_analysis.score_classes(predictions):
        scores[score.name, score.modalities] = score

    losses = {}
    for name in dict.fromkeys(predictions.classes):
        loss = _find_largest_loss(scores, name, complete, [*absences])
        if not math.isnan(loss):
            losses[name] = loss
    if not losses or not absences:
        return
    names = sorted(losses, key=lambda name: losses[name], reverse=True)[:MAX_CLASSES]
    columns = {complete: "everything", **absences}
    values = {}
    for left, title in columns.items():
        values[title] = [scores[name, left].score for name in names]

    drawing = partial(figures.dots, names=names, columns=values, xlabel=kind)
    height = 1.1 + 0.22 * len(names) + 0.14 * len(columns)
    svg = figures.svg("classes", drawing, 4, height)
    caption = f"{kind} of each {unit}, with everything and without each modality"
    if len(losses) > len(names):
        plural = {"class": "classes", "target": "targets"}[unit]
        caption = f"{kind} of the {len(names)} of {len(losses)} {plural} that lose most"
    about = f"{names[0]} loses most: {100 * losses[names[0]]:.0f} points."
    yield Figure(svg, capitalize(caption), about)
    rows = []
    for name in names:
        cells = [name, str(scores[name, complete].n)]
        for left in columns:
            cells.append(format_percent(scores[name, left].score))
        cells.append(format_percent(losses[name]))
        rows.append(cells)
    caption = (
        f"{capitalize(kind)} in %, the largest loss first; per_class.csv has all classes and "
        "subsets"
    )
    yield Table(
        caption,
        [unit, "samples", *columns.values(), "largest loss"],
        rows,
    )


def _find_largest_loss(
    scores: Scores,
    name: str,
    complete: str,
    subsets: Sequence[str],
) -> float:
    """Return the largest loss of a class, over the subsets under which a sample of it is scored.

    NaN where there is none.
    """
    whole = scores[name, complete].score
    losses = []
    for left in subsets:
        score = scores[name, left].score
        if whole is not None and score is not None:
            losses.append(whole - score)
    return max(losses, default=float("nan"))


def confusions(outcome: Outcome, predictions: Predictions) -> Iterator[Block]:
    """Yield what classes are mistaken for, under each subset that figures show."""
    has_room = len(predictions.classes) <= MAX_HEAT
    if has_room:
        yield Text(
            "Of the samples of each class (a row), the share in % that gets each answer (the "
            "columns). The diagonal is right.",
            only_in_page=True,
        )
    not_shown = describe_shown_subsets(outcome)
    if not_shown:
        yield Text(not_shown)
    most = CONFUSIONS_WITHOUT_HEAT
    if has_room:
        most = CONFUSIONS
    rows = []
    for left in outcome.shown:
        matrix = error_analysis.confusion_matrix(predictions, left)
        if has_room:
            yield _make_heat(left, predictions.classes, matrix)
        for confusion in error_analysis.list_confusions(matrix, predictions.classes, most):
            share = format_percent(confusion.share)
            rows.append([left, confusion.right, confusion.answered, str(confusion.n), share])
    headings = ["modalities present", "class", "answer", "samples", "% of the class"]
    yield Table("The most frequent confusions", headings, rows, 3)


def _make_heat(left: str, classes: Sequence[str], matrix: np.ndarray) -> Heat:
    totals = matrix.sum(1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    names = [" ".join(name.split()) for name in classes]
    return Heat(
        f"With {describe_subset(left)}",
        "class",
        "answer",
        names,
        names,
        shares.tolist(),
    )

"""The samples that go wrong: the most confident wrong answers, by the keys of the samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from umemma.evaluation.error_analysis import answer_classes, rate_answers
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import Outcome
from umemma.reports.html import Block, Table, Text
from umemma.types import format_pattern

SHOWN = 10
HEADINGS = ["sample", "right", "answered", "right with", "probability, %"]


def list_mistakes(outcome: Outcome, predictions: Predictions) -> Iterator[Block]:
    """Yield the wrong answers with all modalities present, of classes that exclude each other.

    The most confident come first, as wrong labels are often among them.
    """
    complete = format_pattern(predictions.modalities)
    answers = {left: answer_classes(predictions, left) for left in outcome.listed()}
    is_wrong = (answers[complete] >= 0) & (answers[complete] != predictions.target)
    wrong = np.flatnonzero(is_wrong).tolist()
    if not wrong:
        yield Text(f"With {complete} no sample is answered wrongly.")
        return
    confidences = rate_answers(predictions, complete)
    wrong.sort(key=lambda n: (-confidences[n], predictions.keys[n]))
    rows = []
    for n in wrong[:SHOWN]:
        right_with = [left for left, of in answers.items() if of[n] == predictions.target[n]]
        rows.append(
            [
                predictions.keys[n],
                predictions.classes[predictions.target[n]],
                predictions.classes[answers[complete][n]],
                ", ".join(right_with) or "none",
                f"{100 * confidences[n]:.1f}",
            ]
        )
    yield Text(
        f"With {complete}, {len(wrong):,} of {len(predictions.keys):,} samples are answered "
        "wrongly. Look at the most confident ones: a wrong label is often among them. Right with: "
        "the subsets of the modalities from which the answer is right."
    )
    yield Table(f"The most confident wrong answers with {complete}", HEADINGS, rows, names=4)

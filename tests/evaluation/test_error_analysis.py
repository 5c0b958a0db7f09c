"""Selective prediction, reliability and classes, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from toys.predictions import channels, five_samples

from umemma.evaluation import error_analysis
from umemma.evaluation.predictions import Predictions


def test_selective_by_hand():
    rows = error_analysis.selective_scores(five_samples(), points=4)
    assert [row.n for row in rows] == [1, 2, 3, 4]
    assert [row.score for row in rows] == pytest.approx(
        [1, 0.75, 2 / 3, 0.5]
    )  # the two of 0.8 stand in no order
    assert [row.confidence for row in rows] == pytest.approx([0.9, 0.8, 0.8, 0.6])
    area = error_analysis.aurc(five_samples(), "x")
    assert area == pytest.approx(1 - np.mean([1, 0.75, 2 / 3, 0.5]))


def test_confident_answers_of_a_true_posterior_are_better():
    one = channels(n=2000)
    rows = error_analysis.selective_scores(one, points=10)
    assert len(rows) == 30
    scores = [row.score for row in rows if row.modalities == "audio+image"]
    assert scores[0] > scores[-1]
    assert error_analysis.aurc(one, "audio+image") < error_analysis.aurc(one, "image")


def test_reliability_by_hand():
    rows = error_analysis.reliability_bins(
        five_samples()
    )  # 15 bins: 0.6 falls into the 10th, 0.8 into the 13th, 0.9 into the 14th
    assert [row.n for row in rows] == [1, 2, 1]
    assert [row.confidence for row in rows] == pytest.approx([0.6, 0.8, 0.9])
    assert [row.right for row in rows] == [0, 0.5, 1]


def test_classes_by_hand():
    one = five_samples()
    assert [(row.name, row.n, row.score) for row in error_analysis.score_classes(one)] == [
        ("u", 2, 1.0),
        ("v", 2, 0.0),
    ]
    matrix = error_analysis.confusion_matrix(one, "x")
    assert matrix.tolist() == [[2, 0], [2, 0]]
    assert error_analysis.list_confusions(matrix, one.classes) == [("v", "u", 2, 1.0)]


def test_labels_by_hand():
    """F1 of three labels: found twice and right once of one, missed, and neither there nor
    found.
    """
    target = np.array([[1, 1, 0], [0, 0, 0]], dtype=np.float32)
    logits = np.array([[1, -1, -1], [1, -1, -1]], dtype=np.float32)
    one = Predictions(
        list("ab"), {"sample": list("ab")}, target, {"x": logits}, {"x": logits}, ["u", "v", "w"]
    )
    assert [row.score for row in error_analysis.score_classes(one)] == pytest.approx(
        [2 / 3, 0, None]
    )
    assert sum(row.n for row in error_analysis.reliability_bins(one)) == 6

"""Curves of a corruption, by hand."""

from __future__ import annotations

import pytest
from toys.predictions import predictions_in_letters

from umemma.evaluation.metrics import select_metrics
from umemma.evaluation.missingness.severity import score_severities


def score(intact, corrupted):
    metric = select_metrics(["accuracy"], "multiclass", 2)[0]
    rows = score_severities(intact, corrupted, metric, 0, 100)
    return {(row.severity, row.model): row for row in rows}


def test_a_curve_by_hand():
    """The average answers as the larger margin, here as audio and image cancel, class 0."""
    intact = predictions_in_letters({"audio": "yyyn", "image": "ynnn", "audio+image": "yyyn"})
    noisy = predictions_in_letters({"audio+image": "yynn"}, {"audio": "yyyy", "image": "yynn"})
    rows = score(intact, {("image", "noise", 3): noisy})
    assert [*rows] == [
        ("0", "ensemble"),
        ("3", "ensemble"),
        ("absent", "ensemble"),
        ("0", "average"),
        ("3", "average"),
        ("absent", "average"),
    ]
    values = {severity: rows[severity, "ensemble"].value for severity in ("0", "3", "absent")}
    assert values == {"0": 0.75, "3": 0.5, "absent": 0.75}
    assert rows["3", "ensemble"].difference == pytest.approx(-0.25)
    assert rows["0", "ensemble"].difference == 0
    assert rows["3", "average"].value == 0.5
    assert rows["absent", "average"].value == 1.0


def test_a_sample_that_would_keep_nothing_is_in_no_point_of_the_curve():
    """The last has no audio, and without image nothing is left of it."""
    intact = predictions_in_letters(
        {"audio": "yyn-", "image": "yyyy", "audio+image": "yyny"},
        {"audio": "yyy-", "image": "yyyy"},
    )
    noisy = predictions_in_letters({"audio+image": "ynny"}, {"audio": "yyy-", "image": "yyyy"})
    rows = score(intact, {("image", "blur", 5): noisy})
    assert {row.n for row in rows.values()} == {3}
    assert rows["0", "ensemble"].value == pytest.approx(2 / 3)
    assert rows["5", "ensemble"].value == pytest.approx(1 / 3)
    assert rows["absent", "ensemble"].value == pytest.approx(2 / 3)


def test_a_single_modality_has_no_point_of_its_absence():
    intact = predictions_in_letters({"audio": "yyyn"}, {"audio": "yyyn"})
    noisy = predictions_in_letters({"audio": "ynnn"}, {"audio": "ynnn"})
    rows = score(intact, {("audio", "burst", 1): noisy})
    assert {severity for severity, _ in rows} == {"0", "1"}
    assert rows["1", "ensemble"].value == 0.25

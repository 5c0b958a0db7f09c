"""The expectation under a protocol, by hand, beside the grid, and beside many draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys import reports
from toys.predictions import four_samples

from umemma.evaluation.grid import Grid
from umemma.evaluation.missingness.expectation import score_protocol
from umemma.evaluation.missingness.masks import read_masks, write_masks
from umemma.evaluation.missingness.protocol import Protocol, weigh_subsets


def score(missing, predictions, names=None):
    weights = weigh_subsets(Protocol(missing=missing), predictions, Path())
    rows = score_protocol(predictions, weights, 0, 200, names)
    return {(row.metric.name, row.model): row for row in rows}


def test_an_expectation_by_hand():
    """With both a, b and c are right, with image alone a and b. d has no image: it stays whole."""
    row = score({"audio": 0.25}, four_samples(), ["accuracy"])["accuracy", "ensemble"]
    assert row.complete == 0.75
    assert row.value == pytest.approx((1 + 1 + 0.75 + 0) / 4)
    assert row.difference == pytest.approx(-0.25 / 4)
    assert row.low <= row.value <= row.high
    assert row.difference_low <= row.difference <= row.difference_high


def test_one_rate_is_the_ratio_of_an_evaluation():
    predictions = reports.noisy_predictions("ab", 3, 80)
    names = ["accuracy", "f1_macro", "auroc"]
    _, ratios = Grid(predictions, 0, 0, 200, names).rows([(("a",),)], [0.3])
    expected = {(row.metric, row.model): row for row in ratios}
    rows = score({"a": 0.3}, predictions, names)
    assert len(rows) == 4
    for name, row in rows.items():
        assert row.value == pytest.approx(expected[name].value)
        assert row.low == pytest.approx(expected[name].low, nan_ok=True)
        assert row.high == pytest.approx(expected[name].high, nan_ok=True)


def test_the_mean_of_many_draws_is_the_expectation(tmp_path):
    predictions = reports.noisy_predictions("abc", 3, 100)
    missing = {"a": 0.5, "b": {"by": "a", "rates": {"absent": 0.9}}}
    weights = weigh_subsets(Protocol(missing=missing), predictions, Path())
    expected, _ = score_protocol(predictions, weights, 0, 10, ["accuracy"])
    values = []
    for draw in range(60):
        write_masks(tmp_path / "m.csv", weights, predictions, 0, draw)
        masks = read_masks(tmp_path / "m.csv", predictions)
        row, _ = score_protocol(predictions, masks, 0, 10, ["accuracy"])
        values.append(row.value)
    assert np.mean(values) == pytest.approx(expected.value, abs=4 * np.std(values) / 60**0.5)
    assert np.std(values) > 0

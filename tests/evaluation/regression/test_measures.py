"""Metrics of a regression, by hand and against scikit-learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from toys.regression import make_outputs, make_predictions

from umemma.errors import UserError
from umemma.evaluation import metrics
from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.comparison import PRIOR, make_references
from umemma.evaluation.error_analysis import measure_targets, score_classes, selective_scores
from umemma.evaluation.grid import Grid
from umemma.evaluation.information import estimate_information
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.regression import gaussian, measures
from umemma.evaluation.tables.folds import pool_folds
from umemma.missing import list_conditions
from umemma.types import TargetScale


def compute(name: str, outputs: np.ndarray, target: np.ndarray, unit: float = 1.0) -> float:
    metric = metrics.get(name, "regression", outputs.shape[1], unit)
    assert metric.stats
    assert metric.value
    sums = metric.stats(outputs, target).total(np.ones(len(target)))
    return float(metric.value(sums))


@pytest.mark.parametrize("targets", [1, 3])
def test_metrics_are_those_of_scikit_learn(targets):
    generator = np.random.default_rng(targets)
    for _ in range(100):
        target = generator.normal(size=(int(generator.integers(3, 50)), targets))
        outputs = make_outputs(
            target + generator.normal(size=target.shape), generator.uniform(0.5, 9, target.shape)
        )
        mean, _ = gaussian.to_gaussian(outputs)
        for name, theirs in (
            ("mae", mean_absolute_error),
            ("rmse", root_mean_squared_error),
            ("r2", r2_score),
        ):
            expected = theirs(target, mean)
            assert compute(name, outputs, target) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_values_by_hand():
    target = np.array([[1.0], [3.0]])
    outputs = make_outputs([[1.0], [1.0]], [[4.0], [0.25]])  # errors 0 and 2
    assert compute("mae", outputs, target) == pytest.approx(1.0)
    assert compute("mae", outputs, target, unit=500.0) == pytest.approx(500.0)
    assert compute("rmse", outputs, target, unit=10.0) == pytest.approx(10 * 2**0.5)
    assert compute("r2", outputs, target) == pytest.approx(1 - 4 / 2)
    nats = -np.log(norm.pdf(0, 0, 0.5)) - np.log(norm.pdf(2, 0, 2))
    assert compute("log_loss", outputs, target) == pytest.approx(nats / 2)
    assert compute("coverage", outputs, target) == 1.0  # 0 and 1 standard deviation away
    np.testing.assert_allclose(measures.score(outputs, target), [1.0, -3.0])  # their mean is R2


def test_the_calibration_error_is_that_of_the_intervals():
    predictions = make_predictions(20_000)
    outputs = predictions.ensemble["audio"]
    assert compute("ece", outputs, predictions.target) < 0.01
    mean, precision = gaussian.to_gaussian(outputs)
    # Standard deviations half as large as they should be: P(|e| < k / 2) instead of P(|e| < k).
    levels = measures.list_levels()
    widths = norm.ppf((1 + levels) / 2)
    expected = np.mean(levels - (2 * norm.cdf(widths / 2) - 1))
    narrow = make_outputs(mean, 4 * precision)
    assert compute("ece", narrow, predictions.target) == pytest.approx(expected, abs=0.01)


def test_what_can_lead_and_what_fits():
    assert [m.name for m in metrics.select_metrics(None, "regression", 2)] == [
        "r2",
        "mae",
        "rmse",
        "log_loss",
        "ece",
    ]
    with pytest.raises(UserError, match="mae can't lead"):
        metrics.select_metrics(["mae"], "regression", 2)
    with pytest.raises(UserError, match="accuracy doesn't fit: the task is regression"):
        metrics.get("accuracy", "regression", 2)
    with pytest.raises(UserError, match="r2 doesn't fit: the task is multiclass"):
        metrics.get("r2", "multiclass", 2)
    assert metrics.get("mae", "regression", 2).shown(52341.2) == "52341"
    assert metrics.get("mae", "regression", 2).shown(0.0012346) == "0.001235"


def test_the_task_is_told_by_the_outputs():
    assert metrics.task_of(np.zeros(3, int), 2) == "multiclass"
    assert metrics.task_of(np.zeros((3, 2)), 2) == "multilabel"
    assert metrics.task_of(np.zeros((3, 2)), 4) == "regression"


def test_the_grid_of_a_regression():
    predictions = make_predictions(2000)
    grid = Grid(predictions, seed=0, draws=1, bootstrap=50)
    subsets, ratios = grid.rows(list_conditions(["audio", "image"]), [0.0, 1.0])
    values = {(row.model, row.left, row.metric): row.value for row in subsets}
    assert values["ensemble", "audio", "r2"] == pytest.approx(1 / 2, abs=0.05)
    assert values["ensemble", "audio+image", "r2"] == pytest.approx(2 / 3, abs=0.05)
    # The absolute error of N(0, v) is sqrt(2 v / pi), in units of 4.
    expected = 4 * (2 / 3 / np.pi) ** 0.5
    assert values["ensemble", "audio+image", "mae"] == pytest.approx(expected, rel=0.05)
    assert values["gap", "audio", "r2"] == 0
    assert values["gap", "audio+image", "r2"] == pytest.approx(1 / 6, abs=0.05)
    assert values["prior", "audio+image", "r2"] == pytest.approx(0, abs=0.01)
    worst = values["ensemble", "worst", "r2"]
    by_sample = [measures.score(one, predictions.target) for one in predictions.ensemble.values()]
    assert worst == pytest.approx(np.min(by_sample, 0).mean())
    ends = {(row.ratio, row.metric): row.value for row in ratios if row.missing == "image"}
    assert ends[1.0, "r2"] == pytest.approx(values["ensemble", "audio", "r2"])


def test_bits_are_those_of_the_normal_channels():
    """I(z; x) = log2(1 + 1) / 2 of a normal channel with as much noise as signal."""
    predictions = make_predictions(20_000)
    bootstrap = Bootstrap(predictions.groups, 0, 20)
    information = estimate_information(predictions, bootstrap)
    bits = {(b.model, b.modalities): b.bits for b in information.bounds}
    assert bits["ensemble", "audio"] == pytest.approx(np.log2(2) / 2, abs=0.02)
    assert bits["ensemble", "audio+image"] == pytest.approx(np.log2(3) / 2, abs=0.02)


def test_the_constant_answer_is_that_of_the_training_samples():
    predictions = make_predictions(50)
    prior = make_references(predictions)[PRIOR].ensemble["audio"]
    mean, precision = gaussian.to_gaussian(prior)
    np.testing.assert_allclose(mean, 0.0, atol=1e-12)
    np.testing.assert_allclose(precision, 1.0)


def test_targets_are_measured_in_their_units():
    predictions = make_predictions(500, targets=2)
    first, second = measure_targets(predictions, "audio")
    mean, _ = gaussian.to_gaussian(predictions.ensemble["audio"])
    errors = np.abs(predictions.target - mean)
    assert first.mean_absolute == pytest.approx(4 * errors[:, 0].mean())
    assert second.mean_absolute == pytest.approx(5 * errors[:, 1].mean())
    assert first.covered == pytest.approx(0.95, abs=0.03)
    r2 = {(one.name, one.modalities): one.score for one in score_classes(predictions)}
    expected = r2_score(predictions.target[:, 1], mean[:, 1])
    assert r2["target 1", "audio"] == pytest.approx(expected)


def test_the_most_confident_are_answered_first():
    target = np.array([[0.0], [0.0], [1.0], [-1.0]])
    outputs = make_outputs([[0.0], [1.0], [1.0], [0.0]], [[4.0], [1.0], [3.0], [2.0]])
    tables = {"x": outputs.astype(np.float32)}
    keys = list("abcd")
    predictions = Predictions(keys, {"sample": keys}, target, tables, tables, ["t"])
    rows = selective_scores(predictions, points=4)
    np.testing.assert_allclose([row.score for row in rows], [1, 1, 1 / 3, 0], atol=1e-6)


def test_predictions_are_read_as_they_were_written(tmp_path):
    predictions = make_predictions(20, targets=2)
    predictions.save(tmp_path / "p.parquet", "me")
    read = Predictions.load(tmp_path / "p.parquet", "me")
    assert read is not None
    assert read.scales == predictions.scales
    assert read.task == "regression"
    np.testing.assert_array_equal(read.target, predictions.target)


def test_folds_of_other_scales_are_pooled_in_one():
    predictions = make_predictions(50)
    doubled = dataclasses.replace(predictions, scales=[TargetScale(mean=0.0, std=8.0)])
    pooled = pool_folds([predictions, doubled])
    (first,) = predictions.scales
    in_units = first.mean + first.std * pooled.target[:, 0]
    z = predictions.target[:, 0]
    np.testing.assert_allclose(in_units, [*(10 + 4 * z), *(8 * z)])
    mean, precision = gaussian.to_gaussian(pooled.ensemble["audio"])
    raw, _ = gaussian.to_gaussian(predictions.ensemble["audio"])
    np.testing.assert_allclose(10 + 4 * mean[50:], 8 * raw, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(precision[50:], 2 / 4, rtol=1e-4)

"""Outputs as normal distributions, and their calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import norm
from toys.regression import make_outputs, make_predictions

from umemma.evaluation import calibration
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.regression import gaussian


def test_outputs_stand_for_natural_parameters():
    outputs = np.array([[3.0, 2.0]])  # b = 2: the sharp softplus of it is 2
    mean, precision = gaussian.to_gaussian(outputs)
    assert precision[0, 0] == pytest.approx(2.0, abs=1e-5)
    assert mean[0, 0] == pytest.approx(1.5, abs=1e-5)
    low = math.log(2) / gaussian.SHARPNESS + gaussian.TINY
    assert gaussian.to_gaussian(np.zeros((1, 2)))[1][0, 0] == pytest.approx(low)


def test_outputs_are_made_of_distributions_and_back():
    outputs = make_outputs([[0.5, -2.0], [7.0, 0.0]], [[0.02, 1.0], [40.0, 3.0]])
    mean, precision = gaussian.to_gaussian(outputs)
    np.testing.assert_allclose(mean, [[0.5, -2.0], [7.0, 0.0]], atol=1e-9)
    np.testing.assert_allclose(precision, [[0.02, 1.0], [40.0, 3.0]], rtol=1e-9)


def test_the_mean_of_outputs_is_a_product_of_distributions():
    both = make_outputs([[1.0], [3.0]], [[4.0], [1.0]]).mean(0, keepdims=True)
    mean, precision = gaussian.to_gaussian(both)
    assert mean[0, 0] == pytest.approx((4 * 1 + 1 * 3) / 5, abs=1e-4)
    assert precision[0, 0] == pytest.approx(2.5, abs=1e-4)


def test_a_temperature_leaves_the_mean_and_multiplies_the_variance():
    outputs = make_outputs([[1.0, -2.0]], [[4.0, 0.5]])
    mean, precision = gaussian.to_gaussian(Calibration(2.0, (), True).apply(outputs))
    np.testing.assert_allclose(mean, [[1.0, -2.0]], rtol=1e-5)
    np.testing.assert_allclose(precision, [[2.0, 0.25]], rtol=1e-5)


def test_calibration_is_undone():
    outputs = make_outputs([[1.0, -2.0]], [[4.0, 2.5]])
    fitted = Calibration(0.5, (0.3, -0.2, -1.0, 0.1), True)
    np.testing.assert_allclose(fitted.undo(fitted.apply(outputs)), outputs, rtol=1e-4)


def test_a_bias_cannot_make_a_precision_negative_and_is_of_its_own_sample():
    outputs = make_outputs([[1.0], [1.0]], [[0.5], [0.005]])
    rows = gaussian.calibrate(outputs, np.ones((2, 1)), np.array([[0.0, -9.0], [0.0, 0.0]]))
    _, precision = gaussian.to_gaussian(rows)
    np.testing.assert_allclose(precision[:, 0], [gaussian.FLOOR, 0.005], rtol=1e-6)


def test_slopes_are_those_of_the_losses():
    generator = np.random.default_rng(0)
    outputs = make_outputs(generator.normal(size=(5, 2)), generator.uniform(1, 4, (5, 2)))
    target = generator.normal(size=(5, 2))

    def total(x: np.ndarray) -> float:
        return float(gaussian.losses_and_slopes(x, outputs, target)[0].sum())

    for x in (np.array([1.3]), np.array([0.8, 0.1, -0.2, 0.3, -0.1])):
        _, slopes = gaussian.losses_and_slopes(x, outputs, target)
        np.testing.assert_allclose(slopes.sum(0), approx_fprime(x, total, 1e-7), rtol=1e-4)
    losses, _ = gaussian.losses_and_slopes(np.ones(1), outputs, target)
    mean, precision = gaussian.to_gaussian(outputs)
    np.testing.assert_allclose(losses, -norm.logpdf(target, mean, precision**-0.5).sum(1))


def fit(outputs: np.ndarray, target: np.ndarray) -> Calibration:
    keys = [f"k{i}" for i in range(len(target))]
    return calibration.fit(outputs.astype(np.float32), target, {"sample": keys}, 0)


def test_what_is_right_is_not_calibrated():
    predictions = make_predictions()
    assert fit(predictions.ensemble["audio"], predictions.target) == Calibration()


def test_an_overconfident_model_gets_a_temperature():
    predictions = make_predictions(2000)
    mean, precision = gaussian.to_gaussian(predictions.ensemble["audio"])
    fitted = fit(make_outputs(mean, 4 * precision), predictions.target)
    assert fitted.temperature == pytest.approx(4.0, rel=0.15)
    assert fitted.gaussian
    assert fitted.bias == ()


def test_calibration_makes_the_mean_of_two_views_what_both_tell():
    """The mean has half of each precision; both views count the prior, once too often."""
    predictions = make_predictions(4000)
    pooled = predictions.average("audio+image")
    fitted = fit(pooled, predictions.target)
    mean, precision = gaussian.to_gaussian(fitted.apply(pooled))
    right, _ = gaussian.to_gaussian(predictions.ensemble["audio+image"])
    assert np.abs(mean - right).max() < 0.2
    assert precision.mean() == pytest.approx(3.0, rel=0.1)
    raw, _ = gaussian.to_gaussian(pooled)
    assert np.abs(raw - right).mean() > 3 * np.abs(mean - right).mean()


def test_a_calibration_is_read_as_it_was_written():
    fitted = Calibration(2.0, (0.5, -0.5), True)
    assert Calibration.of(fitted.as_json()) == fitted
    assert Calibration(2.0).as_json() == {"temperature": 2.0, "bias": []}

"""What modalities add to the probability of what is right, by hand and beside cross entropies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import reports

from umemma.evaluation.attribution import right_answers
from umemma.evaluation.attribution.right_answers import ALL
from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.metrics import log_loss
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.regression import gaussian
from umemma.types import TargetScale

HALF, SURE, NONE = [0.0, 0.0], [50.0, 0.0], [np.nan, np.nan]  # of two classes, the first is right


def attribute(predictions):
    bootstrap = Bootstrap(predictions.groups, 0, 200)
    contributions, interactions = right_answers.estimate_attribution(predictions, bootstrap)
    return {(row.modality, row.name): row for row in contributions}, interactions


def of_two(audio, image, both):
    """Return predictions of samples of the first of two classes, of which half are in training."""
    tables = {"audio+image": both, "audio": audio, "image": image}
    ensemble = {subset: np.array(rows, np.float32) for subset, rows in tables.items()}
    keys = [str(i) for i in range(len(both))]
    alone = {m: ensemble[m] for m in ("audio", "image")}
    target = np.zeros(len(both), np.int64)
    return Predictions(keys, {"g": keys}, target, ensemble, alone, ["x", "y"], prior=[0.5, 0.5])


def test_what_both_tell_is_shared_alike_and_is_redundant():
    rows, (pair,) = attribute(of_two([SURE] * 3, [SURE] * 3, [SURE] * 3))
    assert rows["audio", ALL].bits == rows["image", ALL].bits == pytest.approx(0.5)
    assert pair.modalities == "audio+image"
    assert (pair.bits, pair.low, pair.high) == pytest.approx((-1, -1, -1))


def test_what_only_both_together_tell_is_synergy():
    rows, (pair,) = attribute(of_two([HALF] * 3, [HALF] * 3, [SURE] * 3))
    assert rows["audio", ALL].bits == rows["image", ALL].bits == pytest.approx(0.5)
    assert pair.bits == pytest.approx(1)


def test_an_absent_modality_adds_nothing():
    rows, _ = attribute(of_two([SURE, SURE], [NONE, SURE], [SURE, SURE]))
    assert rows["image", ALL].bits == pytest.approx(0.5 / 2)  # nothing to a, a half to b
    assert rows["audio", ALL].bits == pytest.approx((1 + 0.5) / 2)


def test_a_sample_that_has_nothing_is_left_out():
    rows, _ = attribute(of_two([SURE, NONE], [SURE, NONE], [SURE, NONE]))
    assert (rows["audio", ALL].n, rows["audio", ALL].bits) == (1, pytest.approx(0.5))


def test_each_class_has_the_mean_of_its_own_samples():
    """Of class x one sample is told by audio alone and one by image alone; of y one by both."""
    other = SURE[::-1]
    predictions = of_two([SURE, HALF, other], [HALF, SURE, other], [SURE, SURE, other])
    rows, _ = attribute(replace(predictions, target=np.array([0, 0, 1])))
    assert (rows["audio", "x"].n, rows["audio", "y"].n) == (2, 1)
    assert rows["audio", "x"].bits == rows["image", "x"].bits == pytest.approx(0.5)
    assert rows["audio", "y"].bits == rows["image", "y"].bits == pytest.approx(0.5)
    first, _ = attribute(replace(predictions, target=np.array([0, 1, 1])))
    assert first["audio", "x"].bits == pytest.approx(1)
    assert first["image", "x"].bits == pytest.approx(0)


@pytest.mark.parametrize("make", [reports.noisy_predictions, reports.noisy_labels])
@pytest.mark.parametrize("is_prior_known", [True, False])
def test_contributions_add_up_to_what_all_modalities_tell(make, is_prior_known):
    predictions = make("abc", 4, 60)
    shares = np.full(4, 0.25)
    if is_prior_known:
        predictions = replace(predictions, prior=shares.tolist())
    elif predictions.target.ndim == 1:
        shares = np.bincount(predictions.target) / 60
    else:
        shares = predictions.target.mean(0)
    rows, _ = attribute(predictions)
    prior = np.log(shares) if predictions.target.ndim == 1 else np.log(shares / (1 - shares))
    labels = 1 if predictions.target.ndim == 1 else 4
    target = predictions.target
    before = log_loss(np.tile(prior, (60, 1)), target).mean()
    after = log_loss(predictions.ensemble["a+b+c"], target).mean()
    total = sum(rows[m, ALL].bits for m in "abc")
    assert total == pytest.approx((before - after) * labels / np.log(2), abs=1e-5)
    names = predictions.classes
    for m in "abc":
        of_classes = [rows[m, name] for name in names]
        assert rows[m, ALL].low <= rows[m, ALL].bits <= rows[m, ALL].high
        if labels == 1:
            mean = sum(row.n * row.bits for row in of_classes) / 60
        else:
            mean = sum(row.bits for row in of_classes)
        assert rows[m, ALL].bits == pytest.approx(mean, abs=1e-5)


def test_targets_of_a_regression_add_up_to_their_log_density():
    generator = np.random.default_rng(0)
    target = generator.normal(size=(30, 2))
    tables = {}
    for subset, error in {"a+b": 0.3, "a": 0.4, "b": 0.9}.items():
        mean = target + error * generator.normal(size=target.shape)
        precision = np.full_like(mean, error**-2)
        tables[subset] = gaussian.to_outputs(mean * precision, precision)
    keys = [str(i) for i in range(30)]
    predictions = Predictions(
        keys,
        {"g": keys},
        target,
        tables,
        {m: tables[m] for m in "ab"},
        ["width", "height"],
        scales=[TargetScale(mean=0.0, std=1.0)] * 2,
    )
    rows, _ = attribute(predictions)
    before = log_loss(predictions.class_prior(), target).sum() * 2
    after = log_loss(tables["a+b"], target).sum() * 2
    total = sum(rows[m, ALL].bits for m in "ab")
    assert total == pytest.approx((before - after) / 30 / np.log(2))
    assert rows["a", ALL].bits > rows["b", ALL].bits > 0
    for m in "ab":
        parts = rows[m, "width"].bits + rows[m, "height"].bits
        assert rows[m, ALL].bits == pytest.approx(parts)


def test_one_modality_decides_everything_and_needs_no_table():
    predictions = reports.noisy_predictions("a", 3, 20)
    assert attribute(predictions) == ({}, [])

"""What weights of classes and samples change in a trained model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toys.features import Trained, rare_class, rare_labels, train_on_features
from toys.project import quick

from umemma.errors import UserError
from umemma.evaluation.metrics import get
from umemma.stages import finetune

COMPLETE = "a+b"


def score(trained: Trained, splits: dict, name: str) -> float:
    predictions = trained.predict(splits["test"])
    metric = get(name, predictions.task, len(predictions.classes))
    logits = predictions.logits("ensemble", COMPLETE)
    if metric.of_answers:
        logits = predictions.decide("ensemble", COMPLETE)
    stats = metric.stats(logits, predictions.target)
    return float(metric.value(stats.total(np.ones(len(logits)))))


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{"class_weights": "balanced"}, {"logit_adjustment": 1.0}])
def test_a_rare_class_is_found_and_probabilities_stay_those_of_the_data(tmp_path, setting):
    """One sample of 51 is of the second class."""
    splits = rare_class()
    plain = train_on_features(tmp_path / "plain", splits, epochs=8)
    weighed = train_on_features(tmp_path / "weighed", splits, epochs=8, **setting)
    gain = score(weighed, splits, "balanced_accuracy") - score(plain, splits, "balanced_accuracy")
    assert gain > 0.1
    assert score(weighed, splits, "log_loss") <= score(plain, splits, "log_loss")
    metadata = weighed.results["ensemble"].inference_metadata
    assert metadata.thresholds[COMPLETE] == pytest.approx((50 / 51, 1 / 51), rel=1e-5)
    assert plain.results["ensemble"].inference_metadata.thresholds == {}


def test_weights_are_undone_even_where_nothing_can_be_calibrated(tmp_path):
    """40 samples of validation are too few for a fit; the shift is known without one."""
    splits = rare_class(ratio=4, samples={"train": 200, "val": 40, "test": 400})
    trained = train_on_features(tmp_path, splits, epochs=2, class_weights="balanced")
    fitted = trained.results["ensemble"].inference_metadata.calibration[COMPLETE]
    assert fitted.temperature == 1
    # Weights are 5/8 and 5/2, so the logit of the second class is too large by log 4.
    assert fitted.bias[0] - fitted.bias[1] == pytest.approx(np.log(4), abs=1e-5)
    predictions = trained.predict(splits["test"])
    raw = predictions.uncalibrated(COMPLETE)
    decided = predictions.decide("ensemble", COMPLETE)
    assert (raw.argmax(1) == decided.argmax(1)).all()  # it answers as it was trained to


def test_probabilities_of_weighed_labels_stay_those_of_the_data(tmp_path):
    splits = rare_labels(samples={"train": 400, "val": 40, "test": 40}, labels=3)
    trained = train_on_features(tmp_path, splits, epochs=1, pos_weight=4.0)
    fitted = trained.results["ensemble"].inference_metadata.calibration[COMPLETE]
    assert fitted.bias == pytest.approx([-np.log(4)] * 3, abs=1e-5)


def test_a_sample_of_weight_0_is_as_if_it_were_not_there(tmp_path):
    """The first half of the training samples has the wrong labels, and no weight."""
    splits = rare_class(ratio=1, samples={"train": 400, "val": 100, "test": 400})
    train = splits["train"]
    wrong = train.target.clone()
    wrong[:200] = 1 - wrong[:200]
    bad = dataclasses.replace(train, target=wrong)
    weight = torch.ones(400)
    weight[:200] = 0
    weighed = dataclasses.replace(bad, weight=weight)
    scores = []
    for name, split in (("bad", bad), ("weighed", weighed)):
        trained = train_on_features(tmp_path / name, {**splits, "train": split}, learning_rate=3e-2)
        scores.append(score(trained, splits, "accuracy"))
    assert scores[0] < 0.75 < 0.8 < scores[1]


def test_an_ensemble_has_the_weights_of_the_models_that_it_starts_from():
    params = quick("finetune.class_weights=balanced")
    with pytest.raises(UserError, match="class_weights differs between the uni-modal") as error:
        finetune.run(params)
    assert "pretrain.class_weights and finetune.class_weights alike" in error.value.hint

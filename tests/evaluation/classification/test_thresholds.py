"""Thresholds: how they are fitted, and that they change answers and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import f1_score

from umemma.evaluation import error_analysis
from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.classification import thresholds
from umemma.evaluation.comparison import AVERAGE, PRIOR, make_references
from umemma.evaluation.grid import Grid
from umemma.evaluation.information import estimate_information
from umemma.evaluation.metrics import get
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.tables.folds import pool_folds
from umemma.models.evaluated.inputs import leave_calibration_out

N = 200


def test_a_threshold_by_hand(monkeypatch):
    """Right are the first, second and fourth of four probabilities, 50 times each.

    F1 with the first k is 2/4, 4/5, 4/6 and 6/7, so all are predicted; without the fourth label the
    second cut is best, 4/4, between 0.3 and 0.2.
    """
    monkeypatch.setattr(thresholds, "PRIOR_POSITIVES", 0.0)
    p = np.tile([0.4, 0.3, 0.2, 0.1], 50)
    right = np.tile([[1, 1], [1, 1], [0, 0], [1, 0]], (50, 1))
    every, two = thresholds.fit(logit(np.stack([p, p], 1)), right)
    assert every < 0.1
    assert two == pytest.approx(expit((logit(0.3) + logit(0.2)) / 2), rel=1e-5)


def test_the_best_cut_is_scikit_learns_best_f1(monkeypatch):
    monkeypatch.setattr(thresholds, "PRIOR_POSITIVES", 0.0)
    chance = np.random.default_rng(0)
    logits = chance.normal(size=(N, 5)).round(1)  # ties
    target = (chance.random((N, 5)) < expit(logits - 2)).astype(float)
    found = thresholds.fit(logits, target)
    answers = thresholds.shift_logits(logits, found, "multilabel") > 0
    for c in range(5):
        cuts = np.unique(logits[:, c])
        best = max(f1_score(target[:, c], logits[:, c] >= cut) for cut in cuts)
        assert f1_score(target[:, c], answers[:, c]) == pytest.approx(best)


def test_of_a_label_without_positives_the_probabilities_decide():
    """Calibrated probabilities alone: the best threshold is half the F1 that it reaches.

    Half of the samples have 0.3 and half 0.01. F1 of predicting the first is 2 x 0.3 x 100 / (100 +
    31), 0.46; half of it lies between the two, and so does the threshold.
    """
    p = np.repeat([0.3, 0.01], N // 2)
    (found,) = thresholds.fit(logit(p)[:, None], np.zeros((N, 1)))
    assert 0.01 < found < 0.3
    assert found == pytest.approx(expit((logit(0.3) + logit(0.01)) / 2), rel=1e-5)


def test_few_positives_move_a_threshold_less_than_many():
    """The labels say that nothing is right below 0.4; the probabilities put the cut at 0.2."""
    p = np.array([0.5, 0.2, 0.02])
    few = np.repeat(p, [4, 40, 400])
    is_right = np.repeat([1.0, 0.0, 0.0], [4, 40, 400])
    (of_few,) = thresholds.fit(logit(few)[:, None], is_right[:, None])
    (of_many,) = thresholds.fit(logit(np.tile(few, 30))[:, None], np.tile(is_right, 30)[:, None])
    assert of_few < 0.2 < of_many


def test_too_few_samples_have_no_thresholds():
    logits = np.full((60, 2), -1.0)
    logits[49:] = np.nan
    assert thresholds.fit(logits, np.ones((60, 2))) == ()
    same = np.ones((3, 2))
    assert thresholds.shift_logits(same, (), "multilabel") is same


def labelled() -> Predictions:
    """Return predictions of two rare labels, the second sample without audio."""
    chance = np.random.default_rng(1)
    target = (chance.random((N, 2)) < 0.1).astype(np.float32)
    tables = {}
    for name, strength in (("audio", 1.0), ("image", 1.5), ("audio+image", 2.5)):
        tables[name] = (strength * target - 2.5 + chance.normal(size=(N, 2))).astype(np.float32)
    tables["audio"][1] = np.nan
    keys = [f"k{i}" for i in range(N)]
    unimodal = {m: tables[m] for m in ("audio", "image")}
    return Predictions(
        keys, {"sample": keys}, target, dict(tables), unimodal, ["x", "y"], prior=[0.1, 0.1]
    )


THRESHOLDS = {
    "ensemble/audio+image": (0.2, 0.3),
    "ensemble/image": (0.1, 0.15),
    "unimodal/audio": (0.1, 0.5),
    "unimodal/image": (0.3, 0.2),
}
PROBABILISTIC = ("map", "auroc", "log_loss", "ece")


def test_thresholds_change_answers_and_no_probability():
    plain = labelled()
    decided = replace(plain, thresholds=THRESHOLDS)
    names = ["f1_samples", "f1_macro", *PROBABILISTIC]
    rows = []
    for predictions in (plain, decided):
        subset_rows, ratio_rows = Grid(predictions, 0, 2, 20, names).rows([(("audio",),)], [0.5])
        rows.append(subset_rows + ratio_rows)
    changed = set()
    for before, after in zip(*rows, strict=True):
        if before.value != after.value:
            changed.add(before.metric)
    assert changed == {"f1_samples", "f1_macro"}
    (row,) = [
        r for r in rows[1] if (r.model, r.left, r.metric) == ("unimodal", "image", "f1_macro")
    ]
    answers = expit(plain.unimodal["image"].astype(np.float64)) > [0.3, 0.2]
    assert row.value == pytest.approx(f1_score(plain.target, answers, average="macro"))


def test_a_sample_is_decided_by_what_is_present_of_it():
    """The second sample lacks audio, so its complete answer has the thresholds of image alone."""
    predictions = replace(labelled(), thresholds=THRESHOLDS)
    logits = predictions.ensemble["audio+image"]
    decided = predictions.decide("ensemble", "audio+image")
    np.testing.assert_allclose(decided[0], logits[0] - logit([0.2, 0.3]), rtol=1e-6)
    np.testing.assert_allclose(decided[1], logits[1] - logit([0.1, 0.15]), rtol=1e-6)
    average = predictions.decide("average", "audio+image")
    alone = [predictions.decide("unimodal", m) for m in ("audio", "image")]
    np.testing.assert_allclose(average[0], (alone[0][0] + alone[1][0]) / 2, rtol=1e-6)
    np.testing.assert_allclose(average[1], alone[1][1], rtol=1e-6)


def test_the_prior_predicts_every_label_that_training_has():
    """That is the highest F1 without looking at a sample; at 0.5 it would predict nothing."""
    predictions = replace(labelled(), thresholds=THRESHOLDS, prior=[0.1, 0.0])
    decided = predictions.decide("prior", "audio+image")
    assert (decided[:, 0] > 0).all()
    assert (decided[:, 1] < 0).all()
    assert (replace(predictions, thresholds={}).decide("prior", "image") < 0).all()


def test_references_of_a_comparison_have_their_own_thresholds():
    predictions = replace(labelled(), thresholds=THRESHOLDS)
    references = make_references(predictions)
    for name, model in ((AVERAGE, "average"), (PRIOR, "prior")):
        found = references[name].decide("ensemble", "audio+image")
        expected = predictions.decide(model, "audio+image")
        assert ((found > 0) == (expected > 0)).all(), name


def test_reports_are_of_the_answers_after_thresholds():
    predictions = replace(labelled(), thresholds=THRESHOLDS)
    scored = predictions.decide("ensemble", "image") > 0
    rows = [r for r in error_analysis.score_classes(predictions) if r.modalities == "image"]
    expected = f1_score(predictions.target, scored, average=None)
    assert [row.score for row in rows] == pytest.approx(expected.tolist())
    everything = error_analysis.selective_scores(predictions, 1)
    (all_answered,) = [r.score for r in everything if r.modalities == "image"]
    assert all_answered == pytest.approx(
        f1_score(predictions.target, scored, average="samples", zero_division=0.0)
    )
    bootstrap = Bootstrap(predictions.groups, 0, 10)
    metric = get("f1_macro", "multilabel", 2)
    (gap,) = [
        row.score
        for row in estimate_information(predictions, bootstrap, metric).gaps
        if row.modality == "image"
    ]
    unimodal = predictions.decide("unimodal", "image") > 0
    ceiling = f1_score(predictions.target, unimodal, average="macro")
    assert gap == pytest.approx(float(np.mean(expected)) - ceiling)


def test_saved_predictions_keep_their_thresholds(tmp_path: Path):
    path = tmp_path / "predictions.parquet"
    replace(labelled(), thresholds=THRESHOLDS).save(path, "x")
    loaded = Predictions.load(path, "x")
    assert loaded is not None
    assert loaded.thresholds == THRESHOLDS


def test_without_calibration_the_same_labels_are_answered():
    raw = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
    fitted = Calibration(2.0, (1.0, -1.5, 0.0))
    numbers = (0.5, 0.25, 0.9)
    calibrated = thresholds.shift_logits(fitted.apply(raw), numbers, "multilabel") > 0
    kept = leave_calibration_out({"ensemble/a": numbers}, {"ensemble/a": fitted}, "multilabel")
    answered = thresholds.shift_logits(raw, kept["ensemble/a"], "multilabel") > 0
    np.testing.assert_array_equal(answered, calibrated)
    # p > 0.5 of z / 2 + 1 is z > -2; without a calibration nothing changes.
    assert kept["ensemble/a"][0] == pytest.approx(expit(-2.0))
    same = leave_calibration_out({"probe/b": numbers, "probe/c": ()}, {}, "multilabel")
    assert same["probe/b"] == pytest.approx(numbers)
    assert same["probe/c"] == ()
    assert leave_calibration_out({"ensemble/a": numbers}, {}, "multiclass") == {}


def test_of_single_classes_a_threshold_scales_a_probability():
    """0.7 : 0.3 is the first class, but 0.7 / 0.9 < 0.3 / 0.1."""
    logits = np.log(np.array([[0.7, 0.3]]))
    assert thresholds.shift_logits(logits, (0.9, 0.1), "multiclass").argmax(1) == [1]
    assert thresholds.shift_logits(logits, (), "multiclass").argmax(1) == [0]


def test_folds_together_have_the_mean_of_their_thresholds():
    """The logits of 0.2 and 0.8 are -log 4 and log 4, so their mean is that of 0.5."""
    folds = []
    for number in (0.2, 0.8):
        folds.append(replace(labelled(), thresholds={"ensemble/image": (number, 0.3)}))
    assert pool_folds(folds).thresholds == {"ensemble/image": pytest.approx((0.5, 0.3))}

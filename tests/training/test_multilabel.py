"""A multi-label training on made data with rare labels learns as much as logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from toys.features import FeatureSplit, rare_labels, train_on_features

from umemma.evaluation.metrics import get
from umemma.evaluation.predictions import Predictions
from umemma.training import train

COMPLETE = "a+b"


def score(predictions: Predictions, name: str, subset: str = COMPLETE) -> float:
    metric = get(name, "multilabel", len(predictions.classes))
    logits = predictions.logits("ensemble", subset)
    if metric.of_answers:
        logits = predictions.decide("ensemble", subset)
    ones = np.ones(len(logits))
    if metric.ranked:
        return float(metric.ranked(logits, predictions.target, ones))
    return float(metric.value(metric.stats(logits, predictions.target).total(ones)))


def tuned_regression(splits: dict[str, FeatureSplit]) -> float:
    """Return the macro F1 of a logistic regression per label with thresholds tuned on val."""
    inputs = {}
    target = {}
    for name, split in splits.items():
        inputs[name] = np.concatenate([split.in_memory[m].numpy() for m in ("a", "b")], 1)
        target[name] = split.target.numpy()
    answers = []
    for c in range(target["train"].shape[1]):
        model = LogisticRegression(C=0.1, max_iter=500)
        model.fit(inputs["train"], target["train"][:, c])
        on_val = model.predict_proba(inputs["val"])[:, 1]
        cuts = np.quantile(on_val, np.linspace(0.5, 0.995, 100))
        scores = [f1_score(target["val"][:, c], on_val >= cut, zero_division=0.0) for cut in cuts]
        best = cuts[int(np.argmax(scores))]
        answers.append(model.predict_proba(inputs["test"])[:, 1] >= best)
    return f1_score(target["test"], np.stack(answers, 1), average="macro", zero_division=0.0)


@pytest.mark.slow
def test_rare_labels_are_learned_as_by_a_tuned_regression(tmp_path, monkeypatch):
    splits = rare_labels()
    trained = train_on_features(tmp_path / "new", splits)
    predictions = trained.predict(splits["test"])
    reference = tuned_regression(splits)
    assert score(predictions, "f1_macro") > reference - 0.02
    # Each subset has thresholds of its own, so one view alone is far above predicting everything.
    for subset in ("a", "b"):
        assert score(predictions, "f1_macro", subset) > score_of_prior(predictions) + 0.08
    # The same models at a fixed 0.5: half of it is lost, and no probability has changed.
    fixed = trained.predict(splits["test"], decides=False)
    assert score(fixed, "f1_macro") < 0.8 * score(predictions, "f1_macro")
    for name in ("map", "log_loss", "ece"):
        assert score(fixed, name) == score(predictions, name)
    # And epochs that are selected by F1 at a fixed 0.5, as they were: an early one wins.
    monkeypatch.setattr(train, "choose_metric", lambda *_: None)
    old = train_on_features(tmp_path / "old", splits).predict(splits["test"], decides=False)
    assert score(old, "f1_macro") < reference / 2
    assert score(old, "map") < score(predictions, "map") - 0.1


def score_of_prior(predictions: Predictions) -> float:
    answers = predictions.decide("prior", COMPLETE) > 0
    return f1_score(predictions.target, answers, average="macro")

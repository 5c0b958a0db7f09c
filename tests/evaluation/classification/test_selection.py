"""What selects the best epoch."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from umemma.errors import UserError
from umemma.evaluation.classification.selection import Selection, choose_metric, standard_error
from umemma.evaluation.metrics import get

N = 200
CHANCE = np.random.default_rng(0)
TARGET = CHANCE.integers(0, 3, N)
LOGITS = CHANCE.normal(size=(N, 2, 3)) + np.eye(3)[TARGET][:, None]
EQUAL = np.full((N, 2), 0.5)
GROUPS = {"sample": [f"k{i}" for i in range(N)]}


def test_a_score_is_the_weighted_mean_over_patterns():
    weights = np.tile([0.75, 0.25], (N, 1))
    weights[:50] = [1.0, 0.0]  # these samples lack the second pattern
    selection = Selection(get("balanced_accuracy", "multiclass", 3), TARGET, weights, GROUPS)
    scores = []
    for s in range(2):
        answers = LOGITS[:, s].argmax(1)
        scores.append(balanced_accuracy_score(TARGET, answers, sample_weight=weights[:, s]))
    expected = np.average(scores, weights=weights.sum(0))
    assert selection.score(LOGITS) == pytest.approx(expected)
    assert selection.shown(0.5) == "50.0 %"


def test_where_lower_is_better_the_score_is_negative():
    selection = Selection(get("log_loss", "multiclass", 3), TARGET, EQUAL, GROUPS)
    uniform = np.zeros((N, 2, 3))
    assert selection.score(uniform) == pytest.approx(-np.log(3))
    assert selection.score(LOGITS) > selection.score(uniform)
    assert selection.shown(-0.5) == "0.500"


def test_an_untrained_model_is_not_the_best_one():
    """Labels are rare. One model knows them well and gives at most 0.4; the other gives 0.5 or
    more to every label of every sample, and at a threshold of 0.5 it would win."""
    right = (CHANCE.random((N, 4)) < 0.1).astype(np.float32)
    knows = logit(np.where(right == 1, 0.4, 0.05))[:, None].repeat(2, 1)
    guesses = 0.1 * CHANCE.random((N, 2, 4))
    selection = Selection(get("f1_samples", "multilabel", 4), right, EQUAL, GROUPS)
    assert selection.score(knows) > selection.score(guesses)


def test_rankings_select_too():
    right = (CHANCE.random((N, 3)) < 0.3).astype(np.float32)
    selection = Selection(get("map", "multilabel", 3), right, EQUAL, GROUPS)
    expected = [average_precision_score(right, LOGITS[:, s], average="macro") for s in range(2)]
    assert selection.score(LOGITS) == pytest.approx(np.mean(expected))


def test_the_jackknife_of_a_mean_has_the_standard_error_of_a_mean():
    selection = Selection(get("accuracy", "multiclass", 3), TARGET, EQUAL, GROUPS)
    scores = selection.jackknife(LOGITS)
    assert scores[0] == pytest.approx(selection.score(LOGITS))
    assert len(scores) == 21
    right = (LOGITS.argmax(2) == TARGET[:, None]).mean(1)
    folds = [right[selection.folds == fold].mean() for fold in range(20)]
    assert standard_error(scores[1:]) == pytest.approx(np.std(folds, ddof=1) / 20**0.5)


def test_groups_stay_in_one_fold():
    groups = {"voice": [f"v{i % 7}" for i in range(N)], "sample": GROUPS["sample"]}
    folds = Selection(get("accuracy", "multiclass", 3), TARGET, EQUAL, groups).folds
    for voice in range(7):
        assert len(set(folds[voice::7])) == 1
    assert len(set(folds)) == 7


def test_what_the_setting_may_name():
    assert choose_metric(None, "multiclass", 3, "x") is None
    assert choose_metric(None, "multilabel", 3, "x").name == "f1_samples"
    assert choose_metric("map", "multilabel", 3, "x").name == "map"
    with pytest.raises(UserError, match="unknown metric to select an epoch by 'acuracy'") as error:
        choose_metric("acuracy", "multiclass", 3, "finetune: select")
    assert "Did you mean 'accuracy'" in error.value.hint
    with pytest.raises(UserError, match="'accuracy'"):
        choose_metric("accuracy", "multilabel", 3, "x")
    with pytest.raises(UserError, match="'ece'"):
        choose_metric("ece", "multiclass", 3, "x")

"""Metrics against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, top_k_accuracy_score
from sklearn.metrics import log_loss as sklearn_log_loss

from umemma.errors import UserError
from umemma.evaluation import metrics
from umemma.evaluation.metrics import Stats, get, sample_f1, score, select_metrics

CHANCE = np.random.default_rng(0)


LOGITS = CHANCE.normal(size=(200, 4)).astype(np.float32)


TARGET = CHANCE.integers(0, 4, 200)


LABELS = (CHANCE.random((200, 4)) < 0.4).astype(np.float32)


def value(name: str, logits: np.ndarray, target: np.ndarray) -> float:
    metric = get(name, metrics.task_of(target), logits.shape[1])
    if metric.ranked:
        return float(
            metric.ranked(
                logits,
                target,
                np.ones(len(target)),
            )
        )
    return float(metric.value(metric.stats(logits, target).total(np.ones(len(target)))))


@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "samples"])
def test_f1_is_scikit_learns(average):
    assert value(f"f1_{average}", LOGITS, LABELS) == pytest.approx(
        f1_score(LABELS, LOGITS > 0, average=average, zero_division=0.0)
    )
    if average != "samples":
        assert value(f"f1_{average}", LOGITS, TARGET) == pytest.approx(
            f1_score(TARGET, LOGITS.argmax(1), average=average)
        )


def test_the_others_are_scikit_learns():
    soft = np.exp(LOGITS.astype(np.float64)) / np.exp(LOGITS.astype(np.float64)).sum(
        1, keepdims=True
    )
    assert value(
        "log_loss",
        LOGITS,
        TARGET,
    ) == pytest.approx(sklearn_log_loss(TARGET, soft))
    assert value("top_2", LOGITS, TARGET) == pytest.approx(
        top_k_accuracy_score(TARGET, LOGITS, k=2)
    )
    rounded = LOGITS.round(1)  # ties
    weights = CHANCE.random(200)
    for target, table in ((TARGET, TARGET[:, None] == np.arange(4)), (LABELS, LABELS)):
        expected = average_precision_score(table, rounded, average="macro", sample_weight=weights)
        assert metrics.average_precision(rounded, target, weights) == pytest.approx(expected)


def test_calibration_error_by_hand():
    """Two answers of confidence 0.8 and one of 0.6; of the first two one is right, the third is
    right.
    """
    logits = np.log(np.array([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]]))
    assert value(
        "ece",
        logits,
        np.array([0, 1, 1]),
    ) == pytest.approx((abs(1.6 - 1) + abs(0.6 - 1)) / 3)
    sets = np.log(
        np.array([[0.8 / 0.2, 0.3 / 0.7]])
    )  # each label by itself: 0.8 and right, 0.3 and wrong
    assert value(
        "ece",
        sets,
        np.array([[1.0, 0.0]]),
    ) == pytest.approx((0.2 + 0.3) / 2)


def test_log_loss_of_sets_of_labels_is_the_mean_over_labels():
    assert value(
        "log_loss",
        np.zeros((3, 5)),
        np.ones((3, 5)),
    ) == pytest.approx(np.log(2))
    assert value(
        "log_loss",
        np.array([[800.0, -800.0]]),
        np.array([[1.0, 1.0]]),
    ) == pytest.approx(400)  # no infinity


def test_a_class_that_neither_occurs_nor_is_found_does_not_count():
    logits = np.eye(4)[[0, 1, 1]]
    assert (
        value(
            "f1_macro",
            logits,
            np.array([0, 1, 1]),
        )
        == 1.0
    )
    assert (
        value(
            "map",
            logits,
            np.array([0, 1, 1]),
        )
        == 1.0
    )


@pytest.mark.parametrize(
    ("names", "task", "message"),
    [
        (["accuracy", "top_9"], "multiclass", "top_9 doesn't fit: there are only 4 classes"),
        (["f1_samples"], "multiclass", "f1_samples doesn't fit: the task is multiclass"),
        (["accuracy"], "multilabel", "accuracy doesn't fit: the task is multilabel"),
        (["top_2"], "multilabel", "top_2 doesn't fit: the task is multilabel"),
        (["acuracy"], "multiclass", "unknown metric 'acuracy'\\nDid you mean 'accuracy'"),
        (["top_0"], "multiclass", "unknown metric 'top_0'"),
        (["log_loss"], "multiclass", "log_loss can't lead the tables"),
        (["ece", "accuracy"], "multiclass", "ece can't lead the tables"),
        ([], "multiclass", "at least one"),
        (["ece", "ece"], "multiclass", "each metric once"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(names, task, message):
    with pytest.raises(UserError, match=message) as error:
        select_metrics(names, task, 4)
    assert error.value.exit_status == 2


def test_what_is_usual():
    assert [m.name for m in select_metrics(None, "multiclass", 4)] == [
        "accuracy",
        "f1_macro",
        "log_loss",
        "ece",
    ]
    assert select_metrics(None, "multilabel", 4)[0].name == "f1_samples"
    assert get("log_loss", "multiclass", 4).shown(0.5) == "0.500"
    assert get("f1_macro", "multiclass", 4).shown(0.5) == "50.0 %"


def test_sets_of_labels_are_scored_by_f1_per_sample():
    target = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
    found = np.array([[1, 1, -1], [-1, 1, -1], [-1, -1, -1]], dtype=np.float32)
    assert sample_f1(found, target).tolist() == [
        0.5,
        1.0,
        0.0,
    ]  # 2 * 1 / (2 + 2); 2 * 1 / (1 + 1); nothing
    assert score(np.stack([found, target - 0.5], 1), target).tolist() == [
        [0.5, 1.0],
        [1.0, 1.0],
        [0.0, 0.0],
    ]
    assert np.isnan(sample_f1(np.full((1, 3), np.nan), target[:1])).all()


def test_sums_by_label_and_weight():
    each = Stats(
        np.array([[0, 2], [1, 2], [0, 2]]),
        np.array([[1.0, 5], [2, 5], [4, 5]]),
        3,
    )
    assert each.sum_by_label(
        np.array([1, 0, 1]),
        2,
        np.array([1.0, 1, 0.5]),
    ).tolist() == [
        [0, 2, 5],
        [3, 0, 7.5],
    ]
    assert each.total(np.array([1.0, 0, 1])).tolist() == [5, 0, 10]

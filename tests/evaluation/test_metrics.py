"""Metrics against scikit-learn and by hand; as sums they can be weighted and resampled."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, top_k_accuracy_score
from sklearn.metrics import log_loss as sklearn_log_loss

from umemma.errors import UserError
from umemma.evaluation import metrics
from umemma.evaluation.metrics import Bootstrap, Stats, chosen, get

CHANCE = np.random.default_rng(0)
LOGITS = CHANCE.normal(size=(200, 4)).astype(np.float32)
TARGET = CHANCE.integers(0, 4, 200)
LABELS = (CHANCE.random((200, 4)) < 0.4).astype(np.float32)


def value(name: str, logits: np.ndarray, target: np.ndarray) -> float:
    metric = get(name, metrics.task(target), logits.shape[1])
    if metric.ranked:
        return float(metric.ranked(logits, target, np.ones(len(target))))
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
    assert value("log_loss", LOGITS, TARGET) == pytest.approx(sklearn_log_loss(TARGET, soft))
    assert value("top_2", LOGITS, TARGET) == pytest.approx(
        top_k_accuracy_score(TARGET, LOGITS, k=2)
    )
    rounded = LOGITS.round(1)  # ties
    weights = CHANCE.random(200)
    for target, table in ((TARGET, TARGET[:, None] == np.arange(4)), (LABELS, LABELS)):
        expected = average_precision_score(table, rounded, average="macro", sample_weight=weights)
        assert metrics.average_precision(rounded, target, weights) == pytest.approx(expected)


def test_calibration_error_by_hand():
    """Two answers of confidence 0.8 and one of 0.6; of the first two one is right, the third is right."""
    logits = np.log(np.array([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]]))
    assert value("ece", logits, np.array([0, 1, 1])) == pytest.approx(
        (abs(1.6 - 1) + abs(0.6 - 1)) / 3
    )
    sets = np.log(
        np.array([[0.8 / 0.2, 0.3 / 0.7]])
    )  # each label by itself: 0.8 and right, 0.3 and wrong
    assert value("ece", sets, np.array([[1.0, 0.0]])) == pytest.approx((0.2 + 0.3) / 2)


def test_log_loss_of_sets_of_labels_is_the_mean_over_labels():
    assert value("log_loss", np.zeros((3, 5)), np.ones((3, 5))) == pytest.approx(np.log(2))
    assert value("log_loss", np.array([[800.0, -800.0]]), np.array([[1.0, 1.0]])) == pytest.approx(
        400
    )  # no infinity


def test_a_class_that_neither_occurs_nor_is_found_does_not_count():
    logits = np.eye(4)[[0, 1, 1]]
    assert value("f1_macro", logits, np.array([0, 1, 1])) == 1.0
    assert value("map", logits, np.array([0, 1, 1])) == 1.0


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
        chosen(names, task, 4)
    assert error.value.exit_status == 2


def test_what_is_usual():
    assert [m.name for m in chosen(None, "multiclass", 4)] == [
        "accuracy",
        "f1_macro",
        "log_loss",
        "ece",
    ]
    assert chosen(None, "multilabel", 4)[0].name == "f1_samples"
    assert get("log_loss", "multiclass", 4).shown(0.5) == "0.500"
    assert get("f1_macro", "multiclass", 4).shown(0.5) == "50.0 %"


def test_many_groups_are_put_together_and_the_interval_stays(monkeypatch):
    names = [f"g{i // 2}" for i in range(4000)]
    values = np.repeat(CHANCE.normal(size=2000), 2)
    exact = np.array(Bootstrap({"group": names}, 0, 2000).interval(values))
    monkeypatch.setattr(Bootstrap, "LIMIT", 500)
    coarse = Bootstrap({"group": names}, 0, 2000)
    assert coarse.clusterings[0].weights.shape == (2000, 500)
    low, high = exact
    assert coarse.interval(values) == pytest.approx(exact, abs=0.1 * (high - low))


def test_resamples_count_every_group_as_often_as_it_is_drawn():
    bootstrap = Bootstrap({"group": list("aab")}, 0, 100)
    (totals,) = bootstrap.totals(
        Stats(np.arange(2), np.array([[1.0, 1], [2, 1], [10, 1]]), 2), np.ones(3)
    )
    assert {tuple(row) for row in totals.tolist()} == {(6.0, 4.0), (13.0, 3.0), (20.0, 2.0)}
    assert (bootstrap.clusterings[0].weights.sum(1) == 2).all()


CROSSED = {
    "image": list("aabbccddee"),
    "voice": list("vwxyzvwxyz"),
}  # 5 groups each, no two samples in both alike
FIVE = (
    (5 / 4) ** 0.5 * 2.77645 / 1.95996
)  # what few groups cost: Student's t with 4 degrees of freedom


def test_variances_of_crossed_groupings_by_hand():
    """Draws of two values, 1 apart on either side of the estimate or 2: variances of 4, 1 and 2 give 4 + 1 - 2 = 3, which is
    less than the largest; with 4, 3 and 1 it is 6, half again."""
    bootstrap = Bootstrap(CROSSED, 0, 4)
    assert [(one.weights.shape, one.sign) for one in bootstrap.clusterings] == [
        ((4, 5), 1),
        ((4, 5), 1),
        ((4, 10), -1),
    ]
    assert bootstrap.counts == [5, 5]
    sides = np.array([-1.0, -1, 1, 1])

    def bounds(*variances: float) -> tuple[float, float]:
        return bootstrap.bounds(10 + np.sqrt(np.array(variances))[:, None] * sides, 10.0)

    assert bounds(4, 1, 2) == pytest.approx((10 - 2 * FIVE, 10 + 2 * FIVE), abs=1e-3)
    assert (
        bounds(4, 3, 1)
        == bounds(3, 4, 1)
        == pytest.approx((10 - 6**0.5 * FIVE, 10 + 6**0.5 * FIVE), abs=1e-3)
    )
    assert bounds(0, 0, 0) == (10, 10)


def test_three_groupings_are_added_by_inclusion_and_exclusion():
    groups = CROSSED | {"day": list("1211212122")}
    signs = [one.sign for one in Bootstrap(groups, 0, 2).clusterings]
    assert signs == [1, 1, 1, -1, -1, -1, 1]


def test_a_grouping_within_another_adds_nothing():
    values = np.arange(10.0)
    fine = {"pair": list("0123456789"), "half": list("0011223344")}
    coarse = {"half": fine["half"]}
    assert Bootstrap(fine, 0, 100).interval(values) == Bootstrap(coarse, 0, 100).interval(values)
    assert Bootstrap(fine | {"again": fine["half"]}, 0, 100).interval(values) == Bootstrap(
        coarse, 0, 100
    ).interval(values)


def test_few_groups_and_unequal_ones_widen_the_interval():
    assert Bootstrap({"a": list("abcde")}, 0, 2).stretches == pytest.approx([FIVE], abs=1e-4)
    (uneven,) = Bootstrap(
        {"a": list("aaaabc")}, 0, 2
    ).stretches  # 6 * 6 / (16 + 1 + 1) = 2 groups of equal size
    assert uneven == pytest.approx(2**0.5 * 12.7062 / 1.95996, abs=1e-4)
    assert np.isnan(
        Bootstrap({"a": list("aaa")}, 0, 10).interval(np.arange(3.0))
    ).all()  # one group tells nothing
    assert Bootstrap({"a": list("ab")}, 0, 50).interval(np.arange(2.0)) == (
        0,
        1,
    )  # no mean is beyond its values
    assert np.isnan(Bootstrap({"a": list("ab")}, 0, 50).interval(np.full(2, np.nan))).all()


def test_one_effect_of_two_groupings_is_found_whichever_has_it():
    """50 images and 50 voices, every pair; the values are those of the image, or of the voice, so the interval is as wide as
    that of the one grouping alone, and much wider than that of the samples."""
    number = np.arange(2500)
    groups = {"image": [str(n // 50) for n in number], "voice": [str(n % 50) for n in number]}
    of_image = np.repeat(np.random.default_rng(0).normal(size=50), 50)
    of_voice = of_image.reshape(50, 50).T.ravel()
    width = {}
    for name, values in (("image", of_image), ("voice", of_voice)):
        low, high = Bootstrap(groups, 0, 500).interval(values)
        width[name] = high - low
    low, high = Bootstrap({"image": groups["image"]}, 0, 500).interval(of_image)
    assert width["image"] == pytest.approx(high - low, rel=0.15)
    assert width["voice"] == pytest.approx(high - low, rel=0.15)
    low, high = Bootstrap({"sample": [str(n) for n in number]}, 0, 500).interval(of_image)
    assert width["image"] > 5 * (high - low)


def test_sums_by_label_and_weight():
    each = Stats(np.array([[0, 2], [1, 2], [0, 2]]), np.array([[1.0, 5], [2, 5], [4, 5]]), 3)
    assert each.by(np.array([1, 0, 1]), 2, np.array([1.0, 1, 0.5])).tolist() == [
        [0, 2, 5],
        [3, 0, 7.5],
    ]
    assert each.total(np.array([1.0, 0, 1])).tolist() == [5, 0, 10]

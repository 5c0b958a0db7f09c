"""AUROC, average precision, balanced accuracy, MCC and Cohen's kappa against scikit-learn's."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sklearn_metrics

from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.grid import Grid
from umemma.evaluation.metrics import get, task_of
from umemma.evaluation.predictions import Predictions

CASES = 200
EXACT = 1e-12

Case = tuple[np.ndarray, np.ndarray, np.ndarray]


def value(name: str, logits: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    metric = get(name, task_of(target), logits.shape[1])
    if metric.ranked:
        return float(metric.ranked(logits, target, weights))
    return float(metric.value(metric.stats(logits, target).total(weights)))


def random_case(seed: int, multilabel: bool = False) -> Case:
    """Return logits with ties, the target, in which every class occurs, and weights."""
    chance = np.random.default_rng(seed)
    samples = int(chance.integers(10, 80))
    classes = int(chance.integers(2, 7))
    digits = int(chance.integers(0, 3))  # few digits make ties
    logits = chance.normal(size=(samples, classes)).round(digits)
    weights = chance.random(samples) + 0.1
    if multilabel:
        target = (chance.random((samples, classes)) < chance.uniform(0.05, 0.6)).astype(np.float32)
        target[:2] = [[0.0], [1.0]]
        return logits, target, weights
    target = chance.choice(classes, samples, p=chance.dirichlet(np.ones(classes)))
    target[:classes] = np.arange(classes)
    return logits, target, weights


def one_hot(target: np.ndarray, classes: int) -> np.ndarray:
    return (target[:, None] == np.arange(classes)).astype(int)


def sklearn_auroc(logits: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean over classes of scikit-learn's binary AUROC."""
    table, scores = target, logits
    if target.ndim == 1:
        table, scores = one_hot(target, logits.shape[1]), softmax(logits, axis=1)
    return float(sklearn_metrics.roc_auc_score(table, scores, sample_weight=weights))


def sklearn_precision(logits: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    table = target
    if target.ndim == 1:
        table = one_hot(target, logits.shape[1])
    return float(sklearn_metrics.average_precision_score(table, logits, sample_weight=weights))


def of_answers(
    score: Callable[..., float],
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], float]:
    def compute(logits: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
        return score(target, logits.argmax(1), sample_weight=weights)

    return compute


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize(
    ("name", "expected"), [("auroc", sklearn_auroc), ("map", sklearn_precision)]
)
def test_ranked_metrics_are_scikit_learns_with_ties_and_weights(name, expected, multilabel):
    for seed in range(CASES):
        case = random_case(seed, multilabel)
        assert value(name, *case) == pytest.approx(expected(*case), abs=EXACT)


def test_one_against_the_rest_is_scikit_learns_multiclass_auroc():
    for seed in range(CASES):
        logits, target, weights = random_case(seed)
        if logits.shape[1] == 2:
            continue
        expected = sklearn_metrics.roc_auc_score(
            target, softmax(logits, axis=1), multi_class="ovr", sample_weight=weights
        )
        assert value("auroc", logits, target, weights) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("balanced_accuracy", sklearn_metrics.balanced_accuracy_score),
        ("mcc", sklearn_metrics.matthews_corrcoef),
        ("kappa", sklearn_metrics.cohen_kappa_score),
    ],
)
def test_metrics_of_answers_are_scikit_learns_with_weights(name, score):
    expected = of_answers(score)
    for seed in range(CASES):
        case = random_case(seed)
        assert value(name, *case) == pytest.approx(expected(*case), abs=EXACT)


def test_a_class_that_never_occurs_does_not_count():
    """Of three classes the last one never occurs; a sample of the second is taken for it."""
    logits = np.array([[4.0, 0, 0], [3, 1, 0], [0, 1, 2], [0, 3, 1]])
    target = np.array([0, 0, 1, 1])
    ones = np.ones(4)
    assert value("balanced_accuracy", logits, target, ones) == pytest.approx(0.75)
    assert value("auroc", logits, target, ones) == pytest.approx(1.0)
    assert value("mcc", logits, target, ones) == pytest.approx(
        sklearn_metrics.matthews_corrcoef(target, logits.argmax(1)), abs=EXACT
    )
    labels = np.array([[1.0, 0], [0, 0], [1, 0], [0, 0]])  # the second label never occurs
    assert value("auroc", logits[:, :2], labels, ones) == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("balanced_accuracy", 0.5), ("mcc", 0.0), ("kappa", 0.0), ("auroc", 0.5), ("map", 0.5)],
)
def test_a_constant_answer_tells_nothing(name, expected):
    """Two classes of six samples each; every sample gets the same logits."""
    target = np.arange(12) % 2
    logits = np.tile([1.0, 0.0], (12, 1))
    assert value(name, logits, target, np.ones(12)) == pytest.approx(expected)


def test_where_all_is_of_one_class_there_is_nothing_to_measure():
    logits = np.tile([1.0, 0.0], (3, 1))
    target = np.zeros(3, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(value("kappa", logits, target, np.ones(3)))
        assert np.isnan(value("auroc", logits, target, np.ones(3)))
        assert value("mcc", logits, target, np.ones(3)) == 0.0  # as in scikit-learn
        assert value("balanced_accuracy", logits, target, np.ones(3)) == 1.0


def predictions(samples: int = 60) -> Predictions:
    chance = np.random.default_rng(0)
    target = chance.integers(0, 3, samples)
    logits = {}
    for name, strength in (("audio", 1.0), ("audio+image", 2.0), ("image", 0.5)):
        signal = strength * np.eye(3)[target]
        logits[name] = (signal + chance.normal(size=(samples, 3))).astype(np.float32)
    keys = [f"s{i}" for i in range(samples)]
    unimodal = {m: logits[m] for m in ("audio", "image")}
    return Predictions(keys, {"sample": keys}, target, logits, unimodal, ["a", "b", "c"])


NEW = ("balanced_accuracy", "mcc", "kappa", "auroc")


@pytest.mark.parametrize("name", NEW)
def test_in_the_grid_a_ratio_is_the_metric_of_the_mixture(name):
    """At 0.25 each sample counts 3/4 with its complete answer and 1/4 with the one from image."""
    known = predictions()
    grid = Grid(known, 0, 1, 50, ["accuracy", name])
    rows = list(grid.ratios(grid.metrics[1], [(("audio",),)], [0.0, 0.25, 1.0]))
    expectations = [row for row in rows if row.model == "ensemble" and row.draw == -1]
    logits = np.concatenate([known.ensemble["audio+image"], known.ensemble["image"]])
    target = np.concatenate([known.target] * 2)
    for row in expectations:
        weights = np.repeat([1 - row.ratio, row.ratio], len(known.keys))
        assert row.value == pytest.approx(value(name, logits, target, weights), abs=EXACT)


@pytest.mark.parametrize("name", NEW)
def test_in_the_grid_the_interval_is_that_of_the_resampled_groups(name):
    known = predictions()
    grid = Grid(known, 0, 0, 50, ["accuracy", name])
    row = next(iter(grid.subsets(grid.metrics[1])))
    bootstrap = Bootstrap(known.groups, 0, 50)
    (clustering,) = bootstrap.clusterings
    draws = []
    for counts in clustering.weights:
        rows = np.repeat(np.arange(len(known.keys)), counts[clustering.member].astype(int))
        ones = np.ones(len(rows))
        draws.append(value(name, known.ensemble["audio+image"][rows], known.target[rows], ones))
    bounds = bootstrap.bounds(np.array([draws]), row.value)
    assert (row.low, row.high) == pytest.approx(np.clip(bounds, -np.inf, 1.0), abs=1e-9)

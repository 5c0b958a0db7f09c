"""The answers one by one: how sure they may be (selective prediction, reliability), and which classes they get wrong.

Rows are over the samples that have logits, of each subset of the ensemble. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from umemma.evaluation.calibration import probabilities
from umemma.evaluation.metrics import get, score, task
from umemma.evaluation.predictions import Predictions


class Answered(NamedTuple):
    """The `n` most confident answers, a share `coverage` of all: their mean score, and the least confidence of them."""

    modalities: str
    coverage: float
    n: int
    score: float
    confidence: float


class Bin(NamedTuple):
    """Of the calibration diagram. For sets of labels each label's probability counts, and how often the label is there."""

    modalities: str
    confidence: float
    right: float
    n: int


class ClassScore(NamedTuple):
    """Recall of a class, or F1 of a label; None where it neither occurs nor is found. n: samples it belongs to."""

    name: str
    modalities: str
    n: int
    score: float | None


class Confusion(NamedTuple):
    """`n` samples of class `right` answered as `answered`, a share of all that are `right`."""

    right: str
    answered: str
    n: int
    share: float


def selective(predictions: Predictions, points: int = 20) -> list[Answered]:
    """What each subset scores where only the most confident share of the samples is answered, in `points` equal steps.

    Reference: Geifman & El-Yaniv, Selective classification for deep neural networks, NIPS 2017.
    """
    rows = []
    for subset, logits in predictions.ensemble.items():
        sure, means = _by_confidence(logits, predictions.target)
        for n in sorted({-(-len(sure) * step // points) for step in range(1, points + 1)} - {0}):
            rows.append(Answered(subset, n / len(sure), n, float(means[n - 1]), float(sure[n - 1])))
    return rows


def aurc(logits: np.ndarray, target: np.ndarray) -> float:
    """The area under risk (1 - score) against coverage, mean over every n; NaN of no logits. Lower is better."""
    means = _by_confidence(logits, target)[1]
    return float(1 - means.mean()) if len(means) else float("nan")


def reliability(predictions: Predictions) -> list[Bin]:
    """The bins of each subset's calibration diagram that hold anything. Reference: Guo et al., ICML 2017."""
    rows = []
    for subset, logits in predictions.ensemble.items():
        sums = _sums("ece", logits, predictions.target)
        for sure, right, count in zip(*np.split(sums, 3), strict=True):
            if count:
                rows.append(Bin(subset, float(sure / count), float(right / count), int(count)))
    return rows


def per_class(predictions: Predictions) -> list[ClassScore]:
    """Each class under each subset."""
    rows = []
    for subset, logits in predictions.ensemble.items():
        hit, found, right = np.split(_sums("f1_macro", logits, predictions.target), 3)
        whole = right if predictions.target.ndim == 1 else (found + right) / 2
        for name, n, ours, all_ in zip(predictions.classes, right, hit, whole, strict=True):
            rows.append(ClassScore(name, subset, int(n), float(ours / all_) if all_ else None))
    return rows


def confusion(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(C, C) counts, the target's row and the answer's column; for single classes. Samples without logits don't count."""
    there = ~np.isnan(logits).any(1)
    classes = logits.shape[1]
    pairs = target[there] * classes + logits[there].argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def confused(matrix: np.ndarray, classes: Sequence[str], most: int = 10) -> list[Confusion]:
    """The most frequent confusions of a (C, C) matrix, `most` at most."""
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    rows = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:most]:
        right, answered = divmod(int(place), len(matrix))
        if count := int(wrong[right, answered]):
            rows.append(
                Confusion(
                    classes[right], classes[answered], count, count / int(matrix[right].sum())
                )
            )
    return rows


def _sums(metric: str, logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(K,) the sums that a metric is made of, over the samples with logits."""
    there = ~np.isnan(logits).any(1)
    stats = get(metric, task(target), logits.shape[1]).stats
    assert stats is not None  # only average precision has none
    return stats(logits[there], target[there]).total(np.ones(there.sum()))


def _by_confidence(logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) confidences of the samples with logits, highest first, and (n,) the mean score of all down to each. Confidence
    is the largest probability, of sets of labels the mean over labels of that of the answer. Equally confident samples
    stand in no order: each counts as their mean."""
    there = ~np.isnan(logits).any(1)
    p = probabilities(logits[there], task(target))
    sure = p.max(1) if target.ndim == 1 else np.maximum(p, 1 - p).mean(1)
    levels, level = np.unique(-sure, return_inverse=True)
    counts = np.bincount(level, minlength=len(levels))
    means = np.bincount(level, score(logits[there], target[there]), len(levels)) / counts
    return np.repeat(-levels, counts), np.cumsum(np.repeat(means, counts)) / np.arange(
        1, len(sure) + 1
    )

"""Metrics that need the samples in order of their scores: average precision and AUROC.

Each takes (N, C) logits, the target and (..., N) weights, each of which gives one of the values
(...). It is the mean over the classes for which it is defined: those that occur, and for AUROC
don't belong to every sample. NaN where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import softmax

SMALLEST = 1e-300  # keeps a division by 0 from being one


def average_precision(logits: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over classes of the area under precision against recall.

    This is scikit-learn's average_precision_score (macro).
    """
    return _mean_over_classes(logits, target, weights, _average_precision)


def auroc(logits: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over classes of the area under the receiver operating characteristic.

    It is the probability that a sample of the class is scored above one of the others, ties half.
    Single classes are scored by their probabilities, each against the rest, as in scikit-learn's
    roc_auc_score (macro, ovr). Reference: Fawcett, An introduction to ROC analysis, 2006.
    """
    scores = logits
    if target.ndim == 1:
        scores = softmax(logits.astype(np.float64), axis=-1)
    return _mean_over_classes(scores, target, weights, _auroc)


def _average_precision(right: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    steps = np.diff(right, prepend=0.0) * right / np.maximum(predicted, SMALLEST)
    return np.asarray(steps.sum(-1) / right[..., -1])


def _auroc(right: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    wrong = predicted - right
    width = np.diff(wrong, prepend=0.0)
    height = right - np.diff(right, prepend=0.0) / 2
    return np.asarray((width * height).sum(-1) / (right[..., -1] * wrong[..., -1]))


def _mean_over_classes(
    scores: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return (...): the mean of `measure`, which gets `_cumulate`'s sums, over the classes."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.array([measure(*sums) for sums in _cumulate(scores, target, weights)])
        counted = np.isfinite(values)
        return np.asarray(np.where(counted, values, 0.0).sum(0) / counted.sum(0))


def _cumulate(
    scores: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each class, from the highest score down, the weight that is right and that of all.

    Both are (..., L) sums at the L levels of the score; samples of equal score are one level.
    """
    table = target
    if target.ndim == 1:
        table = target[:, None] == np.arange(scores.shape[1])
    for c in range(scores.shape[1]):
        order = np.argsort(-scores[:, c], kind="stable")
        differs = np.diff(scores[order, c]) != 0
        ends = np.append(differs, True)
        predicted = np.cumsum(weights[..., order], -1)[..., ends]
        right = np.cumsum(weights[..., order] * table[order, c], -1)[..., ends]
        yield right, predicted

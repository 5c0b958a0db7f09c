"""Metrics of answers that are made from counts of each class.

Each takes (..., 3C) sums: for each class how often it was predicted and right, how often it was
predicted, and how often it was right. So they can be mixed, weighted and resampled. Each gives
(...) values.
"""

from __future__ import annotations

import numpy as np

NOTHING = 1e-13  # a share below this is one of rounding
SMALLEST = 1e-300  # keeps a division by 0 from being one


def f1_macro(sums: np.ndarray) -> np.ndarray:
    """Return the mean F1 of the classes that are predicted or right; scikit-learn's f1_score."""
    return _f1(sums, "macro")


def f1_micro(sums: np.ndarray) -> np.ndarray:
    return _f1(sums, "micro")


def f1_weighted(sums: np.ndarray) -> np.ndarray:
    return _f1(sums, "weighted")


def _f1(sums: np.ndarray, average: str) -> np.ndarray:
    both, predicted, right = np.split(sums, 3, -1)
    with np.errstate(invalid="ignore"):
        if average == "micro":
            return 2 * both.sum(-1) / (predicted.sum(-1) + right.sum(-1))
        each = 2 * both / np.maximum(predicted + right, SMALLEST)
        weight = (predicted + right > 0).astype(np.float64)
        if average == "weighted":
            weight = right
        return (each * weight).sum(-1) / weight.sum(-1)


def balanced_accuracy(sums: np.ndarray) -> np.ndarray:
    """Return the mean recall of the classes that occur; scikit-learn's balanced_accuracy_score."""
    hits, _, right = np.split(sums, 3, -1)
    occurs = right > 0
    recalls = np.divide(hits, right, out=np.zeros_like(hits), where=occurs)
    with np.errstate(invalid="ignore"):
        return recalls.sum(-1) / occurs.sum(-1)


def matthews_correlation(sums: np.ndarray) -> np.ndarray:
    """Return the correlation of answers and classes, -1..1; scikit-learn's matthews_corrcoef.

    It is 0 where all answers, or all samples, are of one class. Reference: Gorodkin, Comparing two
    K-category assignments by a K-category correlation coefficient, Comput. Biol. Chem. 2004.
    """
    hits, predicted, right = _shares(sums)
    covariance = hits - (predicted * right).sum(-1)
    variances = (1 - (predicted**2).sum(-1), 1 - (right**2).sum(-1))
    is_varied = np.minimum(*variances) > NOTHING
    scale = np.sqrt(np.where(is_varied, variances[0] * variances[1], 1.0))
    return np.where(is_varied, covariance / scale, np.where(np.isnan(hits), np.nan, 0.0))


def cohen_kappa(sums: np.ndarray) -> np.ndarray:
    """Return the agreement beyond that of chance, up to 1; scikit-learn's cohen_kappa_score.

    NaN where both the answers and the samples are all of one class. Reference: Cohen, A coefficient
    of agreement for nominal scales, Educ. Psychol. Meas. 1960.
    """
    hits, predicted, right = _shares(sums)
    chance = (predicted * right).sum(-1)
    room = 1 - chance
    return np.where(room > NOTHING, (hits - chance) / np.where(room > NOTHING, room, 1.0), np.nan)


def _shares(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the share of right answers (...), and the shares of each class (..., C) twice:
    among the answers and among the samples."""
    hits, predicted, right = np.split(sums, 3, -1)
    total = right.sum(-1)
    with np.errstate(invalid="ignore"):
        share = hits.sum(-1) / total
        return share, predicted / total[..., None], right / total[..., None]

"""What the answers of a regression are worth: values of each sample, and sums over samples.

`umemma/evaluation/metrics.py` makes its metrics of them. Shapes: outputs (N, ..., 2T), see
`gaussian`; target (N, T) float64, standardized by the training samples. A value is NaN where the
outputs are. No torch.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from umemma.evaluation.regression.gaussian import INTERVAL, LOG_2PI, half_width, to_gaussian

BINS = 15  # levels of central intervals, for the calibration error

# Values of each sample. -------------------------------------------------------------------------


def negative_log_likelihood(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N,) nats of the standardized target, the mean over targets."""
    mean, precision = to_gaussian(outputs)
    squares = precision * (target - mean) ** 2
    return (LOG_2PI - np.log(precision) + squares).mean(-1) / 2


def absolute_error(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N,) absolute errors of the standardized target, the mean over targets."""
    mean, _ = to_gaussian(outputs)
    return np.abs(target - mean).mean(-1)


def score(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N, ...) of (N, ..., 2T) outputs: 1 - squared error / variance of these targets.

    The mean over targets. Its mean over all samples is R2.
    """
    mean, _ = to_gaussian(outputs)
    variance = target.var(0)
    variance = np.where(variance > 0, variance, 1.0)
    more_axes = [1] * (outputs.ndim - 2)
    target = target.reshape(len(target), *more_axes, -1)
    return (1 - (target - mean) ** 2 / variance).mean(-1)


def is_covered(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N,): the share of the targets that lie within their 95 % interval."""
    distance = _standardized_distance(outputs, target)
    covered = distance <= half_width(INTERVAL)
    return np.where(np.isnan(distance).any(-1), np.nan, covered.mean(-1))


def mean_deviation(outputs: np.ndarray) -> np.ndarray:
    """Return (N,) predicted standard deviations, the mean over targets."""
    _, precision = to_gaussian(outputs)
    return (precision**-0.5).mean(-1)


def label_surprise(target: np.ndarray) -> np.ndarray:
    """Return (N,) nats, summed over targets, under the normal distribution of these targets.

    Its mean is the entropy of that distribution, the largest that any has with these variances.
    """
    variance = target.var(0)
    squares = (target - target.mean(0)) ** 2 / variance
    return (LOG_2PI + np.log(variance) + squares).sum(1) / 2


def _standardized_distance(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    mean, precision = to_gaussian(outputs)
    return np.abs(target - mean) * np.sqrt(precision)


# Sums of each sample, and values of sums. -------------------------------------------------------


def list_squared_errors(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N, T + 1): the squared error of each target, and 1."""
    mean, _ = to_gaussian(outputs)
    return np.column_stack([(target - mean) ** 2, np.ones(len(target))])


def root_mean_square(sums: np.ndarray) -> np.ndarray:
    """Return (...) from (..., T + 1) sums: the mean over targets of the root mean squared error."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(sums[..., :-1] / sums[..., -1:]).mean(-1)


def list_moments(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N, 3T + 1): squared error, target and squared target of each target, and 1."""
    errors = list_squared_errors(outputs, target)
    return np.concatenate([errors[:, :-1], target, target**2, errors[:, -1:]], 1)


def r2_of_targets(sums: np.ndarray) -> np.ndarray:
    """Return (..., T) shares of the variance of each target that is explained."""
    errors, totals, squares = np.split(sums[..., :-1], 3, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - errors / (squares - totals**2 / sums[..., -1:])


def r2(sums: np.ndarray) -> np.ndarray:
    """Return (...) from (..., 3T + 1) sums: scikit-learn's r2_score, the mean over targets."""
    return np.asarray(r2_of_targets(sums).mean(-1))


def list_levels() -> np.ndarray:
    """Return the (BINS,) levels of the central intervals that calibration is judged by."""
    return (np.arange(BINS) + 0.5) / BINS


def count_levels(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N, 3 BINS): for each level the targets expected in its interval, those in it, all.

    Reference: Kuleshov, Fenner & Ermon, Accurate uncertainties for deep learning using calibrated
    regression, ICML 2018.
    """
    targets = target.shape[1]
    levels = list_levels()
    distance = _standardized_distance(outputs, target)
    inside = distance[..., None] <= ndtri((1 + levels) / 2)
    expected = np.tile(targets * levels, (len(target), 1))
    return np.concatenate([expected, inside.sum(1), np.full_like(expected, targets)], 1)

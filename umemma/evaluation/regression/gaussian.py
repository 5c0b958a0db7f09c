"""A regression answers with a normal distribution for each target; how it is calibrated.

A model gives 2T numbers for T targets, first `a`, then `b` of each target. They stand for
N(mean, 1 / precision) of the standardized target z:

    precision = softplus(b) + TINY        mean = a / precision

a and the precision are the natural parameters of a normal distribution. The mean of the numbers of
several modalities, which the fusion `mean` computes, is therefore a product of their distributions
(a logarithmic opinion pool, as the mean of logits is of classes; exactly so where softplus is
linear, at precisions well above 1): a modality that is not sure has little weight.

A temperature divides both natural parameters: the mean stays, the variance is multiplied.

Shapes: outputs (N, ..., 2T), target (N, T) float64, standardized by the training samples. No torch.

Reference: Nix & Weigend, Estimating the mean and variance of the target probability distribution,
ICNN 1994; Genest & Zidek, Combining probability distributions, Statistical Science 1986 (the pool).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

TINY = 1e-6  # smallest precision: a standard deviation of 1000 of the target's
INTERVAL = 0.95  # of the intervals that predictions have
LOG_2PI = math.log(2 * math.pi)


def is_regression(width: int, target: np.ndarray) -> bool:
    """Return whether models with `width` outputs and this target are of a regression.

    A classifier has as many outputs as a set of labels has columns; a regression has twice as many.
    """
    return target.ndim == 2 and width == 2 * target.shape[1]


def to_gaussian(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means and the precisions, (..., T) float64 each."""
    a, b = np.split(outputs.astype(np.float64), 2, -1)
    precision = np.logaddexp(0.0, b) + TINY
    return a / precision, precision


def to_outputs(mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the (..., 2T) outputs that `to_gaussian` makes these (..., T) of."""
    p = np.maximum(precision - TINY, TINY)  # softplus is above 0
    b = p + np.log(-np.expm1(-p))
    return np.concatenate([mean * (p + TINY), b], -1)


def prior_outputs(targets: int) -> np.ndarray:
    """Return the (2T,) outputs of the training samples' own distribution, N(0, 1)."""
    return to_outputs(np.zeros(targets), np.ones(targets))


def calibrate(
    outputs: np.ndarray, temperature: float | np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Return outputs with the variance times `temperature` and the mean plus the (T,) `shift`.

    Both may have a row for each sample.
    """
    mean, precision = to_gaussian(outputs)
    return to_outputs(mean + shift, precision / temperature)


def losses_and_slopes(
    x: np.ndarray, outputs: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) negative log-likelihoods, summed over targets, and their (N, len(x)) slopes.

    x: (1 / temperature, *shift), without shift of length 1.
    """
    mean, precision = to_gaussian(outputs)
    errors = target - mean - _shift_of(x)
    scaled = x[0] * precision
    losses = (LOG_2PI - np.log(scaled) + scaled * errors**2).sum(1) / 2
    by_scale = (precision * errors**2 - 1 / x[0]).sum(1) / 2
    if len(x) == 1:
        return losses, by_scale[:, None]
    return losses, np.column_stack([by_scale, -scaled * errors])


def _shift_of(x: np.ndarray) -> np.ndarray:
    if len(x) == 1:
        return np.zeros(1)
    return x[1:]


def half_width(level: float) -> float:
    """Return half the width of a central interval, in standard deviations."""
    return float(ndtri((1 + level) / 2))

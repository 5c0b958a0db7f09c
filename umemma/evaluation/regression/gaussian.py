"""A regression answers with a normal distribution for each target; how it is calibrated.

A model gives 2T numbers for T targets, first `a`, then `b` of each target. They stand for
N(mean, 1 / precision) of the standardized target:

    precision = softplus(SHARPNESS b) / SHARPNESS + TINY        mean = a / precision

a and the precision are the natural parameters of a normal distribution, and the sharp softplus is
b itself but for b near 0 and below. So the mean of the numbers of several modalities, which the
fusion `mean` computes, is a product of their distributions, as the mean of logits is of classes (a
logarithmic opinion pool): a modality that is not sure has little weight. With a plain softplus a
weight of a modality would change what it answers alone.

Calibration is `natural parameters / temperature + bias`, as of logits. The temperature alone leaves
the mean and multiplies the variance. A bias multiplies by one more normal distribution, or divides
by it: modalities that are independent given the target each count its prior, once too often.

Shapes: outputs (N, ..., 2T), target (N, T) float64, standardized by the training samples. No torch.

Reference: Nix & Weigend, Estimating the mean and variance of the target probability distribution,
ICNN 1994; Genest & Zidek, Combining probability distributions, Statistical Science 1986 (the pool).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

SHARPNESS = 10.0
TINY = 1e-6  # smallest precision: a standard deviation of 1000 of the target's
FLOOR = 0.01  # smallest precision after a bias: a standard deviation of 10 of the target's
INTERVAL = 0.95  # of the intervals that predictions have
LOG_2PI = math.log(2 * math.pi)


def is_regression(width: int, target: np.ndarray) -> bool:
    """Return whether models with `width` outputs and this target are of a regression.

    A classifier has as many outputs as a set of labels has columns; a regression has twice as many.
    """
    return target.ndim == 2 and width == 2 * target.shape[1]


def to_gaussian(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means and the precisions, (..., T) float64 each; NaN where the outputs are."""
    a, precision = _to_natural(outputs)
    return a / precision, precision


def to_outputs(a: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the (..., 2T) outputs that stand for these (..., T) natural parameters."""
    scaled = SHARPNESS * np.maximum(precision - TINY, TINY)  # softplus is above 0
    b = (scaled + np.log(-np.expm1(-scaled))) / SHARPNESS
    return np.concatenate([a, b], -1)


def _to_natural(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.split(outputs.astype(np.float64), 2, -1)
    with np.errstate(invalid="ignore"):  # NaN
        return a, np.logaddexp(0.0, SHARPNESS * b) / SHARPNESS + TINY


def prior_outputs(targets: int) -> np.ndarray:
    """Return the (2T,) outputs of the training samples' own distribution, N(0, 1)."""
    return to_outputs(np.zeros(targets), np.ones(targets))


def rescale(outputs: np.ndarray, factor: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return the outputs for the targets `factor` * target + `offset`, (T,) each."""
    mean, precision = to_gaussian(outputs)
    precision = precision / factor**2
    return to_outputs((mean * factor + offset) * precision, precision)


def half_width(level: float) -> float:
    """Return half the width of a central interval, in standard deviations."""
    return float(ndtri((1 + level) / 2))


# Calibration. -----------------------------------------------------------------------------------


def calibrate(outputs: np.ndarray, temperature: float | np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return outputs whose natural parameters are divided by `temperature`, plus `bias`.

    bias: (2T,), or (1,) of 0 for none. Both may have a row for each sample.
    """
    natural = np.concatenate(_to_natural(outputs), -1) / temperature + bias
    a, precision = np.split(natural, 2, -1)
    return to_outputs(a, _limit(precision, bias))


def undo_calibration(outputs: np.ndarray, temperature: float, bias: np.ndarray) -> np.ndarray:
    """Return the outputs that `calibrate` was given, but for rounding and limited precisions."""
    natural = np.concatenate(_to_natural(outputs), -1)
    a, precision = np.split((natural - bias) * temperature, 2, -1)
    return to_outputs(a, precision)


def _limit(precision: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return precisions of at least FLOOR where a bias may have taken them below."""
    floor = np.where(bias.any(-1, keepdims=True), FLOOR, 0.0)
    return np.maximum(precision, floor)


def losses_and_slopes(
    x: np.ndarray, outputs: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) negative log-likelihoods, summed over targets, and their (N, len(x)) slopes.

    x: (1 / temperature, *bias), without bias of length 1. In x the losses are convex.
    """
    raw_a, raw_precision = _to_natural(outputs)
    bias = np.zeros(1)
    if len(x) > 1:
        bias = x[1:]
    shifts = np.broadcast_to(bias, outputs.shape[-1:])
    a_shift, precision_shift = np.split(shifts, 2)
    a = x[0] * raw_a + a_shift
    precision = _limit(x[0] * raw_precision + precision_shift, bias)
    mean = a / precision
    losses = (LOG_2PI - np.log(precision) + precision * (target - mean) ** 2).sum(1) / 2
    by_a = mean - target
    by_precision = (target**2 - mean**2 - 1 / precision) / 2
    by_scale = (by_a * raw_a + by_precision * raw_precision).sum(1)
    if len(x) == 1:
        return losses, by_scale[:, None]
    return losses, np.column_stack([by_scale, by_a, by_precision])

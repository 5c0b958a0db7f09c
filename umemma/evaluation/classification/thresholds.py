"""Thresholds: from which probability on a class is the answer.

In a multi-label task a label is predicted where its probability exceeds its threshold. 0.5 makes
the fewest mistakes per label; but scores such as F1 count what is found, and the probability of a
rare label seldom comes near 0.5. So each label's threshold is fitted on validation. In a task of
single classes the answer is the class whose probability is the largest multiple of its threshold;
equal thresholds, the rule without any, choose the most likely one.

Thresholds only turn probabilities into answers: log-loss, calibration and rankings are of the
probabilities, whatever the thresholds.

Reference: Lipton, Elkan & Naryanaswamy, Optimal thresholding of classifiers to maximize F1 measure,
ECML PKDD 2014, arXiv 1402.1892 (the best threshold of calibrated probabilities is half the F1 that
it reaches); Fan & Lin, A study on threshold selection for multi-label classification, 2007 (a
threshold fitted to few positive samples is too often a bad one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from scipy.special import expit, logit

# C numbers in 0..1, one for each class; () for the rule without thresholds.
Thresholds: TypeAlias = tuple[float, ...]

FEWEST_SAMPLES = 50  # that a fit needs
# How many positive samples the probabilities of a label count for, against those that it has.
PRIOR_POSITIVES = 20.0
DIGITS = 6  # significant ones that a threshold is rounded to, so that machines agree
BOUNDS = (1e-9, 1 - 1e-6)  # of a threshold that is fitted


def fit(logits: np.ndarray, target: np.ndarray) -> Thresholds:
    """Return the threshold of each label of (N, C) calibrated logits; () of too few samples.

    Rows with NaN are left out. target: (N, C) of 0 and 1.
    """
    scored = np.isfinite(logits).all(1)
    if scored.sum() < FEWEST_SAMPLES:
        return ()
    probability = expit(logits[scored].astype(np.float64))
    columns = zip(probability.T, target[scored].T, strict=True)
    return tuple(_fit_label(p, is_right) for p, is_right in columns)


def _fit_label(probability: np.ndarray, is_right: np.ndarray) -> float:
    """Return the threshold of the highest F1 of one label. Both arrays: (N,).

    A sample counts as positive partly by its label and partly by its probability. With n positive
    samples the label's share is n / (n + PRIOR_POSITIVES): where there are many the labels decide;
    where there are few, which say little, the probabilities do, and without any they alone.
    """
    positives = float(is_right.sum())
    trust = positives / (positives + PRIOR_POSITIVES)
    shares = trust * is_right + (1 - trust) * probability
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    found = np.cumsum(shares[order])
    f1 = 2 * found / (np.arange(1, len(ranked) + 1) + found[-1])
    is_cut = np.append(np.diff(ranked) != 0, True)  # equal probabilities get one answer
    last = int(np.where(is_cut, f1, -1.0).argmax())
    below = ranked[last] / 2
    if last + 1 < len(ranked):
        below = ranked[last + 1]
    above, below = np.clip([ranked[last], below], *BOUNDS)
    between = expit((logit(above) + logit(below)) / 2)
    return float(f"{between:.{DIGITS}g}")


def of_shift(shift: np.ndarray) -> Thresholds:
    """Return the thresholds of single classes with which calibrated logits answer as uncalibrated.

    A training that weighs classes has the answers that are best for its weights; calibration adds
    (C,) `shift` to its logits, so that probabilities are those of the data.
    """
    thresholds = np.exp(shift - shift.max())
    thresholds /= thresholds.sum()
    return tuple(float(f"{number:.{DIGITS}g}") for number in np.clip(thresholds, *BOUNDS))


def to_uncalibrated(thresholds: Thresholds, undo: Callable[[np.ndarray], np.ndarray]) -> Thresholds:
    """Return the thresholds of labels with which uncalibrated logits answer as calibrated.

    undo: from (C,) calibrated logits to those before, a rising function.
    """
    if not thresholds:
        return ()
    found = expit(undo(logit(np.array(thresholds, np.float64))).astype(np.float64))
    return tuple(np.clip(found, *BOUNDS).tolist())


def shift_logits(logits: np.ndarray, thresholds: Thresholds, task: str) -> np.ndarray:
    """Return (N, C) logits from which answers are made without thresholds.

    A label is predicted where its shifted logit is above 0, a class where its one is the largest.
    """
    if not thresholds:
        return logits
    return np.asarray(logits - to_offsets(thresholds, task))


def to_offsets(thresholds: Thresholds, task: str) -> np.ndarray:
    """Return (C,): what `shift_logits` subtracts."""
    numbers = np.array(thresholds, np.float64)
    if task == "multilabel":
        return np.asarray(logit(numbers))
    with np.errstate(divide="ignore"):
        return np.log(numbers)


def average(tables: Sequence[Thresholds], task: str) -> Thresholds:
    """Return the thresholds of the mean of logits that have thresholds of their own.

    The mean of the shifted logits is then the shifted mean. () where none has any.
    """
    if not any(tables):
        return ()
    classes = max(map(len, tables))
    offsets = np.zeros(classes)
    for thresholds in tables:
        if thresholds:
            offsets += to_offsets(thresholds, task) / len(tables)
    if task == "multilabel":
        return tuple(expit(offsets).tolist())
    return tuple(np.exp(offsets).tolist())


def of_prior(shares: Sequence[float]) -> Thresholds:
    """Return the thresholds of an answer that is the shares of the labels for every sample.

    The highest F1 without looking at a sample is that of predicting a label always: 2 share / (1 +
    share). So every label that occurs in training is.
    """
    return tuple(float(share == 0) for share in shares)

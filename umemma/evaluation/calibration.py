"""Calibration: a temperature and a bias for each modality subset, fitted on validation.

An answer from fewer modalities should be less confident, and lean differently; one temperature for
all subsets can't express that. Reference: Guo et al., On calibration of modern neural networks,
ICML 2017 (temperature scaling; with the bias it is their bias-corrected form, Alexandari et al.,
ICML 2020). In regression the same is done to the natural parameters of the predicted distribution
(regression/gaussian.py), by the negative log-likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from umemma.evaluation.regression import gaussian
from umemma.system.seeds import hash_keys, mix

FEWEST_SAMPLES = 50  # that a fit needs
FEWEST_GROUPS = 10  # that a fit needs
FOLDS = 5
STANDARD_ERRORS = 3.0  # by which a candidate has to be better
SOFTENING_ERRORS = 1.0  # by which one has to be that only makes answers less sure
SCALES = (0.05, 20.0)  # bounds of 1 / temperature
BLOCK = 2**16  # logits that are computed at once, so that they stay in the processor's cache
SELECTION = 2**23  # logits that candidates are compared on, at most


@dataclass(frozen=True)
class Calibration:
    """logits / temperature + bias. bias: C numbers, () for none. The default changes nothing.

    gaussian: in regression this is done to the natural parameters of the distribution, so the bias
    has 2T numbers.
    """

    temperature: float = 1.0
    bias: tuple[float, ...] = ()
    gaussian: bool = False

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return (..., C) float32 calibrated logits."""
        if self.gaussian:
            calibrated = gaussian.calibrate(logits, self.temperature, self._bias_row())
            return calibrated.astype(np.float32)
        return (logits / self.temperature + self._bias_row()).astype(np.float32)

    def undo(self, logits: np.ndarray) -> np.ndarray:
        """Return (..., C) float32 logits as `apply` was given them, but for rounding."""
        if self.gaussian:
            raw = gaussian.undo_calibration(logits, self.temperature, self._bias_row())
            return raw.astype(np.float32)
        return ((logits - self._bias_row()) * self.temperature).astype(np.float32)

    def after_shift(self, shift: np.ndarray) -> Calibration:
        """Return the calibration of logits that this one takes after (C,) `shift` is added."""
        bias = self._bias_row() + shift / self.temperature
        return Calibration(self.temperature, tuple(round(float(number), 6) for number in bias))

    def as_json(self) -> dict[str, Any]:
        numbers = {"temperature": self.temperature, "bias": list(self.bias)}
        if self.gaussian:
            return {**numbers, "gaussian": True}
        return numbers

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Calibration:
        """Read what `as_json` gives. KeyError, TypeError or ValueError for anything else."""
        temperature = float(data["temperature"])
        bias = tuple(float(number) for number in data["bias"])
        is_finite = np.isfinite([temperature, *bias]).all()
        if not is_finite or temperature <= 0:
            raise ValueError(f"no calibration: {dict(data)}")
        return cls(temperature, bias, bool(data.get("gaussian", False)))

    def _bias_row(self) -> np.ndarray:
        if not self.bias:
            return np.zeros(1)
        return np.array(self.bias)


def fit(
    logits: np.ndarray,
    target: np.ndarray,
    groups: Mapping[str, Sequence[str]],
    seed: int,
) -> Calibration:
    """Return the calibration of (N, C) logits; the default where none is seen to help.

    Rows with NaN are left out. groups: {grouping: N names}.

    Candidates, simplest first: nothing, a temperature, a temperature with a bias per class. One
    displaces a simpler one only if its log-loss on groups that it wasn't fitted to is lower by more
    than `STANDARD_ERRORS` standard errors of the difference (one, in the rule of Breiman et al.,
    Classification and Regression Trees, 1984; more here, as there are many subsets and samples
    depend on one another in more ways than groups say). For a temperature above 1 one is enough:
    answers that are too sure cost more than the reverse, and a modality alone is too sure by
    construction where its weight was fitted for the mean with others (training/pooling.py). The
    chosen one is fitted to all samples. Of several groupings the folds are those of the one with
    the fewest groups, and the standard error is the largest of any. Less than `FEWEST_SAMPLES`
    samples or `FEWEST_GROUPS` groups say too little. The order of the samples doesn't matter.
    """
    scored = np.isfinite(logits).all(1)
    logits = logits[scored].astype(np.float32)
    target = target[scored]
    groupings = []
    for _, names in sorted(groups.items()):
        groupings.append(np.unique(np.asarray(names)[scored], return_inverse=True))
    groupings.sort(key=lambda grouping: len(grouping[0]))
    fewest_names, fewest_numbers = groupings[0]
    if len(target) < FEWEST_SAMPLES or len(fewest_names) < FEWEST_GROUPS:
        return Calibration()
    # 1. Sort by what the data are: groups by hash, their samples by content. So sums round the same
    #    for any order of the samples.
    hashes = mix(hash_keys(fewest_names.tolist()), seed, "calibration")
    group = np.argsort(np.argsort(hashes))[fewest_numbers]
    first_label = target.reshape(len(target), -1)[:, 0]
    order = np.lexsort((logits[:, -1], logits[:, 0], first_label, group))
    logits = logits[order]
    target = target[order]
    # 2. Choose the candidate, of a very large set on the first samples: groups are in random order.
    some = slice(SELECTION // logits.shape[1])
    selection_groups = [group[order][some]]
    for _, numbers in groupings[1:]:
        selection_groups.append(numbers[order][some])
    chosen = _choose(logits[some], target[some], selection_groups)
    if chosen.tolist() == [1.0]:
        return Calibration()
    # 3. Fit it to all samples.
    numbers = _minimize(chosen, logits, target)
    temperature = round(float(1 / numbers[0]), 6)
    bias = tuple(round(float(number), 6) for number in numbers[1:])
    return Calibration(temperature, bias, gaussian.is_regression(logits.shape[1], target))


def probabilities(logits: np.ndarray, task: str) -> np.ndarray:
    """Return (..., C) float64: softmax if multiclass, each label's own sigmoid if multilabel."""
    from scipy.special import expit, softmax

    logits = logits.astype(np.float64)
    if task == "multiclass":
        return softmax(logits, axis=-1)
    return expit(logits)


# Below, x is (1 / temperature, *bias), without bias of length 1: in these the log-loss is convex.


def _identity(size: int) -> np.ndarray:
    return (np.arange(size) == 0).astype(np.float64)


def _choose(
    logits: np.ndarray,
    target: np.ndarray,
    groupings: Sequence[np.ndarray],
) -> np.ndarray:
    """Return x of the candidate that is best on groups that it wasn't fitted to."""
    chosen = _identity(1)
    lowest = _compute_losses(chosen, logits, target)
    for size in (1, 1 + logits.shape[1]):
        candidate = _minimize(chosen[0] * _identity(size), logits, target)
        losses = _held_out_losses(candidate, logits, target, groupings[0])
        errors = STANDARD_ERRORS
        if size == 1 and candidate[0] < 1:
            errors = SOFTENING_ERRORS
        if _is_lower(losses, lowest, groupings, errors):
            chosen = candidate
            lowest = losses
    return chosen


def _held_out_losses(
    start: np.ndarray,
    logits: np.ndarray,
    target: np.ndarray,
    group: np.ndarray,
) -> np.ndarray:
    """Return the (N,) log-loss of each sample under the fit to the groups of the other folds.

    start: the fit to all samples, where the search begins.
    """
    losses = np.empty(len(target))
    for fold in range(FOLDS):
        held_out = group % FOLDS == fold
        x = _minimize(start, logits[~held_out], target[~held_out])
        losses[held_out] = _compute_losses(x, logits[held_out], target[held_out])
    return losses


def _compute_losses(x: np.ndarray, logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the (N,) log-loss of each sample."""
    if gaussian.is_regression(logits.shape[1], target):
        losses, _ = gaussian.losses_and_slopes(x, logits, target)
    else:
        losses, _ = _losses_and_slopes(x, logits, target)
    return losses


def _is_lower(
    losses: np.ndarray,
    than: np.ndarray,
    groupings: Sequence[np.ndarray],
    errors: float,
) -> bool:
    """Return whether losses are lower by more than `errors` standard errors of the difference."""
    difference = losses - than
    return bool(difference.mean() < -errors * standard_error(difference, groupings))


def standard_error(values: np.ndarray, groupings: Sequence[np.ndarray]) -> float:
    """Return the standard error of the mean of (N,) values whose groups are drawn as a whole.

    groupings: (N,) numbers of groups each; the one that makes the error largest counts.
    """
    squares = []
    for group in groupings:
        sums = np.bincount(group, values - values.mean())  # a group without samples adds nothing
        squares.append((sums**2).sum())
    return float(np.sqrt(max(squares)) / len(values))


def _minimize(
    start: np.ndarray,
    logits: np.ndarray,
    target: np.ndarray,
) -> np.ndarray:
    """Return x of the lowest sum of log-losses plus half the squared distance from the identity.

    This ridge is a normal prior of width 1 on each number. Many samples outweigh it; where the
    log-loss alone has no minimum (a class that never occurs, perfect separation) it ends a drift
    that would only stop at infinity, at about the logarithm of the number of samples. Without it a
    shift of all classes' biases would also be left open.
    """
    from scipy.optimize import minimize

    classes = logits.shape[1]
    rows = max(1, BLOCK // classes)
    identity = _identity(len(start))
    is_gaussian = gaussian.is_regression(classes, target)
    # The unit of each number of x: in these all curvatures are alike, so half as many steps do.
    unit = np.where(identity, 1.0, classes**0.5)

    def loss(u: np.ndarray) -> tuple[float, np.ndarray]:
        x = u * unit
        slope = x - identity
        total = float(((x - identity) ** 2).sum()) / 2
        for i in range(0, len(logits), rows):
            block = logits[i : i + rows]
            block_target = target[i : i + rows]
            if is_gaussian:
                losses, slopes = gaussian.losses_and_slopes(x, block, block_target)
                slope += slopes.sum(0)
            else:
                losses, slopes = _losses_and_slopes(x, block, block_target)
                slope[0] += np.vdot(slopes, block)
                slope[1:] += slopes.sum(0)[: len(x) - 1]
            total += losses.sum(dtype=np.float64)
        return total / len(logits), slope * unit / len(logits)

    bounds = [SCALES] + [(None, None)] * (len(start) - 1)
    options = {"ftol": 1e-8, "gtol": 1e-6}
    found = minimize(
        loss,
        start / unit,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options=options,
    )
    return found.x * unit


def _losses_and_slopes(
    x: np.ndarray, logits: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) log-losses and their slopes (N, C) by the calibrated logits, float32.

    For sets of labels the log-loss is summed over labels.
    """
    from scipy.special import expit

    bias = np.zeros(1, np.float32)
    if len(x) > 1:
        bias = x[1:].astype(np.float32)
    z = np.float32(x[0]) * logits
    z += bias
    if target.ndim == 2:
        losses = (np.logaddexp(np.float32(0), z) - target * z).sum(1)
        return losses, expit(z) - target
    at_target = (np.arange(len(z)), target)
    z -= z.max(1, keepdims=True)
    losses = -z[at_target]
    np.exp(z, out=z)
    total = z.sum(1, keepdims=True)
    z /= total
    z[at_target] -= 1
    return losses + np.log(total[:, 0]), z

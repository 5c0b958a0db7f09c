"""Probabilities that mean what they say, for each modality subset: a temperature and a bias, fitted on validation.

An answer from fewer modalities should be less sure of itself, and lean on what it has differently; one temperature for all
subsets can't say so. Reference: Guo et al., On calibration of modern neural networks, ICML 2017 (temperature scaling; with
the bias it is their bias-corrected form, Alexandari et al., ICML 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from umemma.system.seeds import hashes, mixed

LEAST, FEW = 50, 10  # samples and groups that a fit needs
FOLDS = 5
CLEAR = 3.0  # standard errors
SCALES = (0.05, 20.0)  # bounds of 1 / temperature
BLOCK, MOST = (
    2**16,
    2**23,
)  # logits computed at once (they stay in the processor's cache), and used to choose


@dataclass(frozen=True)
class Calibration:
    """logits / temperature + bias. bias: C numbers, () for none. The default changes nothing."""

    temperature: float = 1.0
    bias: tuple[float, ...] = ()

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """(..., C) float32 logits, calibrated."""
        return (logits / self.temperature + self._bias()).astype(np.float32)

    def undo(self, logits: np.ndarray) -> np.ndarray:
        """(..., C) float32: what `apply` was given, but for rounding."""
        return ((logits - self._bias()) * self.temperature).astype(np.float32)

    def as_json(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "bias": list(self.bias)}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Calibration:
        """From JSON. KeyError, TypeError or ValueError for what isn't one."""
        temperature, bias = float(data["temperature"]), tuple(float(b) for b in data["bias"])
        if not (np.isfinite([temperature, *bias]).all() and temperature > 0):
            raise ValueError(f"no calibration: {dict(data)}")
        return cls(temperature, bias)

    def _bias(self) -> np.ndarray:
        return np.array(self.bias) if self.bias else np.zeros(1)


def fit(
    logits: np.ndarray, target: np.ndarray, groups: Mapping[str, Sequence[str]], seed: int
) -> Calibration:
    """The calibration of (N, C) logits, rows with NaN left out; the one that changes nothing where none is seen to help.

    Candidates, simplest first: nothing, a temperature, a temperature with a bias per class. One displaces a simpler one
    only if its log-loss on groups that it wasn't fitted to is lower by more than `CLEAR` standard errors of the difference
    (one, in the rule of Breiman et al., Classification and Regression Trees, 1984; more here, as there are many subsets
    and samples depend on one another in more ways than groups say). What is kept is fitted to all samples. Of several
    groupings the folds are those of the one with the fewest groups, and the standard error is the largest of any.
    Less than `LEAST` samples or `FEW` groups say too little. The order of the samples doesn't matter.
    """
    there = np.isfinite(logits).all(1)
    logits, target = logits[there].astype(np.float32), target[there]
    numbered = [
        np.unique(np.asarray(own)[there], return_inverse=True) for _, own in sorted(groups.items())
    ]
    numbered.sort(key=lambda found: len(found[0]))
    names, group = numbered[0]
    if len(target) < LEAST or len(names) < FEW:
        return Calibration()
    # Sorted by what the data are: groups by hash, their samples by content. So sums round the same for any given order.
    group = np.argsort(np.argsort(mixed(hashes(names.tolist()), seed, "calibration")))[group]
    order = np.lexsort((logits[:, -1], logits[:, 0], target.reshape(len(target), -1)[:, 0], group))
    logits, target = logits[order], target[order]
    some = slice(
        MOST // logits.shape[1]
    )  # of a very large set enough to choose by: groups stand in random order
    several = [own[order][some] for own in (group, *(number for _, number in numbered[1:]))]
    data = logits[some], target[some]
    chosen = _identity(1)
    least = _terms(chosen, *data)[0]
    for size in (1, 1 + logits.shape[1]):
        found = _minimum(chosen[0] * _identity(size), *data)
        losses = _held_out(found, *data, several[0])
        if _lower(losses, least, several):
            chosen, least = found, losses
    if chosen.tolist() == [1.0]:
        return Calibration()
    chosen = _minimum(chosen, logits, target)
    return Calibration(
        round(float(1 / chosen[0]), 6), tuple(round(float(b), 6) for b in chosen[1:])
    )


def probabilities(logits: np.ndarray, task: str) -> np.ndarray:
    """(..., C) float64: softmax for a multiclass task, each label's own sigmoid for a multilabel one."""
    from scipy.special import expit, softmax

    x = logits.astype(np.float64)
    return softmax(x, axis=-1) if task == "multiclass" else expit(x)


# Below, x is (1 / temperature, *bias), without bias of length 1: in these the log-loss is convex.


def _identity(size: int) -> np.ndarray:
    return (np.arange(size) == 0).astype(np.float64)


def _held_out(
    start: np.ndarray, logits: np.ndarray, target: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """(N,) log-loss of each sample under what the other folds' groups say, searched from `start`, the answer of all."""
    losses = np.empty(len(target))
    for fold in range(FOLDS):
        out = group % FOLDS == fold
        x = _minimum(start, logits[~out], target[~out])
        losses[out] = _terms(x, logits[out], target[out])[0]
    return losses


def _lower(losses: np.ndarray, than: np.ndarray, groupings: Sequence[np.ndarray]) -> bool:
    """Whether the mean of the paired differences is below 0 by more than `CLEAR` standard errors, by whichever of the
    `groupings`, each (N,), makes them largest."""
    difference = losses - than
    mean = difference.mean()
    sums = [
        np.bincount(group, difference - mean) for group in groupings
    ]  # a group without samples adds nothing
    return bool(mean < -CLEAR * np.sqrt(max((one**2).sum() for one in sums)) / len(difference))


def _minimum(start: np.ndarray, logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """x of the least log-loss, its sum made larger by half the squared distance from changing nothing.

    This ridge is a normal prior of width 1 on each number. Many samples outweigh it; where the log-loss alone has no
    minimum (a class that never occurs, perfect separation) it ends a drift that would only stop at infinity, at about
    the logarithm of the number of samples. Without it a shift of all classes' biases would also be left open.
    """
    from scipy.optimize import minimize

    rows = max(1, BLOCK // logits.shape[1])
    nothing = _identity(len(start))
    unit = np.where(
        nothing, 1.0, logits.shape[1] ** 0.5
    )  # of x; in these all curvatures are alike: half as many steps

    def loss(u: np.ndarray) -> tuple[float, np.ndarray]:
        x = u * unit
        total, slope = float(((x - nothing) ** 2).sum()) / 2, x - nothing
        for i in range(0, len(logits), rows):
            losses, error = _terms(x, logits[i : i + rows], target[i : i + rows])
            total += losses.sum(dtype=np.float64)
            slope[0] += np.vdot(error, logits[i : i + rows])
            slope[1:] += error.sum(0)[: len(x) - 1]
        return total / len(logits), slope * unit / len(logits)

    bounds = [SCALES] + [(None, None)] * (len(start) - 1)
    options = {"ftol": 1e-8, "gtol": 1e-6}
    return (
        minimize(loss, start / unit, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
        * unit
    )


def _terms(x: np.ndarray, logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) log-loss, of sets of labels summed over labels, and its slope (N, C) by the calibrated logits; float32."""
    from scipy.special import expit

    z = np.float32(x[0]) * logits
    z += x[1:].astype(np.float32) if len(x) > 1 else np.float32(0)
    if target.ndim == 2:
        return (np.logaddexp(np.float32(0), z) - target * z).sum(1), expit(z) - target
    own = np.arange(len(z)), target
    z -= z.max(1, keepdims=True)
    losses = -z[own]
    np.exp(z, out=z)
    total = z.sum(1, keepdims=True)
    z /= total
    z[own] -= 1
    return losses + np.log(total[:, 0]), z

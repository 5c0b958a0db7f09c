"""Metrics as per-sample values, so that they can be averaged, weighted and resampled without another pass."""

from __future__ import annotations

import numpy as np

from umemma.seeds import derive

# What a task is scored by: a mean over samples, as every metric here.
NAMES = {"multiclass": "accuracy", "multilabel": "f1_samples"}


def task(target: np.ndarray) -> str:
    """(N,) classes are a multiclass task, (N, C) sets of labels a multilabel one."""
    return "multiclass" if target.ndim == 1 else "multilabel"


def score(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, ...) float in 0..1 for (N, ..., C) logits: what the task is scored by; NaN where the logits are NaN."""
    return correct(logits, target) if task(target) == "multiclass" else sample_f1(logits, target)


def sample_f1(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, ...) float: 2 |found and right| / (|found| + |right|), found = logits above 0; target: (N, C) of 0 and 1.

    Averaged over samples this is scikit-learn's f1_score(average="samples"); nothing found and nothing right is 0.
    """
    target = target.reshape(len(target), *[1] * (logits.ndim - 2), target.shape[-1])
    found = logits > 0
    sizes = found.sum(-1) + target.sum(-1)
    f1 = 2 * (found * target).sum(-1) / np.maximum(sizes, 1)
    return np.where(np.isnan(logits).any(-1), np.nan, f1)


def correct(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, ...) float: 1 where the largest of (N, ..., C) logits is the (N,) target; NaN where the logits are NaN."""
    target = target.reshape(-1, *[1] * (logits.ndim - 2))
    hits = (np.nan_to_num(logits, nan=-np.inf).argmax(-1) == target).astype(np.float64)
    return np.where(np.isnan(logits).any(-1), np.nan, hits)


class Bootstrap:
    """95 % intervals of means, resampling whole groups: samples of one group are not independent.

    Reference: Field & Welsh, Bootstrapping clustered data, JRSS B 69 (2007): the cluster bootstrap.
    """

    def __init__(self, groups: list[str], seed: int, times: int) -> None:
        names, self.member = np.unique(np.array(groups), return_inverse=True)
        chance = np.random.default_rng(derive(seed, "bootstrap"))
        self.weights = chance.multinomial(
            len(names), np.full(len(names), 1 / len(names)), size=times
        )  # (times, groups)

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """2.5 % and 97.5 % quantiles of the resampled mean of (N,) values, NaN ones left out."""
        scored = ~np.isnan(values)
        sums = np.bincount(self.member, np.where(scored, values, 0.0), minlength=self.weights.shape[1])
        counts = np.bincount(self.member, scored, minlength=self.weights.shape[1])
        drawn = self.weights @ counts
        means = (self.weights @ sums)[drawn > 0] / drawn[drawn > 0]
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)

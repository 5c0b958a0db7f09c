"""Early stopping: keeps the best weights on validation, and ends training without progress.

The weights that a training starts from are kept instead where it does not improve on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from umemma.evaluation.calibration import standard_error
from umemma.evaluation.classification.selection import standard_error as jackknife_error
from umemma.training.optimizer import Weights, copy_weights, load_weights


def format_share(score: float) -> str:
    return f"{100 * score:.1f} %"


class Validation(NamedTuple):
    """How a model is validated.

    run: returns {"score": ..., "loss": ...} of the model as it is. metric: what the score is, say
    "accuracy". mean_over: what it is the mean of besides samples, say "mean over 3 subsets"; "" for
    nothing. sample_scores: returns (N,), the score of each sample. groups: {grouping: N names} of
    samples that depend on one another. jackknife: where a score is no mean over samples, returns
    (1 + K,), the score of all samples and those without each of K parts. shown: a score as text.
    """

    run: Callable[[], Mapping[str, float]]
    metric: str = "score"
    mean_over: str = ""
    sample_scores: Callable[[], np.ndarray] | None = None
    groups: Mapping[str, Sequence[str]] = {}
    jackknife: Callable[[], np.ndarray] | None = None
    shown: Callable[[float], str] = format_share


class EarlyStopping:
    """The best weights so far, and the number of epochs to wait for better ones.

    An epoch is better than the best one if its validation score is higher, or if the score is the
    same and the loss is lower. patience: epochs without an improvement before training stops.
    """

    def __init__(self, model: nn.Module, patience: int) -> None:
        self.patience = patience
        self.best_weights: Weights = copy_weights(model)
        self.best = [-math.inf, -math.inf]  # score, -loss
        self.best_epoch = 0

    def update(self, epoch: int, scores: Mapping[str, float], model: nn.Module) -> None:
        """Copy the weights of `model` if the validation `scores` of `epoch` are the best so far."""
        candidate = [scores["score"], -scores["loss"]]
        if candidate > self.best:
            self.best = candidate
            self.best_epoch = epoch
            self.best_weights = copy_weights(model)

    def restore_best(self, model: nn.Module) -> None:
        """Give `model` the best weights so far."""
        load_weights(model, self.best_weights)

    def is_exhausted(self, epoch: int) -> bool:
        """Whether there is no patience left for `epoch`."""
        return epoch - self.best_epoch > self.patience


class StartingPoint:
    """The weights that a training starts from, which it has to improve on.

    standard_errors: by how many the mean validation score has to be higher than that of the start.
    The standard error is of the paired differences of the samples, or where the score is no mean
    over samples, of the differences of a jackknife. The best of several epochs is
    chosen on the same samples and therefore looks better than it is; one standard error is the
    usual margin for that (Breiman et al., Classification and Regression Trees, 1984).
    """

    def __init__(self, model: nn.Module, validation: Validation, standard_errors: float) -> None:
        self.validation = validation
        self.standard_errors = standard_errors
        self.weights: Weights = copy_weights(model)
        self.scores = self._score_samples()

    @property
    def score(self) -> float:
        """The score of the start."""
        if self.validation.jackknife is not None:
            return float(self.scores[0])
        return float(self.scores.mean())

    def restore(self, model: nn.Module) -> None:
        """Give `model` the weights of the start."""
        load_weights(model, self.weights)

    def is_improved(self) -> bool:
        """Whether the model, as it is now, is better than the start."""
        gains = self._score_samples() - self.scores
        if self.validation.jackknife is not None:
            return bool(gains[0] > self.standard_errors * jackknife_error(gains[1:]))
        groupings = [np.arange(len(gains))]
        for names in self.validation.groups.values():
            groupings.append(np.unique(np.asarray(names), return_inverse=True)[1])
        return bool(gains.mean() > self.standard_errors * standard_error(gains, groupings))

    def _score_samples(self) -> np.ndarray:
        """Return the scores of the samples, or of the jackknife."""
        if self.validation.jackknife is not None:
            return self.validation.jackknife()
        assert self.validation.sample_scores is not None
        return self.validation.sample_scores()

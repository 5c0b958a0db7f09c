"""Early stopping: keeps the best weights on validation, and ends training without progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import nn

from umemma.training.optimizer import Weights, copy_weights


class Validation(NamedTuple):
    """How a model is validated.

    run: returns {"score": ..., "loss": ...} of the model as it is. metric: what the score is, say
    "accuracy". mean_over: what it is the mean of besides samples, say "mean over 3 subsets"; "" for
    nothing.
    """

    run: Callable[[], Mapping[str, float]]
    metric: str = "score"
    mean_over: str = ""


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

    def is_exhausted(self, epoch: int) -> bool:
        """Whether there is no patience left for `epoch`."""
        return epoch - self.best_epoch > self.patience

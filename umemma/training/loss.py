"""The loss of each sample, so that the caller decides what to average over, and its sum.

A training may weigh classes (`TrainingLoss`). Its logits are then those of other shares of the
classes than the data have: `TrainingLoss.natural_shift` brings them back, and from there they are
calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from umemma.config import Training
from umemma.errors import UserError, unknown_name
from umemma.evaluation.regression.gaussian import LOG_2PI, SHARPNESS, TINY

LARGEST_POS_WEIGHT = 20.0  # of `pos_weight: balanced`


def sample_losses(logits: Tensor, target: Tensor, positive_weights: Tensor | None = None) -> Tensor:
    """Return the loss in nats of every sample: (B, C) or (B, S, C) logits -> (B,) or (B, S).

    It is the cross entropy against (B,) classes; against (B, C) sets of labels (0 or 1) it is the
    mean binary cross entropy over classes. Against (B, T) numbers with (B, 2T) or (B, S, 2T)
    outputs it is the mean negative log-likelihood over targets. positive_weights: (C,), of the
    labels that are 1.
    """
    shape = logits.shape[:-1]
    pattern_dims = [1] * (len(shape) - 1)
    if target.ndim == 2 and logits.shape[-1] == 2 * target.shape[1]:
        numbers = target.to(logits.dtype).view(len(target), *pattern_dims, -1)
        return _negative_log_likelihood(logits, numbers)
    if target.ndim == 2:
        labels = target.view(len(target), *pattern_dims, -1).expand(logits.shape)
        label_losses = functional.binary_cross_entropy_with_logits(
            logits,
            labels,
            reduction="none",
            pos_weight=positive_weights,
        )
        return label_losses.mean(-1)
    classes = target.view(-1, *pattern_dims).expand(shape)
    losses = functional.cross_entropy(
        logits.flatten(0, -2),
        classes.flatten(),
        reduction="none",
    )
    return losses.view(shape)


def _negative_log_likelihood(outputs: Tensor, target: Tensor) -> Tensor:
    """Return (...) of (..., 2T) outputs, see evaluation/regression/gaussian.py."""
    a, b = outputs.chunk(2, -1)
    precision = functional.softplus(b, beta=SHARPNESS) + TINY
    squares = precision * (target - a / precision).square()
    return (LOG_2PI - precision.log() + squares).mean(-1) / 2


class TrainingLoss(nn.Module):
    """`sample_losses`, as the settings of a training weigh classes and samples.

    sample_factors: (C,) factors of the loss of a sample, by its class. positive_weights: (C,), see
    `sample_losses`. logit_shift: (C,), added to the logits. mean_weight: the mean of the weights of
    the training samples, by which they are divided.
    """

    sample_factors: Tensor | None
    positive_weights: Tensor | None
    logit_shift: Tensor | None

    def __init__(
        self,
        sample_factors: Tensor | None = None,
        positive_weights: Tensor | None = None,
        logit_shift: Tensor | None = None,
        mean_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.register_buffer("sample_factors", sample_factors, persistent=False)
        self.register_buffer("positive_weights", positive_weights, persistent=False)
        self.register_buffer("logit_shift", logit_shift, persistent=False)
        self.mean_weight = mean_weight

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return (B,) or (B, S) losses, as `sample_losses`. weight: (B,) of the samples."""
        if self.logit_shift is not None:
            logits = logits + self.logit_shift.to(logits)
        positive_weights = self.positive_weights
        if positive_weights is not None:
            positive_weights = positive_weights.to(logits)
        losses = sample_losses(logits, target, positive_weights)
        pattern_dims = [1] * (losses.ndim - 1)
        if self.sample_factors is not None:
            factors = self.sample_factors.to(losses)[target]
            losses = losses * factors.view(-1, *pattern_dims)
        if weight is not None:
            losses = losses * (weight / self.mean_weight).to(losses).view(-1, *pattern_dims)
        return losses

    def natural_shift(self) -> np.ndarray | None:
        """Return (C,): what added to logits makes them those of the shares that the data have.

        None where that is nothing. A class of weight w is learned as if it were w times as
        frequent, so its logit is too large by log w; and the logits of a training with a
        logit_shift lack it.
        """
        shift = None
        for weights in (self.sample_factors, self.positive_weights):
            if weights is not None:
                shift = -np.log(weights.double().cpu().numpy())
        if self.logit_shift is not None:
            added = self.logit_shift.double().cpu().numpy()
            shift = added if shift is None else shift + added
        return shift


def make_training_loss(
    training: Training,
    target: Tensor,
    classes: Sequence[str],
    task: str,
    where: str,
    weight: Tensor | None = None,
) -> TrainingLoss:
    """Return the loss of a training on samples of this target: (N,) classes or (N, C) sets.

    weight: (N,) of the samples. Weights of classes are such that their mean over the samples is 1,
    so that they change no learning rate. UserError for a class that is unknown and for a setting
    that does not fit the task.
    """
    _check_task(training, task, where)
    mean_weight = 1.0
    if weight is not None:
        mean_weight = float(weight.double().mean())
    if not training.weighs_classes:
        return TrainingLoss(mean_weight=mean_weight)
    if task == "multilabel":
        positive_weights = _weigh_positives(training, target, classes, where)
        return TrainingLoss(positive_weights=positive_weights, mean_weight=mean_weight)
    counts = torch.bincount(target, minlength=len(classes)).double()
    shares = counts.clamp(min=0.5) / len(target)  # a class without samples is rare, but possible
    factors = None
    if training.class_weights is not None:
        factors = 1 / shares
        if training.class_weights != "balanced":
            factors = _name_weights(training.class_weights, classes, f"{where}: class_weights")
        factors = (factors * len(target) / (factors * counts).sum()).float()
    logit_shift = None
    if training.logit_adjustment:
        logit_shift = (training.logit_adjustment * shares.log()).float()
    return TrainingLoss(factors, None, logit_shift, mean_weight)


def _weigh_positives(
    training: Training, target: Tensor, classes: Sequence[str], where: str
) -> Tensor:
    """Return the (C,) weights of the labels that a sample has."""
    setting = training.pos_weight
    if isinstance(setting, float):
        return torch.full((len(classes),), setting)
    if isinstance(setting, dict):
        return _name_weights(setting, classes, f"{where}: pos_weight").float()
    counts = target.double().sum(0)
    ratios = (len(target) - counts) / counts.clamp(min=1)
    return ratios.clamp(1.0, LARGEST_POS_WEIGHT).float()


def _name_weights(weights: Mapping[str, float], classes: Sequence[str], where: str) -> Tensor:
    """Return (C,) weights from those that are named; the others are 1."""
    table = torch.ones(len(classes), dtype=torch.float64)
    for name, weight in weights.items():
        if name not in classes:
            raise unknown_name("class", name, classes, where)
        table[list(classes).index(name)] = weight
    return table


def _check_task(training: Training, task: str, where: str) -> None:
    """UserError for a setting of another task."""
    fitting = {
        "class_weights": (training.class_weights is not None, "multiclass"),
        "logit_adjustment": (training.logit_adjustment > 0, "multiclass"),
        "pos_weight": (training.pos_weight is not None, "multilabel"),
    }
    for name, (is_set, fits) in fitting.items():
        if is_set and task != fits:
            raise UserError(
                f"{name} is for {fits} tasks, and this one is {task}",
                f"{where}: {name}",
                "Set pos_weight for sets of labels, class_weights or logit_adjustment for single "
                "classes.",
                usage=True,
            )


def rank_more_over_fewer(losses: Tensor, keep: Tensor) -> Tensor:
    """Return (B,): the More vs. Fewer ranking loss of the patterns of each sample.

    It is the mean of max(0, loss(X+) - loss(X-)) over all pairs in which X- has some but not all of
    the modalities of X+, and 0 without a pair: more modalities should not make the loss larger.

    losses: (B, S) of each pattern; keep: (B, S, M) bool, the modalities that a pattern leaves.

    Reference: Li et al., SimMLM, ICCV 2025, arXiv 2507.19264. The authors draw one such pair per
    sample; this is the expectation over all pairs.
    """
    more = keep[:, :, None]
    fewer = keep[:, None, :]
    is_subset = (fewer <= more).all(-1) & (fewer != more).any(-1)
    is_pair = (is_subset & fewer.any(-1)).to(losses.device, non_blocking=True)
    excess = (losses[:, :, None] - losses[:, None, :]).clamp(min=0).where(is_pair, 0.0)
    return excess.sum((1, 2)) / is_pair.sum((1, 2)).clamp(min=1)


class LossSum:
    """The sum of the losses of an epoch in this process.

    The losses of a step are known to a GPU before they are known here: `total` has them only after
    `synchronize`, which waits for the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.total = 0.0
        self._pending = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, losses: Tensor) -> None:
        """Add a scalar on the device, without waiting for it."""
        self._pending += losses

    def synchronize(self) -> None:
        """Wait for the device, and bring `total` up to date."""
        self.total += float(self._pending)
        self._pending.zero_()

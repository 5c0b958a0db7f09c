"""The loss of each sample, so that the caller decides what to average over, and its sum."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from umemma.evaluation.regression.gaussian import LOG_2PI, SHARPNESS, TINY


def sample_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss in nats of every sample: (B, C) or (B, S, C) logits -> (B,) or (B, S).

    It is the cross entropy against (B,) classes; against (B, C) sets of labels (0 or 1) it is the
    mean binary cross entropy over classes. Against (B, T) numbers with (B, 2T) or (B, S, 2T)
    outputs it is the mean negative log-likelihood over targets.
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
    is_pair = (is_subset & fewer.any(-1)).to(losses.device)
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

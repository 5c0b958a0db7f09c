"""The loss, per answer, so that the caller decides what to average over."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def losses(logits: Tensor, target: Tensor) -> Tensor:
    """In nats: (B, C) or (B, S, C) logits -> (B,) or (B, S).

    Cross entropy against (B,) classes; against (B, C) sets of labels (0 or 1) the mean binary cross entropy over classes.
    """
    shape = logits.shape[:-1]
    if target.ndim == 2:
        each = target.view(len(target), *[1] * (len(shape) - 1), -1).expand(logits.shape)
        return functional.binary_cross_entropy_with_logits(logits, each, reduction="none").mean(-1)
    expanded = target.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    return functional.cross_entropy(
        logits.flatten(0, -2), expanded.flatten(), reduction="none"
    ).view(shape)

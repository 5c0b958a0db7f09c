"""The loss: cross entropy, per answer, so that the caller decides what to average over."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def losses(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy in nats: (B, C) or (B, S, C) logits against (B,) classes -> (B,) or (B, S)."""
    shape = logits.shape[:-1]
    expanded = target.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    return functional.cross_entropy(logits.flatten(0, -2), expanded.flatten(), reduction="none").view(shape)

"""The interface of the fusions that a LateFusion may have in place of its mean of logits.

Each maps features {modality: (B, D_m)} and keep (B, M) bool to logits (B, C). With several
patterns, keep (B, S, M), the logits are (B, S, C). present (B, M) bool says which features were
encoded: what is kept is present, and a pattern may hide what is present. What an absent modality
holds in `features`, NaN included, has no influence. keep and present are on the CPU, as in a Batch.
Modalities are in sorted order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

REACH = 1.5  # how far from the mean a regression answers, in farthest training targets


class BoundedMeans(nn.Module):
    """Keeps the means of a regression (..., 2T) near the targets of the training samples.

    A mean is a quotient, a / precision. For an input unlike all of training both parts may be far
    off, and a precision near 0 then gives a mean of 50 standard deviations. So b, which is about
    the precision (evaluation/regression/gaussian.py), is at least |a| / reach. As both scale
    alike, a weight of a head changes nothing.
    """

    reach: Tensor

    def __init__(self, targets: int) -> None:
        super().__init__()
        self.register_buffer("reach", torch.full((targets,), torch.inf))

    def fit(self, target: Tensor) -> None:
        """Set the reach by the standardized targets (N, T) of the training samples."""
        self.reach.copy_(REACH * target.abs().amax(0))

    def forward(self, outputs: Tensor) -> Tensor:
        a, b = outputs.chunk(2, -1)
        return torch.cat([a, torch.maximum(b, a.abs() / self.reach)], -1)


class FusionHead(nn.Module):
    """The base of all fusions. sample_seeds: (B,) of a training batch, as in Batch."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.modalities = sorted(dims)
        self.dims = {m: dims[m] for m in self.modalities}

    def forward(
        self,
        features: Mapping[str, Tensor],
        keep: Tensor,
        present: Tensor,
        sample_seeds: np.ndarray | None = None,
    ) -> Tensor:
        raise NotImplementedError

    def start_from(self, heads: Mapping[str, nn.Module]) -> None:
        """Copy the heads of uni-modal models, where the fusion has such heads."""

    def store_training_features(self, features: Mapping[str, Tensor], present: Tensor) -> None:
        """Keep what an answer takes of the features (N, D_m) of training samples."""

    def _concatenate(
        self,
        features: Mapping[str, Tensor],
        keep: Tensor,
        fills: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return (B, ..., sum of D_m): what is kept, and zeros or `fills` elsewhere."""
        parts = []
        for i, m in enumerate(self.modalities):
            fill = features[m].new_zeros(self.dims[m])
            if fills is not None:
                fill = fills[m]
            parts.append(select_kept(features[m], keep[..., i], fill))
        return torch.cat(parts, -1)


def select_kept(x: Tensor, keep: Tensor, fill: Tensor) -> Tensor:
    """Return (B, ..., D): rows of x (B, D) where keep (B, ...) is True, `fill` elsewhere.

    fill: (D,), (B, D) or (B, ..., D).
    """
    pattern_dims = [1] * (keep.ndim - 1)
    rows = x.reshape(len(x), *pattern_dims, -1)
    if fill.ndim == 2:
        fill = fill.reshape(len(x), *pattern_dims, -1)
    return rows.where(keep[..., None].to(x.device, non_blocking=True), fill)

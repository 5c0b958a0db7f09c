"""Fusions of the field, rivals of the mean of logits that LateFusion computes.

Each maps features {modality: (B, D_m)} and keep (B, M) bool to logits (B, C). With several
patterns, keep (B, S, M), the logits are (B, S, C). What a modality that is not kept holds in
`features`, NaN included, has no influence. Modalities are in sorted order.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


class FilledLinear(nn.Module):
    """One linear layer over the concatenated features: y = W [x_1; ...; x_M] + b.

    The features of an absent modality are `fill_MODALITY`: zeros, or the mean of the training
    samples where `set_fill` has stored it.
    """

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.modalities = sorted(dims)
        self.linear = nn.Linear(sum(dims.values()), classes)
        for m in self.modalities:
            self.register_buffer(f"fill_{m}", torch.zeros(dims[m]))

    @torch.no_grad()
    def set_fill(self, features: Mapping[str, Tensor], present: Tensor) -> None:
        """Store the mean feature of the samples that have a modality; 0 where none has it."""
        for i, m in enumerate(self.modalities):
            rows = features[m][present[:, i].to(features[m].device)]
            if len(rows):
                self.get_buffer(f"fill_{m}").copy_(rows.mean(0))

    def forward(self, features: Mapping[str, Tensor], keep: Tensor) -> Tensor:
        parts = []
        for i, m in enumerate(self.modalities):
            fill = self.get_buffer(f"fill_{m}")
            parts.append(select_kept(features[m], keep[..., i], fill))
        logits: Tensor = self.linear(torch.cat(parts, -1))
        return logits


class PatternHead(nn.Module):
    """A linear head per pattern, on the concatenated features of its modalities.

    y = W_S [x_m for m in S] + b_S, where S is the set of the kept modalities. Where nothing is
    kept, the logits are 0. Each head is stored at full width; the columns of absent modalities
    meet zeros, so they have no effect and no gradient.
    """

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.modalities = sorted(dims)
        width = sum(dims.values())
        bits = 2 ** torch.arange(len(dims))
        self.register_buffer("bits", bits, persistent=False)
        self.heads = nn.ModuleList()
        for _ in range(2 ** len(dims) - 1):
            self.heads.append(nn.Linear(width, classes))

    def forward(self, features: Mapping[str, Tensor], keep: Tensor) -> Tensor:
        parts = []
        for i, m in enumerate(self.modalities):
            zeros = features[m].new_zeros(features[m].shape[-1])
            parts.append(select_kept(features[m], keep[..., i], zeros))
        x = torch.cat(parts, -1)
        pattern = (keep.to(x.device).long() * self.get_buffer("bits")).sum(-1, keepdim=True)
        logits = x.new_zeros(())
        for i, head in enumerate(self.heads):
            logits = logits + head(x).where(pattern == i + 1, 0.0)
        return logits


class EmbraceNet(nn.Module):
    """EmbraceNet: docking layers and a draw of one modality for each component.

    Reference: Choi and Lee, Information Fusion 2019, arXiv 1904.09078. d_m = relu(W_m x_m + b_m),
    component i of the embraced vector is that of d_m with m ~ multinomial(p), and p is uniform
    over the kept modalities. In evaluation the vector is its expectation, sum_m p_m d_m, so a
    prediction depends on its own sample only. A linear layer makes the logits.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, width: int = 128) -> None:
        super().__init__()
        self.modalities = sorted(dims)
        self.docking = nn.ModuleDict({m: nn.Linear(dims[m], width) for m in self.modalities})
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Mapping[str, Tensor], keep: Tensor) -> Tensor:
        docked = []
        for i, m in enumerate(self.modalities):
            d = functional.relu(self.docking[m](features[m]))
            docked.append(select_kept(d, keep[..., i], d.new_zeros(d.shape[-1])))
        stacked = torch.stack(docked, -2)  # (..., M, width)
        kept = keep.to(stacked.device).float()
        weights = (kept / kept.sum(-1, keepdim=True).clamp(min=1))[..., None]
        if self.training:
            numbers = torch.rand_like(stacked).clamp(1e-6, 1 - 1e-6)
            # The largest of log p + Gumbel noise is a draw from p.
            noisy = weights.log() - (-numbers.log()).log()
            drawn = functional.one_hot(noisy.argmax(-2), len(docked)).transpose(-1, -2)
            weights = drawn.to(stacked.dtype)
        logits: Tensor = self.linear((stacked * weights).sum(-2))
        return logits


def select_kept(x: Tensor, keep: Tensor, fill: Tensor) -> Tensor:
    """Return (B, ..., D): rows of x (B, D) where keep (B, ...) is True, `fill` (D,) elsewhere."""
    pattern_dims = [1] * (keep.ndim - 1)
    rows = x.reshape(len(x), *pattern_dims, -1)
    return rows.where(keep[..., None].to(x.device), fill)

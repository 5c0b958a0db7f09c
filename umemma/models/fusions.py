"""Fusions of the field, rivals of the mean of logits that LateFusion computes, and all by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from umemma.errors import UserError
from umemma.models.filling import FillMean, FillNeighbour, FillZero, Retrieve
from umemma.models.fusion_head import FusionHead, select_kept
from umemma.system.seeds import mix, to_unit

FEW_HEADS = 15  # of the patterns of four modalities
EMBRACED_WIDTH = 256  # of the vector that EmbraceNet draws, as in the authors' code


class PatternHead(FusionHead):
    """A linear head per pattern, on the concatenated features of its modalities.

    y = W_S [x_m for m in S] + b_S, where S is the set of the kept modalities. Where nothing is
    kept, the logits are 0. Each head is stored at full width; the columns of absent modalities
    meet zeros, so they have no effect and no gradient.

    Reference: a model per pattern of what is missing, as in pattern submodels, Mercaldo and Blume,
    Biostatistics 2020; here the patterns share the encoders.
    """

    bits: Tensor

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims)
        self.register_buffer("bits", 2 ** torch.arange(len(dims)), persistent=False)
        self.heads = nn.ModuleList()
        for _ in range(2 ** len(dims) - 1):
            self.heads.append(nn.Linear(sum(dims.values()), classes))

    def forward(
        self,
        features: Mapping[str, Tensor],
        keep: Tensor,
        present: Tensor,
        sample_seeds: np.ndarray | None = None,
    ) -> Tensor:
        x = self._concatenate(features, keep)
        pattern = (keep.to(x.device, non_blocking=True).long() * self.bits).sum(-1, keepdim=True)
        if len(self.heads) > FEW_HEADS and not torch.compiler.is_exporting():
            return self._apply_own_heads(x, pattern)
        logits = x.new_zeros(())
        for i, head in enumerate(self.heads):
            logits = logits + head(x).where(pattern == i + 1, 0.0)
        return logits

    def _apply_own_heads(self, x: Tensor, pattern: Tensor) -> Tensor:
        """Return the logits (B, ..., C) of x (B, ..., D), where each head sees only its rows.

        pattern: (B, ..., 1). ONNX has no such sorting, and for a few heads it is no faster.
        """
        numbers = pattern.flatten()
        order = numbers.argsort(stable=True)
        counts = numbers.bincount(minlength=len(self.heads) + 1).tolist()
        nothing, *parts = x.flatten(0, -2)[order].split(counts)
        own = [head(part) for head, part in zip(self.heads, parts, strict=True)]
        logits = torch.cat([nothing.new_zeros(len(nothing), own[0].shape[-1]), *own])
        return logits[order.argsort()].unflatten(0, pattern.shape[:-1])


class EmbraceNet(FusionHead):
    """EmbraceNet: docking layers and a draw of one modality for each component.

    d_m = relu(W_m x_m + b_m); component i of the embraced vector is that of d_m with
    m ~ multinomial(p), where p is uniform over the kept modalities. A linear layer makes the
    logits. In evaluation the vector is its expectation, sum_m p_m d_m, so that an answer is the
    same each time; the authors' code draws there too. The draws belong to the sample.

    Reference: Choi and Lee, EmbraceNet: A robust deep learning architecture for multimodal
    classification, Information Fusion 2019, arXiv 1904.09078.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, width: int = EMBRACED_WIDTH) -> None:
        super().__init__(dims)
        self.docking = nn.ModuleDict({m: nn.Linear(n, width) for m, n in self.dims.items()})
        self.linear = nn.Linear(width, classes)

    def forward(
        self,
        features: Mapping[str, Tensor],
        keep: Tensor,
        present: Tensor,
        sample_seeds: np.ndarray | None = None,
    ) -> Tensor:
        docked = []
        for i, m in enumerate(self.modalities):
            d = functional.relu(self.docking[m](features[m]))
            docked.append(select_kept(d, keep[..., i], d.new_zeros(d.shape[-1])))
        stacked = torch.stack(docked, -2)  # (B, ..., M, width)
        if self.training:
            assert sample_seeds is not None
            weights = self._draw_modalities(keep, sample_seeds).to(stacked, non_blocking=True)
        else:
            kept = keep.to(stacked, non_blocking=True)
            weights = (kept / kept.sum(-1, keepdim=True).clamp(min=1))[..., None]
        logits: Tensor = self.linear((stacked * weights).sum(-2))
        return logits

    def _draw_modalities(self, keep: Tensor, sample_seeds: np.ndarray) -> Tensor:
        """Return (B, ..., M, width) bool: the kept modality that each component comes from."""
        width = self.linear.in_features
        streams = mix(sample_seeds, 0, "embracenet")[:, None] + np.arange(width, dtype=np.uint64)
        numbers = torch.from_numpy(to_unit(mix(streams, 0, "component")))
        numbers = numbers.reshape(len(keep), *[1] * (keep.ndim - 2), width)
        drawn = (numbers * keep.sum(-1, keepdim=True)).floor() + 1
        # The kept modalities are numbered from 1.
        order = keep.cumsum(-1) * keep
        return order[..., None] == drawn[..., None, :]


class GatedExperts(FusionHead):
    """SimMLM: a gate weighs the logits of the uni-modal experts.

    z = sum_m g_m (V_m x_m + c_m), where g is the softmax over the kept modalities of
    W [x_1; ...; x_M] + b, with zeros in place of an absent modality. The experts start as the
    uni-modal models, the paper's first stage; the second stage trains everything with the More vs.
    Fewer ranking loss, umemma/training/loss.py. The gate starts at zero: the experts' mean. Here it
    sees the experts' features; in the paper it has a small network of its own on the inputs.

    Reference: Li, Chen and Han, SimMLM: A Simple Framework for Multi-modal Learning with Missing
    Modality, ICCV 2025, arXiv 2507.19264.
    """

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims)
        self.heads = nn.ModuleDict({m: nn.Linear(n, classes) for m, n in self.dims.items()})
        self.gate = nn.Linear(sum(dims.values()), len(dims))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def start_from(self, heads: Mapping[str, nn.Module]) -> None:
        for m in self.modalities:
            self.heads[m].load_state_dict(heads[m].state_dict())

    def forward(
        self,
        features: Mapping[str, Tensor],
        keep: Tensor,
        present: Tensor,
        sample_seeds: np.ndarray | None = None,
    ) -> Tensor:
        scores = self.gate(self._concatenate(features, keep))
        # Not infinity, as the weights of a sample without anything have to be numbers.
        lowest = torch.finfo(scores.dtype).min
        gates = scores.masked_fill(~keep.to(scores.device, non_blocking=True), lowest).softmax(-1)
        answers = []
        for i, m in enumerate(self.modalities):
            z = self.heads[m](features[m])
            answers.append(select_kept(z, keep[..., i], z.new_zeros(z.shape[-1])))
        return (gates[..., None] * torch.stack(answers, -2)).sum(-2)


FUSIONS: dict[str, type[Any]] = {
    "fill-zero": FillZero,
    "fill-mean": FillMean,
    "fill-neighbour": FillNeighbour,
    "retrieve": Retrieve,
    "pattern-head": PatternHead,
    "embracenet": EmbraceNet,
    "gated": GatedExperts,
}


def build_fusion(name: str, dims: Mapping[str, int], classes: int) -> FusionHead | None:
    """Return the fusion `name` of umemma/presets.py; None for "mean", which LateFusion is."""
    if name == "mean":
        return None
    fusion: FusionHead = FUSIONS[name](dims, classes)
    return fusion


def check_predicts_alone(name: str, where: str) -> None:
    """UserError for a fusion whose answer to a sample depends on the other samples of a batch."""
    if name == "fill-neighbour":
        what = f"a model of the preset {name} has no answer to a sample alone"
        hint = "It fills a hole with the next sample of a table. Use another preset."
        raise UserError(what, where, hint)


def check_exports(fusion: FusionHead | None, where: str) -> None:
    """UserError for a fusion that isn't written as ONNX."""
    if isinstance(fusion, Retrieve):
        what = "a model of the preset retrieve can't be exported"
        hint = "It searches its training samples to fill a hole. Use umemma predict."
        raise UserError(what, where, hint)

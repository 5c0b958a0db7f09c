"""One linear layer over all features, and four ways to fill those of an absent modality.

They are what well-known tools do with a hole: zeros, the mean, the next row, the nearest samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from umemma.models.fusion_head import FusionHead
from umemma.system.seeds import derive

NEIGHBOURS = 5  # nearest training samples whose features `retrieve` averages
TABLE_ROWS = 1024  # training samples that `fill-neighbour` fills from, at most
MEAN_MOMENTUM = 0.1  # of the running mean of `fill-mean`, as of a batch norm


class FillZero(FusionHead):
    """One linear layer over the concatenated features: y = W [x_1; ...; x_M] + b.

    The features of an absent modality are zeros.
    """

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims)
        self.linear = nn.Linear(sum(dims.values()), classes)

    def forward(
        self,
        features: Mapping[str, Tensor],
        keep: Tensor,
        present: Tensor,
        sample_seeds: np.ndarray | None = None,
    ) -> Tensor:
        fills = self.make_fills(features, keep, present)
        logits: Tensor = self.linear(self._concatenate(features, keep, fills))
        return logits

    def make_fills(
        self, features: Mapping[str, Tensor], keep: Tensor, present: Tensor
    ) -> dict[str, Tensor] | None:
        """Return what replaces each modality where it is not kept; None for zeros.

        {modality: (D_m,), (B, D_m) or (B, S, D_m)}.
        """
        return None


class FillMean(FillZero):
    """FillZero with the mean feature of the training samples in place of an absent modality.

    The mean is a running one, fill_m <- 0.9 fill_m + 0.1 mean of x_m over the samples of the step
    that have m. Like the statistics of a batch norm it is kept in training and used in evaluation.

    Reference: mean imputation, Little and Rubin, Statistical Analysis with Missing Data.
    """

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims, classes)
        for m, width in self.dims.items():
            self.register_buffer(f"fill_{m}", torch.zeros(width))

    def make_fills(
        self, features: Mapping[str, Tensor], keep: Tensor, present: Tensor
    ) -> dict[str, Tensor]:
        fills = {m: self.get_buffer(f"fill_{m}") for m in self.modalities}
        if self.training:
            for i, m in enumerate(self.modalities):
                rows = features[m].detach()[present[:, i].to(features[m].device)]
                if len(rows):
                    fills[m].lerp_(rows.mean(0), MEAN_MOMENTUM)
        return fills


class BankedFill(FillZero):
    """FillZero that fills from a bank of features of training samples.

    The bank is stored after the training. Training steps take the other samples of the batch
    instead, which are in random order; the validations between them fill with zeros.
    """

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims, classes)
        for m, width in self.dims.items():
            self.register_buffer(f"bank_{m}", torch.zeros(0, width))
        self.register_load_state_dict_pre_hook(_resize_bank)

    def get_bank(self) -> dict[str, Tensor]:
        return {m: self.get_buffer(f"bank_{m}") for m in self.modalities}


class FillNeighbour(BankedFill):
    """FillZero with the features of the next sample of a table in place of an absent modality.

    This is what a backward fill of a table does, the default of Ludwig for images and sounds. In
    training it is the next row of the batch that has the modality, after the last row from the
    first one on, and zeros where no other row has it.

    In evaluation it is a training sample, as if the table were in random order: row i of a batch
    gets row i of the bank, whose order is drawn. Many splits are sorted by class or by picture, so
    their next row would hand over the label. An answer changes with the place of a sample in its
    batch, so no sample can be predicted alone.
    """

    def store_training_features(self, features: Mapping[str, Tensor], present: Tensor) -> None:
        generator = np.random.default_rng(derive(0, "fill-neighbour"))
        order = torch.from_numpy(generator.permutation(len(present)))
        for i, m in enumerate(self.modalities):
            rows = order[present[order, i]][:TABLE_ROWS]
            setattr(self, f"bank_{m}", features[m][rows].to(self.linear.weight))

    def make_fills(
        self, features: Mapping[str, Tensor], keep: Tensor, present: Tensor
    ) -> dict[str, Tensor]:
        if not self.training:
            return self._take_from_bank(len(present))
        fills = {}
        numbers = torch.arange(len(present))
        for i, m in enumerate(self.modalities):
            rows = present[:, i].nonzero()[:, 0]
            if not len(rows):
                fills[m] = features[m].new_zeros(self.dims[m])
                continue
            following = rows[torch.searchsorted(rows, numbers, right=True) % len(rows)]
            has_other = (following != numbers).to(features[m].device)
            neighbours = features[m][following.to(features[m].device)]
            fills[m] = neighbours.where(has_other[:, None], 0.0)
        return fills

    def _take_from_bank(self, size: int) -> dict[str, Tensor]:
        fills = {}
        for m, bank in self.get_bank().items():
            fills[m] = bank.new_zeros(self.dims[m])
            if len(bank):
                fills[m] = bank[torch.arange(size, device=bank.device) % len(bank)]
        return fills


class Retrieve(BankedFill):
    """FillZero with the mean feature of the nearest training samples that have the modality.

    The K = 5 nearest are those with the largest cosine between [x_m for m that is kept], each
    feature standardized by the mean and the standard deviation of the training samples. A training
    sample that lacks some of it is compared by what both have. No gradient reaches a neighbour.

    Reference: k-nearest-neighbour imputation, Troyanskaya et al., Bioinformatics 2001.
    """

    bank_present: Tensor

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims, classes)
        self.register_buffer("bank_present", torch.zeros(0, len(dims)))

    def store_training_features(self, features: Mapping[str, Tensor], present: Tensor) -> None:
        for m in self.modalities:
            setattr(self, f"bank_{m}", features[m].to(self.linear.weight))
        self.bank_present = present.to(self.linear.weight)

    def make_fills(
        self, features: Mapping[str, Tensor], keep: Tensor, present: Tensor
    ) -> dict[str, Tensor] | None:
        queries = {m: x.detach() for m, x in features.items()}
        query_present = present.to(self.linear.weight)
        weights = keep.reshape(len(present), -1, len(self.modalities)).to(query_present)
        if self.training:
            bank = queries
            bank_present = query_present
        else:
            bank = self.get_bank()
            bank_present = self.bank_present
        if not len(bank_present):
            return None
        cosines = self._compare(queries, query_present, bank, bank_present, weights)
        if self.training:
            is_same = torch.eye(len(present), dtype=torch.bool, device=cosines.device)
            cosines = cosines.masked_fill(is_same[:, None], -torch.inf)
        fills = {}
        for i, m in enumerate(self.modalities):
            candidates = cosines.masked_fill(bank_present[:, i] == 0, -torch.inf)
            nearest = candidates.topk(min(NEIGHBOURS, len(bank_present)), -1)
            counts = nearest.values.isfinite()[..., None]
            neighbours = bank[m][nearest.indices].where(counts, 0.0)
            fill = neighbours.sum(-2) / counts.sum(-2).clamp(min=1)
            fills[m] = fill.reshape(*keep.shape[:-1], -1)
        return fills

    def _compare(
        self,
        queries: Mapping[str, Tensor],
        query_present: Tensor,
        bank: Mapping[str, Tensor],
        bank_present: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Return (B, S, N): the cosines over the modalities with weights (B, S, M) of 1."""
        dots: Tensor | float = 0.0
        query_squares: Tensor | float = 0.0
        bank_squares: Tensor | float = 0.0
        for i, m in enumerate(self.modalities):
            mean, scale = _measure_spread(bank[m], bank_present[:, i])
            x = _standardize(queries[m], query_present[:, i], mean, scale)
            y = _standardize(bank[m], bank_present[:, i], mean, scale)
            weight = weights[..., i, None]
            dots = dots + weight * (x @ y.T)[:, None]
            shared = x.square().sum(-1)[:, None, None] * bank_present[:, i]
            query_squares = query_squares + weight * shared
            bank_squares = bank_squares + weight * y.square().sum(-1)
        assert isinstance(query_squares, Tensor)
        return dots / (query_squares * bank_squares).sqrt().clamp(min=1e-12)


def _measure_spread(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Return (D,) mean and (D,) standard deviation of the rows of x (N, D) that are present."""
    rows = x[present > 0]
    if not len(rows):
        return x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
    return rows.mean(0), rows.std(0, correction=0).clamp(min=1e-6)


def _standardize(x: Tensor, present: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return (N, D) standardized rows, zeros where they are absent."""
    return ((x - mean) / scale).where(present[:, None] > 0, 0.0)


def _resize_bank(module: BankedFill, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
    """Give the bank as many rows as that of the weights that are loaded."""
    for name, buffer in list(module.named_buffers(recurse=False)):
        stored = state.get(prefix + name)
        if stored is not None and stored.shape[1:] == buffer.shape[1:]:
            setattr(module, name, buffer.new_zeros(stored.shape))

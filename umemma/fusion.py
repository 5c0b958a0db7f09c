"""Late fusion: any encoder per modality, one linear head over the concatenated features."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from umemma.contracts import Batch
from umemma.missing import fill


class LateFusion(nn.Module):
    """encode, then fuse. With one modality it is a uni-modal classifier, so one class serves both trainings.

    encoders: {modality: module (B, ...) -> (B, D_m)}; dims: {modality: D_m}; blanks: {modality: (...)}, the blank
    inputs; absent: what a missing modality becomes: `zero` (a feature of zeros), `blank` (the feature of the blank
    input) or `learned` (a trained vector, zeros at first).
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        dims: Mapping[str, int],
        blanks: Mapping[str, Tensor],
        classes: int,
        absent: str = "zero",
    ) -> None:
        super().__init__()
        self.modalities = sorted(encoders)
        self.absent = absent
        self.frozen: set[str] = set()
        self.precision = torch.float32
        self.dims = {m: dims[m] for m in self.modalities}
        self.encoders = nn.ModuleDict({m: encoders[m] for m in self.modalities})
        self.head = nn.Linear(sum(self.dims.values()), classes)
        for m in self.modalities:
            self.register_buffer(f"blank_{m}", blanks[m][None].clone(), persistent=False)
        vectors = {m: nn.Parameter(torch.zeros(self.dims[m])) for m in self.modalities if absent == "learned"}
        self.vectors = nn.ParameterDict(vectors)

    def encode(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """({modality: (B, D_m)} features, {modality: (D_m,)} what stands in for an absent one), float32.

        Only the encoders compute in `precision`; the head and the loss are always exact.
        """
        features, absent = {}, {}
        for m in self.modalities:
            x = inputs[m]
            if self.absent == "blank":  # in the same pass, so that training sees both alike
                x = torch.cat([x, self.get_buffer(f"blank_{m}")])
            encoded = self.encode_one(m, x)
            if self.absent == "blank":
                features[m], absent[m] = encoded[:-1], encoded[-1]
            else:
                features[m] = encoded
                absent[m] = self.vectors[m] if self.absent == "learned" else encoded.new_zeros(self.dims[m])
        return features, absent

    def encode_one(self, modality: str, x: Tensor) -> Tensor:
        """(B, D_m) float32."""
        with torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32):
            return self.encoders[modality](x).float()

    def fuse(self, features: Mapping[str, Tensor], absent: Mapping[str, Tensor], keep: Tensor) -> Tensor:
        """Logits (B, C) from what `keep` (B, M) leaves."""
        filled = fill(features, keep, absent)
        return self.head(torch.cat([filled[m] for m in self.modalities], 1))

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) from everything that is present."""
        return self.fuse(*self.encode(batch.inputs), batch.present)

    @torch.no_grad()
    def start_from(self, unimodal: Mapping[str, LateFusion]) -> None:
        """Take over uni-modal encoders and heads; the logits are then the average of the uni-modal ones (UME)."""
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for m in self.modalities:
            self.encoders[m].load_state_dict(unimodal[m].encoders[m].state_dict())
            weights.append(unimodal[m].head.weight)
            biases.append(unimodal[m].head.bias)
        self.head.weight.copy_(torch.cat(weights, 1) / len(self.modalities))
        self.head.bias.copy_(torch.stack(biases).mean(0))

    def freeze(self, modalities: Iterable[str]) -> None:
        """From now on these encoders stay as they are: no gradient, and evaluation mode for good."""
        for m in modalities:
            self.encoders[m].requires_grad_(False)
            self.frozen.add(m)

    def train(self, mode: bool = True) -> LateFusion:
        super().train(mode)
        for m in self.frozen:
            self.encoders[m].eval()
        return self

    @contextlib.contextmanager
    def on_features(self, blanks: Mapping[str, Tensor]) -> Iterator[None]:
        """For as long as the block lasts the encoders of `blanks` {modality: (D_m,)} are left out: the inputs are their
        features, and blanks the features of the blank input."""
        encoders = {m: self.encoders[m] for m in blanks}
        inputs = {m: self.get_buffer(f"blank_{m}") for m in blanks}
        for m, feature in blanks.items():
            self.encoders[m] = nn.Identity()
            self.register_buffer(f"blank_{m}", feature[None], persistent=False)
        try:
            yield
        finally:
            for m in blanks:
                self.encoders[m] = encoders[m]
                self.register_buffer(f"blank_{m}", inputs[m], persistent=False)

    @torch.no_grad()
    def pattern_logits(self, batch: Batch, table: Tensor) -> Tensor:
        """(B, S, C): the logits of every pattern of `table` (S, M) from one encoder pass.

        Where a pattern leaves nothing of a sample the logits are NaN: there is nothing to answer from.
        """
        encoded = self.encode(batch.inputs)
        keeps = [batch.present & row for row in table]
        logits = torch.stack([self.fuse(*encoded, keep) for keep in keeps], 1)
        nothing = ~torch.stack([keep.any(1) for keep in keeps], 1)
        return logits.masked_fill(nothing[..., None], float("nan"))

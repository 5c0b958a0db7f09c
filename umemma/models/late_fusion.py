"""Late fusion: any encoder per modality, a linear head per modality, and the mean of what the heads answer.

With everything there, that is one linear layer over the concatenated features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from umemma.missing import average
from umemma.types import Batch


class LateFusion(nn.Module):
    """encode, then fuse. With one modality it is a uni-modal classifier, so one class serves both trainings.

    encoders: {modality: module (B, ...) -> (B, D_m)}; dims: {modality: D_m}; blanks: {modality: (...)}, the blank
    inputs; absent: what a missing modality becomes: nothing (`zero`), a trained feature vector that the head answers from
    (`learned`, zeros at first, which is nothing), or the blank input, which then counts as present (`blank`).

    probes are linear classifiers on the features of each modality of several. They are fitted after the training, tell an
    evaluation what the features hold (see linear_probe), and never take part in an answer.
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
        self.settled: set[str] = set()
        self.precision = torch.float32
        self.dims = {m: dims[m] for m in self.modalities}
        self.classes = classes
        self.encoders = nn.ModuleDict({m: encoders[m] for m in self.modalities})
        self.heads = nn.ModuleDict({m: nn.Linear(width, classes) for m, width in self.dims.items()})
        for m in self.modalities:
            self.register_buffer(f"blank_{m}", blanks[m][None].clone(), persistent=False)
        vectors = {
            m: nn.Parameter(torch.zeros(self.dims[m]))
            for m in self.modalities
            if absent == "learned"
        }
        self.vectors = nn.ParameterDict(vectors)
        probed = self.dims if len(self.dims) > 1 else {}
        self.probes = nn.ModuleDict(
            {m: _nothing_yet(width, classes) for m, width in probed.items()}
        )

    def encode(
        self, inputs: Mapping[str, Tensor], present: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """({modality: (B, D_m)} features, {modality: (D_m,)} what stands in for an absent one), float32.

        Only the rows that are `present` (B, M) enter an encoder; the features of the others are 0. Only the encoders
        compute in `precision`; the heads and the loss are always exact.
        """
        features = {
            m: self.encode_one(m, inputs[m], present[:, i]) for i, m in enumerate(self.modalities)
        }
        if self.absent == "blank":
            return features, {
                m: self._encoded(m, self.get_buffer(f"blank_{m}"))[0] for m in self.modalities
            }
        if self.absent == "learned":
            return features, dict(self.vectors)
        return features, {m: features[m].new_zeros(width) for m, width in self.dims.items()}

    def encode_one(self, modality: str, x: Tensor, there: Tensor) -> Tensor:
        """(B, D_m) float32 of (B, ...) inputs, where they are there (B,); else 0."""
        rows = there.nonzero()[:, 0].to(x.device)
        if len(rows) == len(x):
            return self._encoded(modality, x)
        features = x.new_zeros((len(x), self.dims[modality]), dtype=torch.float32)
        if len(rows):
            return features.index_copy(0, rows, self._encoded(modality, x[rows]))
        if torch.is_grad_enabled() and modality not in self.frozen:
            # DistributedDataParallel wants the same parameters in every step: they get a gradient of zeros.
            features = (
                features + self._encoded(modality, self.get_buffer(f"blank_{modality}"))[:0].sum()
            )
        return features

    def _encoded(self, modality: str, x: Tensor) -> Tensor:
        """(B, D_m) float32. The statistics of a batch say nothing of a single sample, so that batch norms then use theirs."""
        encoder = self.encoders[modality]
        with (
            torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32),
            _own_statistics(encoder) if len(x) == 1 else contextlib.nullcontext(),
        ):
            return encoder(x).float()

    def fuse(
        self, features: Mapping[str, Tensor], absent: Mapping[str, Tensor], keep: Tensor
    ) -> Tensor:
        """Logits (B, C) from what `keep` (B, M) leaves, or (B, S, C) from what each of several patterns leaves (B, S, M)."""
        return fuse(self.heads, features, absent, keep, self.absent)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) from everything that is present."""
        return self.fuse(*self.encode(batch.inputs, batch.present), batch.present)

    @torch.no_grad()
    def start_from(self, unimodal: Mapping[str, LateFusion]) -> None:
        """Take over uni-modal encoders and heads; the logits of every subset are then the average of its uni-modal ones
        (UME). From now on their batch norms keep the statistics that they have."""
        for m in self.modalities:
            self.encoders[m].load_state_dict(unimodal[m].encoders[m].state_dict())
            self.heads[m].load_state_dict(unimodal[m].heads[m].state_dict())
        self.settled.update(self.modalities)
        self.train(self.training)

    def freeze(self, modalities: Iterable[str]) -> None:
        """From now on these encoders stay as they are: no gradient, and evaluation mode for good."""
        for m in modalities:
            self.encoders[m].requires_grad_(False)
            self.frozen.add(m)

    def train(self, mode: bool = True) -> LateFusion:
        super().train(mode)
        for m in self.frozen:
            self.encoders[m].eval()
        for m in self.settled:
            for norm in _batch_norms(self.encoders[m]):
                norm.eval()
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
        return self._pattern_logits(*self.encode(batch.inputs, batch.present), batch.present, table)

    @torch.no_grad()
    def pattern_and_probe_logits(self, batch: Batch, table: Tensor) -> Tensor:
        """(B, S + M, C): as pattern_logits, then those of each modality's probe, NaN where the modality is absent."""
        features, absent = self.encode(batch.inputs, batch.present)
        probed = torch.stack([self.probes[m](features[m]) for m in self.modalities], 1)
        probed = probed.masked_fill(~batch.present[..., None].to(probed.device), float("nan"))
        return torch.cat([self._pattern_logits(features, absent, batch.present, table), probed], 1)

    def _pattern_logits(
        self,
        features: Mapping[str, Tensor],
        absent: Mapping[str, Tensor],
        present: Tensor,
        table: Tensor,
    ) -> Tensor:
        keep = present[:, None] & table
        logits = self.fuse(features, absent, keep)
        return logits.masked_fill(~keep.any(-1, keepdim=True).to(logits.device), float("nan"))


def fuse(
    heads: nn.ModuleDict,
    features: Mapping[str, Tensor],
    absent: Mapping[str, Tensor],
    keep: Tensor,
    rule: str,
) -> Tensor:
    """See LateFusion.fuse; rule: its `absent`. A blank input is answered like any other, a vector without the head's bias."""
    answers, instead = {}, {}
    for m, head in sorted(heads.items()):
        assert isinstance(head, nn.Linear)
        answers[m] = head(features[m])
        instead[m] = functional.linear(
            absent[m], head.weight, head.bias if rule == "blank" else None
        )
    return average(answers, instead, keep.to(answers[m].device), imputed=rule == "blank")


def _nothing_yet(width: int, classes: int) -> nn.Linear:
    """A probe that isn't fitted: its answers are NaN."""
    layer = nn.Linear(width, classes)
    for parameter in layer.parameters():
        parameter.requires_grad_(False).fill_(float("nan"))
    return layer


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    return [one for one in module.modules() if isinstance(one, _BatchNorm)]


@contextlib.contextmanager
def _own_statistics(module: nn.Module) -> Iterator[None]:
    """In the block batch norms use the statistics that they have gathered, not those of the batch."""
    training = [norm for norm in _batch_norms(module) if norm.training]
    for norm in training:
        norm.eval()
    try:
        yield
    finally:
        for norm in training:
            norm.train()

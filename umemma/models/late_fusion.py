"""Late fusion: an encoder per modality, and a fusion of their features.

The fusion `mean` is ours: a linear head per modality, and the mean of the heads' logits. With every
modality present, that is one linear layer over the concatenated features. The other fusions are
those of the field, umemma/models/fusions.py.

How `mean` represents an absent modality is the setting `absent`, one of three rules:

zero      It adds nothing: the mean is over the modalities that are present.
learned   It adds what its head makes, without the bias, of a trained feature vector. The mean is
          over the modalities that are present. The vector starts at zero, which is the rule `zero`.
blank     Its blank input (black, silence, the empty text) is encoded and counts as present.

`fuse` applies the rule, by `umemma.missing.average_present`. The other fusions have rules of their
own, so for them `absent` has no meaning; it is `zero`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from umemma.missing import average_present
from umemma.models.fusion_head import BoundedMeans
from umemma.models.fusions import build_fusion
from umemma.types import Batch


class LateFusion(nn.Module):
    """An ensemble of encoders with a fusion. With one modality it is a uni-modal classifier.

    encoders: {modality: module (B, ...) -> (B, D_m)}. dims: {modality: D_m}. blanks: {modality:
    (...)}, the blank inputs. absent: how an absent modality is represented, see above. fusion: the
    name of one, as in umemma/presets.py.

    probes are linear classifiers on the features of each modality, where there are several. They
    are fitted after the training and tell an evaluation what the features hold (see linear_probe);
    they never take part in a prediction.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        dims: Mapping[str, int],
        blanks: Mapping[str, Tensor],
        classes: int,
        absent: str = "zero",
        fusion: str = "mean",
    ) -> None:
        super().__init__()
        if fusion != "mean":
            absent = "zero"
        self.modalities = sorted(encoders)
        self.absent = absent
        self.frozen: set[str] = set()
        self.fixed_statistics: set[str] = set()
        self.precision = torch.float32
        self.dims = {m: dims[m] for m in self.modalities}
        self.classes = classes
        self.encoders = nn.ModuleDict({m: encoders[m] for m in self.modalities})
        self.heads = nn.ModuleDict()
        if fusion == "mean":
            for m, width in self.dims.items():
                self.heads[m] = nn.Linear(width, classes)
        for m in self.modalities:
            self.register_buffer(f"blank_{m}", blanks[m][None].clone(), persistent=False)
        self.vectors = nn.ParameterDict()
        if absent == "learned":
            for m, width in self.dims.items():
                self.vectors[m] = nn.Parameter(torch.zeros(width))
        self.probes = nn.ModuleDict()
        if len(self.modalities) > 1:
            for m, width in self.dims.items():
                self.probes[m] = _make_unfitted_probe(width, classes)
        # Last, as its initial weights come from the same random numbers as those above.
        self.fusion = build_fusion(fusion, self.dims, classes)
        self.bound: nn.Module = nn.Identity()  # of a regression its means

    def encode(
        self,
        inputs: Mapping[str, Tensor],
        present: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return two dictionaries of float32 tensors.

        {modality: (B, D_m)}, the features, and {modality: (D_m,)}, what represents an absent one.

        Only the rows that are `present` (B, M) enter an encoder; the features of the others are 0.
        Only the encoders compute in `precision`; the heads and the loss are always exact.
        """
        features: dict[str, Tensor] = {}
        for i, m in enumerate(self.modalities):
            features[m] = self.encode_one(m, inputs[m], present[:, i])
        return features, self._represent_absent(features)

    def _represent_absent(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return {modality: (D_m,)}, the features that represent an absent modality."""
        if self.absent == "learned":
            return dict(self.vectors)
        absent: dict[str, Tensor] = {}
        for m, width in self.dims.items():
            if self.absent == "blank":
                absent[m] = self._run_encoder(m, self.get_buffer(f"blank_{m}"))[0]
            else:
                absent[m] = features[m].new_zeros(width)
        return absent

    def encode_one(self, modality: str, x: Tensor, present: Tensor) -> Tensor:
        """(B, D_m) float32 features of (B, ...) inputs that are present (B,); 0 for the others."""
        rows = present.nonzero()[:, 0].to(x.device, non_blocking=True)
        if len(rows) == len(x):
            return self._run_encoder(modality, x)
        features = x.new_zeros((len(x), self.dims[modality]), dtype=torch.float32)
        if len(rows):
            return features.index_copy(0, rows, self._run_encoder(modality, x[rows]))
        if torch.is_grad_enabled() and modality not in self.frozen:
            # DistributedDataParallel needs the same parameters in every step: here they get a
            # gradient of zeros.
            blank_features = self._run_encoder(modality, self.get_buffer(f"blank_{modality}"))
            features = features + blank_features[:0].sum()
        return features

    def _run_encoder(self, modality: str, x: Tensor) -> Tensor:
        """(B, D_m) float32.

        The statistics of a single sample are meaningless, so batch norms then use the running ones.
        """
        encoder = self.encoders[modality]
        autocast = torch.autocast(
            x.device.type,
            self.precision,
            enabled=self.precision != torch.float32,
        )
        with autocast, contextlib.ExitStack() as stack:
            if len(x) == 1:
                stack.enter_context(_use_running_statistics(encoder))
            features: Tensor = encoder(x)
            return features.float()

    def fuse(
        self,
        features: Mapping[str, Tensor],
        absent: Mapping[str, Tensor],
        keep: Tensor,
        present: Tensor,
        sample_seeds: np.ndarray | None = None,
    ) -> Tensor:
        """Logits (B, C) of the modalities in `keep` (B, M).

        With several patterns, `keep` (B, S, M), the logits are (B, S, C). present (B, M): what was
        encoded; sample_seeds: those of a training batch.
        """
        if self.fusion is None:
            return fuse(self.heads, features, absent, keep, self.absent, self.bound)
        logits: Tensor = self.bound(self.fusion(features, keep, present, sample_seeds))
        return logits

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of everything that is present."""
        features, absent = self.encode(batch.inputs, batch.present)
        return self.fuse(features, absent, batch.present, batch.present, batch.sample_seeds)

    @torch.no_grad()
    def start_from(self, unimodal: Mapping[str, LateFusion]) -> None:
        """Copy the encoders of uni-modal models, and their heads where the fusion has such heads.

        With the fusions `mean` and `gated` the logits of every subset are then the average of its
        uni-modal ones (UME). From now on the batch norms keep the running statistics that they
        have.
        """
        for m in self.modalities:
            self.encoders[m].load_state_dict(unimodal[m].encoders[m].state_dict())
        for m, head in self.heads.items():
            head.load_state_dict(unimodal[m].heads[m].state_dict())
        if self.fusion is not None:
            self.fusion.start_from({m: unimodal[m].heads[m] for m in self.modalities})
        self.fixed_statistics.update(self.modalities)
        self.train(self.training)

    @torch.no_grad()
    def prepare_regression(self) -> None:
        """Bound the means, and start from about the distribution of the training samples, N(0, 1).

        Adds 1 to the precision that the last layers give. From a precision near 0 the first answers
        would be far off, and their gradients large.
        """
        self.bound = BoundedMeans(self.classes // 2)
        parts: list[nn.Module] = [self.heads]
        if self.fusion is not None:
            parts.append(self.fusion)
        for part in parts:
            for name, layer in part.named_modules():
                is_last = isinstance(layer, nn.Linear) and layer.out_features == self.classes
                if is_last and name != "gate":
                    layer.bias[self.classes // 2 :] += 1

    @torch.no_grad()
    def weigh_heads(self, weights: Mapping[str, float]) -> None:
        """Multiply the logits of each modality, which its head makes, by its weight."""
        for m, weight in weights.items():
            for parameter in self.heads[m].parameters():
                parameter.mul_(weight)

    def freeze(self, modalities: Iterable[str]) -> None:
        """Take these encoders out of the training: no gradient, and always evaluation mode."""
        for m in modalities:
            self.encoders[m].requires_grad_(False)
            self.frozen.add(m)

    def train(self, mode: bool = True) -> LateFusion:
        super().train(mode)
        for m in self.frozen:
            self.encoders[m].eval()
        for m in self.fixed_statistics:
            for norm in _list_batch_norms(self.encoders[m]):
                norm.eval()
        return self

    @contextlib.contextmanager
    def on_features(self, blanks: Mapping[str, Tensor]) -> Iterator[None]:
        """Leave out the encoders of `blanks` {modality: (D_m,)} inside the block.

        The inputs of these modalities are then their features, and `blanks` are the features of
        their blank inputs.
        """
        encoders = {m: self.encoders[m] for m in blanks}
        blank_inputs = {m: self.get_buffer(f"blank_{m}") for m in blanks}
        for m, blank_features in blanks.items():
            self.encoders[m] = nn.Identity()
            self.register_buffer(f"blank_{m}", blank_features[None], persistent=False)
        try:
            yield
        finally:
            for m in blanks:
                self.encoders[m] = encoders[m]
                self.register_buffer(f"blank_{m}", blank_inputs[m], persistent=False)

    @torch.no_grad()
    def pattern_logits(self, batch: Batch, table: Tensor) -> Tensor:
        """Return (B, S, C): the logits of every pattern of `table` (S, M), from one encoder pass.

        They are NaN where a pattern leaves no modality of a sample.
        """
        features, absent = self.encode(batch.inputs, batch.present)
        return self._fuse_patterns(features, absent, batch.present, table)

    @torch.no_grad()
    def pattern_and_probe_logits(self, batch: Batch, table: Tensor) -> Tensor:
        """Return (B, S + M, C): the pattern_logits, then the logits of each modality's probe.

        A probe's logits are NaN where its modality is absent.
        """
        features, absent = self.encode(batch.inputs, batch.present)
        probe_logits = torch.stack([self.probes[m](features[m]) for m in self.modalities], 1)
        is_absent = ~batch.present[..., None].to(probe_logits.device, non_blocking=True)
        probe_logits = probe_logits.masked_fill(is_absent, float("nan"))
        logits = self._fuse_patterns(features, absent, batch.present, table)
        return torch.cat([logits, probe_logits], 1)

    def _fuse_patterns(
        self,
        features: Mapping[str, Tensor],
        absent: Mapping[str, Tensor],
        present: Tensor,
        table: Tensor,
    ) -> Tensor:
        keep = present[:, None] & table
        logits = self.fuse(features, absent, keep, present)
        nothing_left = ~keep.any(-1, keepdim=True).to(logits.device, non_blocking=True)
        return logits.masked_fill(nothing_left, float("nan"))


def fuse(
    heads: nn.ModuleDict,
    features: Mapping[str, Tensor],
    absent: Mapping[str, Tensor],
    keep: Tensor,
    rule: str,
    bound: nn.Module,
) -> Tensor:
    """Logits as LateFusion.fuse; rule: how an absent modality is represented.

    bound: what the numbers of each head pass.

    The head treats a blank input like any other; to a learned vector it adds no bias.
    """
    is_blank = rule == "blank"
    logits: dict[str, Tensor] = {}
    absent_logits: dict[str, Tensor] = {}
    for m, head in sorted(heads.items()):
        assert isinstance(head, nn.Linear)
        logits[m] = bound(head(features[m]))
        bias = None
        if is_blank:
            bias = head.bias
        absent_logits[m] = functional.linear(absent[m], head.weight, bias)
    device = next(iter(logits.values())).device
    keep = keep.to(device, non_blocking=True)
    return average_present(logits, absent_logits, keep, imputed=is_blank)


def _make_unfitted_probe(width: int, classes: int) -> nn.Linear:
    """Return a probe whose logits are NaN."""
    probe = nn.Linear(width, classes)
    for parameter in probe.parameters():
        parameter.requires_grad_(False).fill_(float("nan"))
    return probe


def _list_batch_norms(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.modules() if isinstance(child, _BatchNorm)]


@contextlib.contextmanager
def _use_running_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms use their running statistics inside the block, not those of the batch."""
    training_norms = [norm for norm in _list_batch_norms(module) if norm.training]
    for norm in training_norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in training_norms:
            norm.train()

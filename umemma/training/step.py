"""Training and validation under missing patterns: the step that shows a model every way a modality can be absent (MMA),
and the figures that choose a model by what it was asked to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from umemma.data.loader import Split, cut
from umemma.evaluation.metrics import score
from umemma.missing import draw, keep_table, sample_weights
from umemma.models.late_fusion import LateFusion
from umemma.system import distributed
from umemma.system.seeds import mixed, unit
from umemma.training.balancing import Rival
from umemma.training.loss import losses
from umemma.types import Batch


class PatternStep(nn.Module):
    """Batch -> its mean loss. weights: (S,) over `patterns`; only the complete one and those above 0 are computed.

    one_drawn: one pattern per sample, drawn (`drop`); else the weighted loss of every pattern from one encoder pass
    (`all`), which is the expectation of `drop` over its draws. All weight on the complete pattern is plain training.
    rival: what it says of the features is added; it sees the batch as it was drawn.
    """

    def __init__(
        self, model: LateFusion, weights: np.ndarray, one_drawn: bool, rival: Rival | None = None
    ) -> None:
        super().__init__()
        self.model, self.one_drawn, self.rival = model, one_drawn, rival
        self.table, self.shares = _used(model, weights)

    def forward(self, batch: Batch) -> Tensor:
        per_sample = sample_weights(batch.present, self.table, self.shares)
        if self.one_drawn:  # before anything is encoded: what is dropped is absent
            assert batch.chance is not None
            drawn = draw(per_sample, torch.from_numpy(unit(mixed(batch.chance, 0, "mma"))))
            batch = batch._replace(present=batch.present & self.table[drawn])
        features, absent = self.model.encode(batch.inputs, batch.present)
        if self.one_drawn:
            loss = losses(self.model.fuse(features, absent, batch.present), batch.target).mean()
        else:
            logits = self.model.fuse(features, absent, batch.present[:, None] & self.table)
            loss = (losses(logits, batch.target) * per_sample.to(logits.device)).sum(1).mean()
        return loss + self.rival(features, batch) if self.rival else loss


def validation(
    model: LateFusion, split: Split, weights: np.ndarray, batch_size: int, device: torch.device
) -> Callable[[], dict[str, float]]:
    """{"score", "loss"} under the weights that the step trains."""
    table, shares = _used(model, weights)
    per_sample = sample_weights(split.present, table, shares)

    def validate() -> dict[str, float]:
        logits = pattern_logits(model, split, table, batch_size, device).nan_to_num()
        hits = torch.from_numpy(score(logits.numpy(), split.target.numpy()))
        loss = (losses(logits, split.target) * per_sample).sum(1).mean()
        return {"score": float((hits * per_sample).sum(1).mean()), "loss": float(loss)}

    return validate


def pattern_logits(
    model: LateFusion, split: Split, table: Tensor, batch_size: int, device: torch.device
) -> Tensor:
    """(N, S, C) on the CPU: the logits of every sample under every pattern of `table` (S, M), each encoded once, by one
    of the processes."""
    return answers([(model, table)], split, batch_size, device)[0]


def answers(
    models: Sequence[tuple[LateFusion, Tensor]],
    split: Split,
    batch_size: int,
    device: torch.device,
    probes: bool = False,
) -> list[Tensor]:
    """As `pattern_logits`, of several models, each over its own modalities, in one pass over the split. The first has all of
    the split's; with `probes` its patterns are followed by its probes, in the order of the modalities."""
    names, chunks = models[0][0].modalities, list[list[Tensor]]()
    for i, (model, table) in enumerate(models):
        model.eval()
        rows = len(table) + (len(names) if probes and not i else 0)
        chunks.append([torch.empty(0, rows, model.classes)])
    for batch in split.batches(cut(distributed.share(len(split)), batch_size), device):
        for i, (model, table) in enumerate(models):
            own = batch._replace(
                present=batch.present[:, [names.index(m) for m in model.modalities]]
            )
            forward = model.pattern_and_probe_logits if probes and not i else model.pattern_logits
            chunks[i].append(forward(own, table).cpu())
    return [distributed.rows(torch.cat(parts), len(split)) for parts in chunks]


def _used(model: LateFusion, weights: np.ndarray) -> tuple[Tensor, Tensor]:
    """(S', M) table and (S',) weights of the complete pattern and of those above 0."""
    used = weights > 0
    used[0] = (
        True  # column 0 is what a sample is trained with when no weighted pattern leaves it anything
    )
    return torch.from_numpy(keep_table(model.modalities)[used]), torch.from_numpy(
        weights[used]
    ).float()

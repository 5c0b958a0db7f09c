"""Training and validation under missing patterns.

The step shows a model every way a modality can be absent (MMA); the validation scores that choose
the best epoch weigh the missing patterns as the step does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from umemma.data.loader import LoadedSplit, cut_batches
from umemma.evaluation.classification.selection import Selection
from umemma.evaluation.metrics import USUAL, Metric, get, score, task_of
from umemma.evaluation.tables.mapped import STORED, count_rows, make_table, release
from umemma.missing import draw_patterns, make_keep_table, weigh_patterns
from umemma.models.late_fusion import LateFusion
from umemma.system import distributed
from umemma.system.seeds import mix, to_unit
from umemma.training.balancing import Balancing
from umemma.training.early_stopping import Validation
from umemma.training.loss import TrainingLoss, rank_more_over_fewer, sample_losses
from umemma.types import Batch


class PatternStep(nn.Module):
    """Batch -> its mean loss under missing patterns.

    pattern_weights: (S,) over `list_patterns`; only the complete pattern and those above 0 are
    computed. All weight on the complete pattern is plain training.
    draw_one: whether each sample is trained under one pattern, drawn at random (`drop`). Otherwise
    the loss is the weighted loss of every pattern from one encoder pass (`all`), which is the
    expectation of `drop` over its draws.
    balancing: computes a term of the loss from the features; it sees the batch after the draw.
    ranking_weight: the weight of the More vs. Fewer ranking loss, where every pattern is computed.
    loss: that of each sample, which a training may replace by one that weighs classes.
    """

    def __init__(
        self,
        model: LateFusion,
        pattern_weights: np.ndarray,
        draw_one: bool,
        balancing: Balancing | None = None,
        ranking_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.pattern_weights = pattern_weights
        self.draw_one = draw_one
        self.balancing = balancing
        self.ranking_weight = ranking_weight
        self.loss = TrainingLoss()
        self.keep_table, self.used_weights = _select_patterns(model, pattern_weights)

    def forward(self, batch: Batch) -> Tensor:
        sample_weights = weigh_patterns(batch.present, self.keep_table, self.used_weights)
        if self.draw_one:
            # Before anything is encoded: what is dropped does not enter an encoder.
            batch = self._drop_modalities(batch, sample_weights)
        features, absent = self.model.encode(batch.inputs, batch.present)
        if self.draw_one:
            logits = self._fuse(batch, features, absent, batch.present)
            loss = self.loss(logits, batch.target, batch.weight).mean()
        else:
            keep = batch.present[:, None] & self.keep_table
            logits = self._fuse(batch, features, absent, keep)
            pattern_losses = self.loss(logits, batch.target, batch.weight)
            weights = sample_weights.to(logits.device, non_blocking=True)
            loss = (pattern_losses * weights).sum(1).mean()
            if self.ranking_weight:
                ranking_loss = rank_more_over_fewer(pattern_losses, keep).mean()
                loss = loss + self.ranking_weight * ranking_loss
        if self.balancing is None:
            return loss
        return loss + self.balancing(features, batch)

    def _fuse(
        self,
        batch: Batch,
        features: Mapping[str, Tensor],
        absent: Mapping[str, Tensor],
        keep: Tensor,
    ) -> Tensor:
        return self.model.fuse(features, absent, keep, batch.present, batch.sample_seeds)

    def _drop_modalities(self, batch: Batch, sample_weights: Tensor) -> Batch:
        """Return the batch with what a drawn pattern leaves of each sample."""
        assert batch.sample_seeds is not None
        numbers = to_unit(mix(batch.sample_seeds, 0, "mma"))
        patterns = draw_patterns(sample_weights, torch.from_numpy(numbers))
        return batch._replace(present=batch.present & self.keep_table[patterns])


def make_validation(
    model: LateFusion,
    split: LoadedSplit,
    pattern_weights: np.ndarray,
    batch_size: int,
    device: torch.device,
    metric: Metric | None = None,
    loss_of: Callable[[Tensor, Tensor], Tensor] = sample_losses,
) -> Validation:
    """Return the validation under the weights of the step.

    metric: what an epoch is selected by. None is the mean over samples of `metrics.score`. loss_of:
    the loss of each sample from (B, S, C) logits and the target.
    """
    keep_table, used_weights = _select_patterns(model, pattern_weights)
    sample_weights = weigh_patterns(split.present, keep_table, used_weights)

    def predict() -> Tensor:
        logits = predict_pattern_logits(model, split, keep_table, batch_size, device)
        return logits.nan_to_num()

    def score_samples(logits: Tensor) -> Tensor:
        scores = torch.from_numpy(score(logits.numpy(), split.target.numpy()))
        return (scores * sample_weights).sum(1)

    def validate() -> dict[str, float]:
        logits = predict()
        losses = loss_of(logits, split.target)
        loss = (losses * sample_weights).sum(1).mean()
        if selection is not None:
            return {"score": selection.score(logits.numpy()), "loss": float(loss)}
        return {"score": float(score_samples(logits).mean()), "loss": float(loss)}

    selection = None
    if metric is not None:
        target = split.target.numpy()
        selection = Selection(metric, target, sample_weights.numpy(), split.groups)
        return Validation(
            validate,
            metric.label,
            _describe_mean(used_weights),
            groups=split.groups,
            jackknife=lambda: selection.jackknife(predict().numpy()),
            shown=selection.shown,
        )
    task = task_of(split.target.numpy(), model.classes)
    return Validation(
        validate,
        get(USUAL[task][0], task, model.classes).label,
        _describe_mean(used_weights),
        lambda: score_samples(predict()).numpy(),
        split.groups,
    )


def _describe_mean(used_weights: Tensor) -> str:
    """Return what a score under these weights of patterns is the mean of, "" for one pattern."""
    positive = used_weights[used_weights > 0]
    if len(positive) < 2:
        return ""
    if bool((positive == positive[0]).all()):
        return f"mean over {len(positive)} subsets"
    return f"weighted mean over {len(positive)} subsets"


def predict_pattern_logits(
    model: LateFusion,
    split: LoadedSplit,
    keep_table: Tensor,
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """Return (N, S, C) on the CPU: the logits of every sample under every pattern.

    keep_table: (S, M) patterns. Each sample is encoded once, by one of the processes.
    """
    return predict_logits([(model, keep_table)], split, batch_size, device)[0]


def predict_logits(
    models: Sequence[tuple[LateFusion, Tensor]],
    split: LoadedSplit,
    batch_size: int,
    device: torch.device,
    probes: bool = False,
    to_all: bool = True,
) -> list[Tensor]:
    """Return the logits of several models, as `predict_pattern_logits`, from one pass.

    Each model has patterns over its own modalities. The first one has all modalities of the split;
    with `probes` its patterns are followed by its probes, in the order of the modalities. Without
    `to_all` only the main process has them, and the others no rows.
    """
    total = len(split) if to_all or distributed.is_main() else 0
    tables: list[Tensor] = []
    for rows, logits in _predict_blocks(models, split, batch_size, device, probes, to_all):
        if rows == slice(0, len(split)):
            return logits
        if not tables:
            tables = [block.new_empty(total, *block.shape[1:]) for block in logits]
        for table, block in zip(tables, logits, strict=True):
            table[rows] = block
    return tables


def predict_tables(
    models: Sequence[tuple[LateFusion, Tensor]],
    split: LoadedSplit,
    batch_size: int,
    device: torch.device,
    folder: Path,
    probes: bool = False,
) -> list[list[np.ndarray]]:
    """Return the logits of several models, as `predict_logits`, a table (N, C) for each pattern.

    Large tables are in files of `folder` (see `make_table`). Only the main process has any rows.
    """
    total = len(split) if distributed.is_main() else 0
    tables = []
    for i, (model, keep_table) in enumerate(models):
        count = _count_outputs(model, keep_table, probes and i == 0)
        shape = (total, model.classes)
        tables.append([make_table(shape, folder) for _ in range(count)])
    blocks = _predict_blocks(models, split, batch_size, device, probes, to_all=False)
    for rows, logits in blocks:
        for of_model, block in zip(tables, logits, strict=True):
            for table, column in zip(of_model, block.unbind(1), strict=True):
                table[rows] = column.numpy()
                release(table)
    return tables


def _count_outputs(model: LateFusion, keep_table: Tensor, probes: bool) -> int:
    """Return S, the number of patterns, and of probes where there are."""
    if probes:
        return len(keep_table) + len(model.modalities)
    return len(keep_table)


def _predict_blocks(
    models: Sequence[tuple[LateFusion, Tensor]],
    split: LoadedSplit,
    batch_size: int,
    device: torch.device,
    probes: bool,
    to_all: bool,
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield consecutive samples, about a block, and the logits of each model for these.

    The processes share each block, and gather it.
    """
    modalities = models[0][0].modalities
    columns: list[list[int]] = []  # of the split's modalities, for each model
    counts = []
    for i, (model, keep_table) in enumerate(models):
        model.eval()
        columns.append([modalities.index(m) for m in model.modalities])
        counts.append(_count_outputs(model, keep_table, probes and i == 0))
    total, processes = len(split), distributed.world().size
    plan = cut_batches(distributed.rank_indices(total), batch_size)
    batches = split.batches(plan, device)
    # Every process has as many blocks, the last of which may be empty.
    block_rows = count_rows(sum(counts) * models[0][0].classes, STORED)
    step = math.ceil(block_rows / (batch_size * processes))
    for first in range(0, max(1, total), step * batch_size * processes):
        rows = slice(first, min(first + step * batch_size * processes, total))
        chunks: list[list[Tensor]] = []
        for (model, _), count in zip(models, counts, strict=True):
            chunks.append([torch.empty(0, count, model.classes)])
        for batch in itertools.islice(batches, step):
            for i, (model, keep_table) in enumerate(models):
                model_batch = batch._replace(present=batch.present[:, columns[i]])
                if probes and i == 0:
                    logits = model.pattern_and_probe_logits(model_batch, keep_table)
                else:
                    logits = model.pattern_logits(model_batch, keep_table)
                chunks[i].append(logits.cpu())
        samples = rows.stop - rows.start
        gathered = []
        while chunks:
            own = torch.cat(chunks.pop(0))
            gathered.append(distributed.gather_rows(own, samples, to_all))
        yield rows, gathered


def _select_patterns(model: LateFusion, pattern_weights: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the (S', M) table and the (S',) weights of the patterns that are computed.

    These are the patterns with a weight above 0, and always the complete one, as a sample that no
    weighted pattern leaves anything of is trained with all that it has.
    """
    is_used = pattern_weights > 0
    is_used[0] = True
    keep_table = make_keep_table(model.modalities)[is_used]
    return torch.from_numpy(keep_table), torch.from_numpy(pattern_weights[is_used]).float()

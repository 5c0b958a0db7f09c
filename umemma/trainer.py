"""One training loop for both trainings, and the step that shows a model its missing patterns.

A stage hands `fit` a step (batch -> loss) and a validation (-> figures); the loop knows nothing of modalities.
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from loguru import logger
from torch import Tensor, nn

from umemma.contracts import Batch
from umemma.errors import UserError
from umemma.fusion import LateFusion
from umemma.loader import Split
from umemma.log import progress
from umemma.metrics import score
from umemma.missing import draw, keep_table, sample_weights
from umemma.objective import losses
from umemma.seeds import derive

Step = Callable[[Batch, torch.Generator], Tensor]
Figures = dict[str, float]


def prepare(seed: int, *names: str) -> torch.device:
    """Seed what can't be handed a generator (initial weights), ask for repeatable kernels, and pick the device."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not repeatable
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(derive(seed, *names))
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pattern_step(model: LateFusion, weights: np.ndarray, one_drawn: bool) -> Step:
    """The missing-modality step. weights: (S,) over `patterns`; only the complete one and those above 0 are computed.

    one_drawn: one pattern per sample, drawn (`drop`); else the weighted loss of every pattern from one encoder pass
    (`all`), which is the expectation of `drop` over its draws. All weight on the complete pattern is plain training.
    """
    table, shares = _patterns(model, weights)

    def step(batch: Batch, chance: torch.Generator) -> Tensor:
        encoded = model.encode(batch.inputs)
        per_sample = sample_weights(batch.present, table, shares)
        if one_drawn:
            keep = batch.present & table[draw(per_sample.cpu(), chance).to(table.device)]
            return losses(model.fuse(*encoded, keep), batch.target).mean()
        logits = torch.stack([model.fuse(*encoded, batch.present & row) for row in table], 1)
        return (losses(logits, batch.target) * per_sample).sum(1).mean()

    return step


def pattern_validation(
    model: LateFusion, split: Split, weights: np.ndarray, batch_size: int, device: torch.device
) -> Callable[[], Figures]:
    """Score and loss under the weights that the step trains: a model is chosen by what it was asked to do."""
    table, shares = _patterns(model, weights)
    per_sample = sample_weights(split.present, table.cpu(), shares.cpu())

    def validate() -> Figures:
        logits = model.pattern_logits(split.batches(batch_size, device), table).nan_to_num()
        hits = torch.from_numpy(score(logits.numpy(), split.target.numpy()))
        loss = (losses(logits, split.target) * per_sample).sum(1).mean()
        return {"val_score": float((hits * per_sample).sum(1).mean()), "val_loss": float(loss)}

    return validate


def fit(
    model: nn.Module,
    train: Split,
    step: Step,
    validate: Callable[[], Figures],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    warmup: float,
    patience: int,
    clip_norm: float,
    seed: int,
    device: torch.device,
    title: str,
) -> list[Figures]:
    """Train `model` in place and leave it with the weights of its best epoch on validation.

    AdamW, linear warm-up and cosine to 0. Stops after `patience` epochs without a better val_score (ties: lower
    val_loss). Returns a row per epoch. UserError when the loss is not finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    steps_per_epoch = math.ceil(len(train) / batch_size)
    steps = epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _warmup_cosine(done / steps, warmup))
    chance = torch.Generator().manual_seed(derive(seed, "mma"))
    history: list[Figures] = []
    done = 0
    best, best_epoch, best_weights = (-math.inf, -math.inf), 0, _copy(model)

    with progress() as bars:
        bar = bars.add_task(title, total=steps, note="")
        for epoch in range(1, epochs + 1):
            started, total = time.perf_counter(), 0.0
            # 1. Train: every sample once, in an order that the seed and the epoch decide.
            model.train()
            order = np.random.default_rng(derive(seed, "order", epoch)).permutation(len(train))
            for batch in train.batches(batch_size, device, order):
                done += 1
                loss = step(batch, chance)
                if not math.isfinite(value := loss.item()):
                    raise UserError(
                        f"the loss is {value} at step {done}",
                        title,
                        f"The learning rate there is {schedule.get_last_lr()[0]:.2g}: lower it, or look for bad input.",
                    )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, clip_norm)
                optimizer.step()
                schedule.step()
                total += value * len(batch.target)
                bars.advance(bar)
            speed = len(train) / (time.perf_counter() - started)

            # 2. Validate, and keep the weights if they are the best so far.
            figures = validate()
            history.append({"epoch": epoch, "train_loss": total / len(train), **figures})
            reached = (figures["val_score"], -figures["val_loss"])
            if reached > best:
                best, best_epoch, best_weights = reached, epoch, _copy(model)
            note = f"loss {total / len(train):.3f}  val {figures['val_score']:.1%}  {speed:,.0f}/s"
            bars.update(bar, note=note)
            logger.debug(f"{title}: epoch {epoch}: {note}")

            # 3. Stop early when nothing has come of it for a while.
            if epoch - best_epoch >= patience:
                bars.update(bar, total=epoch * steps_per_epoch)
                break
    model.load_state_dict(best_weights)
    logger.info(f"{title}: best of {len(history)} epochs is {best_epoch}, val score {best[0]:.1%}")
    return history


def as_csv(history: list[Figures]) -> str:
    """The history as CSV text, for checkpoints and plots."""
    file = io.StringIO()
    writer = csv.DictWriter(file, history[0].keys() if history else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return file.getvalue()


def _patterns(model: LateFusion, weights: np.ndarray) -> tuple[Tensor, Tensor]:
    """(S', M) table and (S',) weights of the complete pattern and of those above 0, on the model's device."""
    used = weights > 0
    used[0] = True  # column 0 is what a sample is trained with when no weighted pattern leaves it anything
    device = model.head.weight.device
    table = torch.from_numpy(keep_table(model.modalities)[used]).to(device)
    return table, torch.from_numpy(weights[used]).float().to(device)


def _warmup_cosine(done: float, warmup: float) -> float:
    """The share of the peak learning rate after `done` (0..1) of all steps."""
    if done < warmup:
        return max(done, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1 - warmup, 1e-9)))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

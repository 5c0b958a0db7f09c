"""The loop and the missing-modality step on toy data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from umemma.contracts import Batch
from umemma.errors import UserError
from umemma.fusion import LateFusion
from umemma.loader import Split
from umemma.missing import pattern_weights
from umemma.objective import losses
from umemma.trainer import as_csv, fit, pattern_step, pattern_validation, prepare

CPU = torch.device("cpu")
SETTINGS = {
    "epochs": 12, "batch_size": 16, "learning_rate": 0.05, "weight_decay": 0.0, "warmup": 0.1, "patience": 12,
    "clip_norm": 1.0, "seed": 0, "device": CPU, "title": "toy",
}  # fmt: skip


def toy_split(size: int = 96) -> Split:
    """Each modality alone tells the class: its sign."""
    chance = torch.Generator().manual_seed(1)
    target = torch.arange(size) % 2
    sign = (2.0 * target - 1)[:, None]
    inputs = {m: sign * (1 + torch.rand(size, 1, generator=chance)) for m in ("audio", "image")}
    keys = [f"k{i}" for i in range(size)]
    return Split(inputs, torch.ones(size, 2, dtype=torch.bool), target, keys, keys)


def toy_model(absent: str = "zero") -> LateFusion:
    prepare(0, "toy")
    encoders = {m: nn.Linear(1, 4) for m in ("audio", "image")}
    return LateFusion(encoders, {"audio": 4, "image": 4}, dict.fromkeys(encoders, torch.zeros(1)), 2, absent)


def train(one_drawn: bool, absent: str = "zero") -> tuple[LateFusion, list[dict[str, float]]]:
    model, split, weights = toy_model(absent), toy_split(), pattern_weights(["audio", "image"], None)
    validate = pattern_validation(model, split, weights, 32, CPU)
    return model, fit(model, split, pattern_step(model, weights, one_drawn), validate, **SETTINGS)


@pytest.mark.parametrize("one_drawn", [True, False])
@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_learns_every_pattern(one_drawn, absent):
    _, history = train(one_drawn, absent)
    assert history[-1]["val_score"] > 0.99
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_learns_sets_of_labels():
    """Label 0 is the sign, label 1 is always there; the loss is the binary cross entropy."""
    split, model, weights = toy_split(), toy_model(), pattern_weights(["audio", "image"], None)
    split = replace(split, target=torch.stack([split.target.float(), torch.ones(len(split))], 1))
    validate = pattern_validation(model, split, weights, 32, CPU)
    history = fit(model, split, pattern_step(model, weights, False), validate, **SETTINGS)
    assert history[-1]["val_score"] > 0.99
    torch.testing.assert_close(losses(torch.zeros(1, 2), torch.ones(1, 2)), torch.full((1,), np.log(2.0)).float())


def test_same_seed_same_weights():
    first, second = train(one_drawn=True)[0].state_dict(), train(one_drawn=True)[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_all_is_the_expectation_of_drop():
    model, weights = toy_model(), pattern_weights(["audio", "image"], {"audio+image": 2, "audio": 1, "image": 1})
    batch = next(toy_split().batches(96, CPU))
    exact = pattern_step(model, weights, one_drawn=False)(batch, torch.Generator())
    drop, chance = pattern_step(model, weights, one_drawn=True), torch.Generator().manual_seed(0)
    drawn = torch.stack([drop(batch, chance) for _ in range(400)])
    assert drawn.mean().item() == pytest.approx(exact.item(), abs=4 * drawn.std().item() / 20)


def test_no_mma_is_plain_cross_entropy():
    model, complete = toy_model(), np.array([1.0, 0.0, 0.0])
    batch = next(toy_split().batches(96, CPU))
    plain = nn.functional.cross_entropy(model(batch), batch.target)
    assert pattern_step(model, complete, one_drawn=False)(batch, torch.Generator()).item() == pytest.approx(
        plain.item()
    )


def test_the_best_epoch_is_what_remains():
    """Validation likes epoch 2 best; its weights have to be there at the end."""
    model, seen = toy_model(), []
    scores = iter([0.1, 0.9, 0.5, 0.4])

    def validate() -> dict[str, float]:
        seen.append(model.head.weight.detach().clone())
        return {"val_score": next(scores), "val_loss": 1.0}

    step = pattern_step(model, np.array([1.0, 0, 0]), one_drawn=False)
    history = fit(model, toy_split(), step, validate, **(SETTINGS | {"epochs": 9, "patience": 2}))
    assert len(history) == 4  # two epochs without a better one end it
    assert torch.equal(model.head.weight, seen[1])
    assert as_csv(history).splitlines()[0] == "epoch,train_loss,val_score,val_loss"


def test_a_loss_that_is_not_finite_stops_with_step_and_learning_rate():
    model = toy_model()

    def step(batch: Batch, chance: torch.Generator) -> torch.Tensor:
        return model(batch).sum() * float("nan")

    with pytest.raises(UserError, match=r"the loss is nan at step 1") as error:
        fit(model, toy_split(), step, dict, **SETTINGS)
    assert "learning rate" in error.value.hint

"""The training loop on toy data: learning, resuming, stopping."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys.training import (
    COMPLETE,
    CPU,
    fit_toy,
    have_same_weights,
    toy_model,
    toy_split,
)

from umemma.errors import UserError
from umemma.missing import normalize_pattern_weights
from umemma.models.late_fusion import LateFusion
from umemma.training.loss import sample_losses
from umemma.training.reproducibility import prepare
from umemma.training.run_folder import MetricRow, Run, format_csv
from umemma.training.step import PatternStep, make_validation
from umemma.types import Batch


def toy_run(folder: Path, seconds: float = 1e9) -> Run:
    return Run(folder, "toy", seconds=seconds)


def train(
    folder: Path, draw_one: bool = False, absent: str = "zero", seconds: float = 1e9, **changes
):
    model, split, weights = (
        toy_model(absent),
        toy_split(),
        normalize_pattern_weights(["audio", "image"], None),
    )
    validate = make_validation(model, split, weights, 32, CPU)
    step = PatternStep(model, weights, draw_one)
    run = toy_run(folder, seconds)
    return model, fit_toy(step, model, split, validate, run, **changes)


def values(rows: list[MetricRow], split: str, name: str) -> list[float]:
    return [row.value for row in rows if (row.split, row.name) == (split, name)]


@pytest.mark.parametrize("draw_one", [True, False])
@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_learns_every_pattern(tmp_path, draw_one, absent):
    _, rows = train(tmp_path, draw_one, absent)
    assert values(rows, "val", "score")[-1] > 0.99
    loss = values(rows, "train", "loss")
    assert loss[-1] < loss[0]


def test_learns_sets_of_labels(tmp_path):
    """Label 0 is the sign, label 1 is always there; the loss is the binary cross entropy."""
    split, model, weights = (
        toy_split(),
        toy_model(),
        normalize_pattern_weights(["audio", "image"], None),
    )
    split = replace(split, target=torch.stack([split.target.float(), torch.ones(len(split))], 1))
    validate = make_validation(model, split, weights, 32, CPU)
    step = PatternStep(model, weights, draw_one=False)
    rows = fit_toy(step, model, split, validate, toy_run(tmp_path))
    assert values(rows, "val", "score")[-1] > 0.99
    torch.testing.assert_close(
        sample_losses(torch.zeros(1, 2), torch.ones(1, 2)), torch.full((1,), np.log(2.0)).float()
    )


def test_same_seed_same_weights(tmp_path):
    assert have_same_weights(
        train(tmp_path / "a", draw_one=True)[0], train(tmp_path / "b", draw_one=True)[0]
    )


def test_every_epoch_takes_every_sample_once_in_an_order_of_its_own(tmp_path):
    model, seen = toy_model(), list[float]()
    step = PatternStep(model, COMPLETE, draw_one=False)
    step.register_forward_pre_hook(
        lambda module, given: seen.extend(given[0].inputs["audio"][:, 0].tolist())
    )
    validate = make_validation(model, toy_split(), COMPLETE, 32, CPU)
    fit_toy(step, model, toy_split(), validate, toy_run(tmp_path), epochs=3)
    epochs = [seen[i : i + 96] for i in (0, 96, 192)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert {tuple(sorted(epoch)) for epoch in epochs} == {
        tuple(sorted(toy_split().kept["audio"][:, 0].tolist()))
    }


def test_taking_a_batch_in_parts_adds_their_gradients_up(tmp_path):
    whole, rows = train(tmp_path / "a")
    parts, others = train(tmp_path / "b", micro_batch=5)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(
            parts.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, equal_nan=True
        )
    assert values(others, "train", "loss") == pytest.approx(values(rows, "train", "loss"), rel=1e-4)


def test_a_moving_average_of_the_weights_is_what_is_kept(tmp_path):
    """With a decay of nearly 1 it hardly leaves the initial weights, however far the training goes."""
    first, _ = train(tmp_path / "a", ema=0.999999)
    torch.testing.assert_close(
        first.state_dict(), toy_model().state_dict(), rtol=1e-3, atol=1e-3, equal_nan=True
    )
    plain, _ = train(tmp_path / "b")
    assert (plain.heads["audio"].weight - toy_model().heads["audio"].weight).abs().max() > 0.1


def test_half_precision_trains(tmp_path):
    for precision in ("bf16", "fp16"):
        model, split = toy_model(), toy_split()
        model.precision = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        validate = make_validation(model, split, COMPLETE, 32, CPU)
        step = PatternStep(model, COMPLETE, draw_one=False)
        run = toy_run(tmp_path / precision)
        rows = fit_toy(step, model, split, validate, run, precision=precision)
        assert values(rows, "val", "score")[-1] > 0.99


@pytest.mark.parametrize("changes", [{}, {"draw_one": True, "absent": "learned"}, {"ema": 0.9}])
@pytest.mark.parametrize("stop", [1, 6, 7, 40])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, changes, stop):
    """Stopped by a signal after `stop` steps of 6 per epoch: within an epoch and between two."""
    whole, rows = train(tmp_path / "whole", **changes)
    passed = 0

    def interrupting(module: nn.Module, batch: object) -> None:
        nonlocal passed
        passed += 1
        if passed == stop:
            signal.raise_signal(signal.SIGTERM)

    model, split, weights = (
        toy_model(changes.get("absent", "zero")),
        toy_split(),
        normalize_pattern_weights(["audio", "image"], None),
    )
    step = PatternStep(model, weights, changes.get("draw_one", False))
    step.register_forward_pre_hook(interrupting)
    validate = make_validation(model, split, weights, 32, CPU)
    settings = {name: value for name, value in changes.items() if name == "ema"}
    with pytest.raises(UserError, match=f"stopped by SIGTERM at step {stop}") as error:
        fit_toy(step, model, split, validate, toy_run(tmp_path / "cut"), **settings)
    assert error.value.exit_status == 75
    again, others = train(tmp_path / "cut", **changes)
    assert have_same_weights(again, whole)
    assert format_csv(others) == format_csv(rows)
    assert (tmp_path / "cut" / "metrics.csv").read_text() == (
        tmp_path / "whole" / "metrics.csv"
    ).read_text()


def test_weights_in_another_memory_format_go_on_alike(tmp_path):
    def convolutional() -> LateFusion:
        prepare(0, "toy")
        encoders = {
            m: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            for m in ("audio", "image")
        }
        blanks = dict.fromkeys(encoders, torch.zeros(3, 6, 6))
        return LateFusion(encoders, {"audio": 4, "image": 4}, blanks, 2).to(
            memory_format=torch.channels_last
        )

    split = toy_split(32)
    split = replace(
        split, kept={m: x[:, :, None, None].expand(-1, 3, 6, 6) for m, x in split.kept.items()}
    )
    trained_models = []
    for seconds in (1e9, 0.0):  # the second goes on from its last checkpoint but one
        model = convolutional()
        step, validate = (
            PatternStep(model, COMPLETE, draw_one=False),
            make_validation(model, split, COMPLETE, 32, CPU),
        )
        run = toy_run(tmp_path / str(seconds), seconds)
        fit_toy(step, model, split, validate, run, epochs=3)
        if checkpoints := sorted(run.folder.glob("step-*")):
            checkpoints[-1].unlink()
            model = convolutional()
            step, validate = (
                PatternStep(model, COMPLETE, draw_one=False),
                make_validation(model, split, COMPLETE, 32, CPU),
            )
            fit_toy(step, model, split, validate, run, epochs=3)
        trained_models.append(model)
    assert have_same_weights(*trained_models)


def test_signals_are_as_they_were_before_the_training(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_training_in_a_thread_leaves_signals_alone(tmp_path):
    thread = threading.Thread(target=train, args=[tmp_path])
    thread.start()
    thread.join()
    assert (tmp_path / "metrics.csv").is_file()


def test_a_loss_that_is_not_finite_stops_with_step_and_learning_rate(tmp_path):
    model = toy_model()

    class Broken(nn.Module):
        def forward(self, batch: Batch) -> torch.Tensor:
            return model(batch).sum() * float("nan")

    with pytest.raises(UserError, match=r"the loss is not finite at step 1") as error:
        fit_toy(Broken(), model, toy_split(), dict, toy_run(tmp_path))
    assert "learning rate" in error.value.hint

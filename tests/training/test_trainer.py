"""The training loop on toy data: learning, resuming, stopping."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

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

from umemma.data.loader import LoadedSplit
from umemma.errors import UserError
from umemma.missing import normalize_pattern_weights
from umemma.models.late_fusion import LateFusion
from umemma.system import clock
from umemma.training.early_stopping import Validation
from umemma.training.reproducibility import prepare
from umemma.training.run_folder import MetricRow, Run, format_csv
from umemma.training.step import PatternStep, make_validation
from umemma.types import Batch

UNIFORM = normalize_pattern_weights(["audio", "image"], None)

Hook = Callable[[nn.Module, Any], None]


def train(
    folder: Path,
    draw_one: bool = False,
    absent: str = "zero",
    hook: Hook | None = None,
    **changes: Any,
) -> tuple[LateFusion, list[MetricRow]]:
    """Train under all patterns. hook: called before each forward pass of the step."""
    model = toy_model(absent)
    split = toy_split()
    step = PatternStep(model, UNIFORM, draw_one)
    if hook is not None:
        step.register_forward_pre_hook(hook)
    validate = make_validation(model, split, UNIFORM, 32, CPU)
    run = Run(folder, "toy", seconds=1e9)
    rows = fit_toy(step, model, split, validate, run, **changes)
    return model, rows


def train_complete(
    model: LateFusion, split: LoadedSplit, run: Run, **changes: Any
) -> list[MetricRow]:
    """Train under the complete pattern only."""
    step = PatternStep(model, COMPLETE, draw_one=False)
    validate = make_validation(model, split, COMPLETE, 32, CPU)
    return fit_toy(step, model, split, validate, run, **changes)


def select_values(rows: list[MetricRow], split: str, name: str) -> list[float]:
    return [row.value for row in rows if (row.split, row.name) == (split, name)]


@pytest.mark.parametrize("draw_one", [True, False])
@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_learns_every_pattern(tmp_path, draw_one, absent):
    _, rows = train(tmp_path, draw_one, absent)
    assert select_values(rows, "val", "score")[-1] > 0.99
    losses = select_values(rows, "train", "loss")
    assert losses[-1] < losses[0]


def test_learns_sets_of_labels(tmp_path):
    """Label 0 is the sign, label 1 is always there; the loss is the binary cross entropy."""
    split = toy_split()
    labels = torch.stack([split.target.float(), torch.ones(len(split))], 1)
    split = replace(split, target=labels)
    model = toy_model()
    step = PatternStep(model, UNIFORM, draw_one=False)
    validate = make_validation(model, split, UNIFORM, 32, CPU)
    rows = fit_toy(step, model, split, validate, Run(tmp_path, "toy"))
    assert select_values(rows, "val", "score")[-1] > 0.99


def test_same_seed_same_weights(tmp_path):
    first, _ = train(tmp_path / "a", draw_one=True)
    second, _ = train(tmp_path / "b", draw_one=True)
    assert have_same_weights(first, second)


def test_every_epoch_takes_every_sample_once_in_an_order_of_its_own(tmp_path):
    seen: list[float] = []

    def note_samples(module: nn.Module, arguments: tuple[Batch]) -> None:
        (batch,) = arguments
        seen.extend(batch.inputs["audio"][:, 0].tolist())

    train(tmp_path, hook=note_samples, epochs=3)
    epochs = [seen[start : start + 96] for start in (0, 96, 192)]
    assert len(seen) == 3 * 96
    assert len({tuple(epoch) for epoch in epochs}) == 3
    every_sample = sorted(toy_split().in_memory["audio"][:, 0].tolist())
    for epoch in epochs:
        assert sorted(epoch) == every_sample


def test_gradients_of_micro_batches_are_accumulated(tmp_path):
    whole, whole_rows = train(tmp_path / "a")
    parts, parts_rows = train(tmp_path / "b", micro_batch=5)
    torch.testing.assert_close(
        parts.state_dict(),
        whole.state_dict(),
        rtol=1e-4,
        atol=1e-5,
        equal_nan=True,
    )
    losses = select_values(whole_rows, "train", "loss")
    assert select_values(parts_rows, "train", "loss") == pytest.approx(losses, rel=1e-4)


def test_a_moving_average_of_the_weights_is_what_is_kept(tmp_path):
    """With a decay of nearly 1 it hardly leaves the initial weights, however long training is."""
    initial = toy_model()
    averaged, _ = train(tmp_path / "a", ema=0.999999)
    torch.testing.assert_close(
        averaged.state_dict(),
        initial.state_dict(),
        rtol=1e-3,
        atol=1e-3,
        equal_nan=True,
    )
    plain, _ = train(tmp_path / "b")
    difference = plain.heads["audio"].weight - initial.heads["audio"].weight
    assert difference.abs().max() > 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(tmp_path, precision):
    model = toy_model()
    model.precision = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    run = Run(tmp_path, "toy")
    rows = train_complete(model, toy_split(), run, precision=precision)
    assert select_values(rows, "val", "score")[-1] > 0.99


@pytest.mark.parametrize("changes", [{}, {"draw_one": True, "absent": "learned"}, {"ema": 0.9}])
@pytest.mark.parametrize("stop", [1, 6, 7, 40])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, changes, stop):
    """Stopped by a signal after `stop` steps of 6 per epoch: within an epoch and between two."""
    whole, whole_rows = train(tmp_path / "whole", **changes)
    steps = 0

    def interrupt(module: nn.Module, arguments: tuple[Batch]) -> None:
        nonlocal steps
        steps += 1
        if steps == stop:
            signal.raise_signal(signal.SIGTERM)

    message = f"stopped by SIGTERM at step {stop}"
    with pytest.raises(UserError, match=message) as error:
        train(tmp_path / "cut", hook=interrupt, **changes)
    assert error.value.exit_status == 75
    resumed, resumed_rows = train(tmp_path / "cut", **changes)
    assert have_same_weights(resumed, whole)
    assert format_csv(resumed_rows) == format_csv(whole_rows)
    whole_csv = (tmp_path / "whole" / "metrics.csv").read_text()
    assert (tmp_path / "cut" / "metrics.csv").read_text() == whole_csv


def make_convolutional_model() -> LateFusion:
    """A model in channels_last."""
    prepare(0, "toy")
    encoders = {}
    for m in ("audio", "image"):
        encoders[m] = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    blanks = dict.fromkeys(encoders, torch.zeros(3, 6, 6))
    model = LateFusion(encoders, {"audio": 4, "image": 4}, blanks, 2)
    return model.to(memory_format=torch.channels_last)


def test_weights_in_another_memory_format_resume_alike(tmp_path):
    split = toy_split(32)
    images = {}
    for m, x in split.in_memory.items():
        images[m] = x[:, :, None, None].expand(-1, 3, 6, 6)
    split = replace(split, in_memory=images)
    whole = make_convolutional_model()
    train_complete(whole, split, Run(tmp_path / "whole", "toy", seconds=1e9), epochs=3)

    # A checkpoint after every step; the last one is lost.
    run = Run(tmp_path / "resumed", "toy", seconds=0.0)
    train_complete(make_convolutional_model(), split, run, epochs=3)
    checkpoints = sorted(run.folder.glob("step-*"))
    checkpoints[-1].unlink()
    resumed = make_convolutional_model()
    train_complete(resumed, split, run, epochs=3)
    assert have_same_weights(resumed, whole)


def test_signals_are_as_they_were_before_the_training(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_training_in_a_thread_leaves_signals_alone(tmp_path):
    thread = threading.Thread(target=train, args=[tmp_path])
    thread.start()
    thread.join()
    assert (tmp_path / "metrics.csv").is_file()


def test_a_second_signal_that_is_ctrl_c_ends_at_once(tmp_path):
    def interrupt(module: nn.Module, arguments: tuple[Batch]) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # to the process and to its group
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit) as stop:
        train(tmp_path, hook=interrupt)
    assert stop.value.code == 130


def test_a_loss_that_is_not_finite_stops_with_step_and_learning_rate(tmp_path):
    model = toy_model()

    class Broken(nn.Module):
        def forward(self, batch: Batch) -> torch.Tensor:
            return model(batch).sum() * np.nan

    with pytest.raises(UserError, match=r"the loss is not finite at step 1") as error:
        fit_toy(Broken(), model, toy_split(), Validation(dict), Run(tmp_path, "toy"))
    assert "learning rate" in error.value.hint


def test_each_epoch_says_its_loss_and_what_its_score_is(tmp_path, messages):
    _, rows = train(tmp_path, epochs=2)
    losses = select_values(rows, "train", "loss")
    scores = select_values(rows, "val", "score")
    lines = [message.strip() for message in messages]
    assert lines[0] == "toy: the validation accuracy is a mean over 3 subsets"
    epochs = [line for line in lines if ": epoch " in line and " left" in line]
    assert len(epochs) == 2
    for number, line in enumerate(epochs):
        score = f"validation accuracy {100 * scores[number]:.1f} %"
        assert line.startswith(f"toy: epoch {number + 1}/2: loss {losses[number]:.3f}, {score}")
    best = f"{100 * max(scores):.1f} % (mean over 3 subsets)"
    assert lines[-1].startswith("toy: best of 2 epochs is ")
    assert lines[-1].endswith(f"validation accuracy {best}")


def test_the_score_of_the_complete_pattern_is_no_mean(tmp_path, messages):
    train_complete(toy_model(), toy_split(), Run(tmp_path, "toy"), epochs=1)
    assert "mean over" not in "".join(messages)


def test_a_training_says_once_that_other_programs_use_its_cores(tmp_path, monkeypatch, messages):
    monkeypatch.setattr(clock, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def sleep(module: nn.Module, arguments: tuple[Batch]) -> None:
        time.sleep(0.02)

    train(tmp_path / "a", hook=sleep, epochs=3)
    (note,) = [message for message in messages if "other programs" in message]
    assert "machine.threads=" in note

    messages.clear()
    monkeypatch.setattr(clock, "MIN_CORE_SHARE", 0.0)
    train(tmp_path / "b", hook=sleep, epochs=3)
    assert not [message for message in messages if "other programs" in message]

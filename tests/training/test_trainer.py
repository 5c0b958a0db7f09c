"""The loop and the missing-modality step on toy data."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys.training import COMPLETE, CPU, SETTINGS, same, toy_model, toy_split

from umemma.data.loader import LoadedSplit, cut_batches
from umemma.errors import UserError
from umemma.missing import normalize_pattern_weights
from umemma.models.late_fusion import LateFusion
from umemma.system import distributed
from umemma.training.loss import sample_losses
from umemma.training.run_folder import Figure, Run, format_csv
from umemma.training.step import PatternStep, make_validation, predict_pattern_logits
from umemma.training.trainer import fit, prepare
from umemma.types import Batch


def toy_run(folder: Path, seconds: float = 1e9) -> Run:
    return Run(folder, "toy", seconds=seconds)


def train(
    folder: Path, one_drawn: bool = False, absent: str = "zero", seconds: float = 1e9, **changes
):
    model, split, weights = (
        toy_model(absent),
        toy_split(),
        normalize_pattern_weights(["audio", "image"], None),
    )
    validate = make_validation(model, split, weights, 32, CPU)
    step = PatternStep(model, weights, one_drawn)
    return model, fit(
        step, model, split, validate, toy_run(folder, seconds), **(SETTINGS | changes)
    )


def values(figures: list[Figure], split: str, name: str) -> list[float]:
    return [value for _, _, its, what, value in figures if (its, what) == (split, name)]


@pytest.mark.parametrize("one_drawn", [True, False])
@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_learns_every_pattern(tmp_path, one_drawn, absent):
    _, figures = train(tmp_path, one_drawn, absent)
    assert values(figures, "val", "score")[-1] > 0.99
    loss = values(figures, "train", "loss")
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
    figures = fit(
        PatternStep(model, weights, False), model, split, validate, toy_run(tmp_path), **SETTINGS
    )
    assert values(figures, "val", "score")[-1] > 0.99
    torch.testing.assert_close(
        sample_losses(torch.zeros(1, 2), torch.ones(1, 2)), torch.full((1,), np.log(2.0)).float()
    )


def test_same_seed_same_weights(tmp_path):
    assert same(train(tmp_path / "a", one_drawn=True)[0], train(tmp_path / "b", one_drawn=True)[0])


def one_batch(split: LoadedSplit, seed: int | None = None) -> Batch:
    return next(split.batches(cut_batches(range(len(split)), len(split)), CPU, seed))


def test_all_is_the_expectation_of_drop():
    model, weights = (
        toy_model(),
        normalize_pattern_weights(["audio", "image"], {"audio+image": 2, "audio": 1, "image": 1}),
    )
    exact = PatternStep(model, weights, one_drawn=False)(one_batch(toy_split()))
    drop = PatternStep(model, weights, one_drawn=True)
    drawn = torch.stack([drop(one_batch(toy_split(), seed)) for seed in range(400)])
    assert drawn.mean().item() == pytest.approx(exact.item(), abs=4 * drawn.std().item() / 20)


def test_what_is_drawn_belongs_to_the_sample_and_not_to_its_batch():
    """The loss of a batch is the mean of the losses of its samples alone."""
    model, weights, split = (
        toy_model(),
        normalize_pattern_weights(["audio", "image"], None),
        toy_split(8),
    )
    drop = PatternStep(model, weights, one_drawn=True)
    alone = [drop(batch).item() for batch in split.batches(cut_batches(range(8), 1), CPU, seed=3)]
    assert drop(one_batch(split, 3)).item() == pytest.approx(np.mean(alone))


def test_no_mma_is_plain_cross_entropy():
    model, batch = toy_model(), one_batch(toy_split())
    plain = nn.functional.cross_entropy(model(batch), batch.target)
    assert PatternStep(model, COMPLETE, one_drawn=False)(batch).item() == pytest.approx(
        plain.item()
    )


def test_the_best_epoch_is_what_remains(tmp_path):
    """Validation likes epoch 2 best; its weights have to be there at the end."""
    model, seen = toy_model(), []
    scores = iter([0.1, 0.9, 0.5, 0.4])

    def validate() -> dict[str, float]:
        seen.append(model.heads["audio"].weight.detach().clone())
        return {"score": next(scores), "loss": 1.0}

    changes = SETTINGS | {"epochs": 9, "patience": 2}
    figures = fit(
        PatternStep(model, COMPLETE, False),
        model,
        toy_split(),
        validate,
        toy_run(tmp_path),
        **changes,
    )
    assert len(values(figures, "val", "score")) == 4  # two epochs without a better one end it
    assert torch.equal(model.heads["audio"].weight, seen[1])
    assert format_csv(figures).splitlines()[0] == "step,epoch,split,name,value"
    assert (tmp_path / "metrics.csv").read_text() == format_csv(figures)


def test_every_epoch_takes_every_sample_once_in_an_order_of_its_own(tmp_path):
    model, seen = toy_model(), list[float]()
    step = PatternStep(model, COMPLETE, False)
    step.register_forward_pre_hook(
        lambda module, given: seen.extend(given[0].inputs["audio"][:, 0].tolist())
    )
    validate = make_validation(model, toy_split(), COMPLETE, 32, CPU)
    fit(step, model, toy_split(), validate, toy_run(tmp_path), **(SETTINGS | {"epochs": 3}))
    epochs = [seen[i : i + 96] for i in (0, 96, 192)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert {tuple(sorted(epoch)) for epoch in epochs} == {
        tuple(sorted(toy_split().in_memory["audio"][:, 0].tolist()))
    }


def test_taking_a_batch_in_parts_adds_their_gradients_up(tmp_path):
    whole, figures = train(tmp_path / "a")
    parts, others = train(tmp_path / "b", micro_batch=5)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(
            parts.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, equal_nan=True
        )
    assert values(others, "train", "loss") == pytest.approx(
        values(figures, "train", "loss"), rel=1e-4
    )


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
        step = PatternStep(model, COMPLETE, False)
        figures = fit(
            step,
            model,
            split,
            validate,
            toy_run(tmp_path / precision),
            **(SETTINGS | {"precision": precision}),
        )
        assert values(figures, "val", "score")[-1] > 0.99


@pytest.mark.parametrize("changes", [{}, {"one_drawn": True, "absent": "learned"}, {"ema": 0.9}])
@pytest.mark.parametrize("stop", [1, 6, 7, 40])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, changes, stop):
    """Stopped by a signal after `stop` steps of 6 per epoch: within an epoch and between two."""
    whole, figures = train(tmp_path / "whole", **changes)
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
    step = PatternStep(model, weights, changes.get("one_drawn", False))
    step.register_forward_pre_hook(interrupting)
    validate = make_validation(model, split, weights, 32, CPU)
    more = SETTINGS | {name: value for name, value in changes.items() if name == "ema"}
    with pytest.raises(UserError, match=f"stopped by SIGTERM at step {stop}") as error:
        fit(step, model, split, validate, toy_run(tmp_path / "cut"), **more)
    assert error.value.exit_status == 75
    again, others = train(tmp_path / "cut", **changes)
    assert same(again, whole)
    assert format_csv(others) == format_csv(figures)
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
        split,
        in_memory={m: x[:, :, None, None].expand(-1, 3, 6, 6) for m, x in split.in_memory.items()},
    )
    how, ends = SETTINGS | {"epochs": 3}, []
    for seconds in (1e9, 0.0):  # the second goes on from its last checkpoint but one
        model = convolutional()
        step, validate = (
            PatternStep(model, COMPLETE, False),
            make_validation(model, split, COMPLETE, 32, CPU),
        )
        run = toy_run(tmp_path / str(seconds), seconds)
        fit(step, model, split, validate, run, **how)
        if checkpoints := sorted(run.folder.glob("step-*")):
            checkpoints[-1].unlink()
            model = convolutional()
            step, validate = (
                PatternStep(model, COMPLETE, False),
                make_validation(model, split, COMPLETE, 32, CPU),
            )
            fit(step, model, split, validate, run, **how)
        ends.append(model)
    assert same(*ends)


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
        fit(Broken(), model, toy_split(), dict, toy_run(tmp_path), **SETTINGS)
    assert "learning rate" in error.value.hint


def test_a_batch_that_leaves_a_process_empty(tmp_path, monkeypatch):
    model = toy_model()
    step, validate = (
        PatternStep(model, COMPLETE, False),
        make_validation(model, toy_split(), COMPLETE, 32, CPU),
    )
    monkeypatch.setattr(distributed, "world", lambda: distributed.World(0, 32))
    with pytest.raises(
        UserError, match="a batch of 16 leaves some of 32 processes without a sample"
    ) as error:
        fit(step, model, toy_split(), validate, toy_run(tmp_path), **SETTINGS)
    assert error.value.exit_status == 2


def test_logits_come_in_stored_order_whatever_the_batch():
    model, split = toy_model(), toy_split(10)
    table = torch.tensor([[True, True]])
    torch.testing.assert_close(
        predict_pattern_logits(model, split, table, 3, CPU),
        predict_pattern_logits(model, split, table, 10, CPU),
    )

"""What every preset starts from, trains, and shows the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from toys.project import quick
from toys.training import CPU

from umemma.config import PRESETS, Training
from umemma.data.loader import LoadedSplit, cut_batches
from umemma.errors import UserError
from umemma.missing import make_keep_table
from umemma.models.late_fusion import LateFusion
from umemma.stages import evaluate, finetune, pretrain
from umemma.training import train
from umemma.training.balancing import GradientModulation, Teachers
from umemma.training.optimizer import Optimizer
from umemma.training.step import PatternStep, make_validation
from umemma.types import Batch


@dataclass
class Recorded:
    """What the loop was handed."""

    step: PatternStep
    model: LateFusion
    train: LoadedSplit
    training: Training
    rates: set[tuple[str, float, float]]  # (kind of parameter, learning rate, weight decay)
    val: LoadedSplit
    by_pattern: Tensor  # (64, S) cross entropy of samples under each pattern
    loss: float  # of a step on these


@pytest.fixture
def recorded(monkeypatch) -> list[Recorded]:
    """The calls of `fit`, which trains nothing."""
    calls: list[Recorded] = []
    seen: list[LoadedSplit] = []

    def noted(model: LateFusion, split: LoadedSplit, *rest: Any) -> Any:
        seen.append(split)
        return make_validation(model, split, *rest)

    def fit(
        step: PatternStep,
        optimizer: Optimizer,
        train: LoadedSplit,
        validate: Any,
        run: Any,
        *,
        training: Training,
        **rest: Any,
    ) -> list[Any]:
        model = step.model
        batch = next(train.batches(cut_batches(range(64), 64), CPU, seed=5))
        model.eval()
        with torch.no_grad():
            table = torch.from_numpy(make_keep_table(model.modalities))
            each = [cross_entropy(model, batch, row.expand(64, -1)) for row in table]
            balancing = step.balancing
            step.balancing = None
            loss = step(batch).item()
            step.balancing = balancing
        rates = set()
        kinds = {id(p): name.split(".")[0] for name, p in model.named_parameters()}
        for group in optimizer.adamw.param_groups:
            for parameter in group["params"]:
                rates.add((kinds[id(parameter)], group["peak"], group["weight_decay"]))
        by_pattern = torch.stack(each, 1)
        calls.append(Recorded(step, model, train, training, rates, seen[-1], by_pattern, loss))
        return []

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(train, "make_validation", noted)
    return calls


def encoders(path: str | Path) -> dict[str, Tensor]:
    return {
        name: x
        for name, x in load_file(Path(path) / "model.safetensors").items()
        if name.startswith("encoders.")
    }


def alone() -> dict[str, Tensor]:
    return encoders("models/digits/pretrain/audio") | encoders("models/digits/pretrain/image")


def cross_entropy(model: LateFusion, batch: Batch, keep: Tensor) -> Tensor:
    """(B,) of the answers from what `keep` leaves, each sample by itself."""
    return functional.cross_entropy(
        model(batch._replace(present=keep)), batch.target, reduction="none"
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_starts_from_shows_and_how_long_it_trains(project, recorded, preset):
    """The loss of a batch is that of the complete samples, of a drawn pattern each, or the mean over all patterns."""
    changes = [
        "finetune.epochs=3",
        "finetune.learning_rate=3e-3",
        "finetune.scratch={epochs: 5, learning_rate: 7e-3}",
    ]
    finetune.run(quick(f"finetune.preset={preset}", *changes))
    init, mma, train, balance = PRESETS[preset]
    start, unimodal = encoders("models/digits/ensemble"), alone()
    same = [
        torch.equal(start[name], unimodal[name])
        for name in unimodal
        if unimodal[name].unique().numel() > 1
    ]
    assert all(same) if init == "unimodal" else not any(same)
    if train == "none":
        assert recorded == []
        return
    (call,) = recorded
    assert call.training.epochs == (5 if init == "scratch" else 3)
    assert call.training.learning_rate == (7e-3 if init == "scratch" else 3e-3)
    trained_ = {name.split(".")[0] for name, p in call.model.named_parameters() if p.requires_grad}
    assert trained_ == (
        {"heads", "vectors"} if train == "head" else {"encoders", "heads", "vectors"}
    )
    by_pattern, loss = call.by_pattern, call.loss
    expected = {"none": by_pattern[:, 0].mean(), "all": by_pattern.mean()}
    if mma == "drop":
        assert all(abs(loss - one.item()) > 1e-3 for one in expected.values())
        assert by_pattern.amin(1).mean() < loss < by_pattern.amax(1).mean()
    else:
        assert loss == pytest.approx(expected[mma].item(), rel=1e-5)
        assert abs(expected["none"] - expected["all"]).item() > 1e-3
    balancing = call.step.balancing
    balancing_types = {"none": type(None), "ogm-ge": GradientModulation, "umt": Teachers}
    assert isinstance(balancing, balancing_types[balance])
    if isinstance(balancing, Teachers):
        for m, teacher in balancing.teachers.items():
            for name, x in teacher.encoders[m].state_dict().items():
                assert torch.equal(x, unimodal[f"encoders.{m}.{name}"])
        assert set(balancing.teachers) == {"audio", "image"}


def test_rates_of_parts_reach_the_optimizer(project, recorded):
    finetune.run(quick("finetune.encoder={learning_rate: 1e-5}", "finetune.weight_decay=0.2"))
    learning_rate = quick().finetune.learning_rate
    assert learning_rate != 1e-5
    # Matrices decay by 0.2, vectors never do.
    assert recorded[0].rates == {
        ("encoders", 1e-5, 0.2),
        ("encoders", 1e-5, 0.0),
        ("heads", learning_rate, 0.2),
        ("heads", learning_rate, 0.0),
        ("vectors", learning_rate, 0.0),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_changes(project, preset):
    """Really trained: the weights of the encoders and of the heads beside those of the uni-modal models. And evaluated."""
    params = quick(f"finetune.preset={preset}")
    finetune.run(params)
    assert evaluate.run(params).about["preset"] == preset
    _, _, train, _ = PRESETS[preset]
    after, before = encoders("models/digits/ensemble"), alone()
    kept = [torch.equal(after[name], before[name]) for name in before]
    assert all(kept) if train != "all" else not any(kept)
    heads = load_file("models/digits/ensemble/model.safetensors")
    for m in ("audio", "image"):
        head = load_file(f"models/digits/pretrain/{m}/model.safetensors")[f"heads.{m}.weight"]
        assert torch.equal(heads[f"heads.{m}.weight"], head) == (train == "none")


def test_the_ensemble_that_is_only_an_average_is_one_for_every_subset(project):
    """To the last digits, in the kept predictions of real stages, uncalibrated."""
    params = quick("finetune.preset=ume", "evaluate.calibrate=false")
    finetune.run(params)
    evaluate.run(params)
    table = pq.read_table("results/digits/predictions.parquet")
    assert (
        table["key"].to_pylist()
        == pq.read_table("data/shards/digits/test-000000.parquet")["key"].to_pylist()
    )
    logits = {name: np.stack(table[name].to_numpy()) for name in table.column_names if "/" in name}
    for m in ("audio", "image"):
        np.testing.assert_allclose(
            logits[f"ensemble/{m}"], logits[f"unimodal/{m}"], rtol=1e-6, atol=1e-6
        )
    mean = (logits["unimodal/audio"] + logits["unimodal/image"]) / 2
    np.testing.assert_allclose(logits["ensemble/audio+image"], mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_what_is_taken_from_training_is_taken_from_validation_unless_it_is_said_otherwise(
    project, recorded, stage
):
    def run(*sets: str) -> tuple[float, float]:
        params = quick("missing.train={audio: 0.3, image: 0.6}", *sets)
        pretrain.run(params, "image", again=True)
        if stage == "pretrain":  # samples without it are left out
            call = recorded[-1]
            return len(call.train) / whole["train"], len(call.val) / whole["val"]
        pretrain.run(params, "audio", again=True)
        finetune.run(params, again=True)
        there = [
            split.present[:, 1].sum().item() for split in (recorded[-1].train, recorded[-1].val)
        ]
        return there[0] / whole["train"], there[1] / whole["val"]

    pretrain.run(quick(), "image", again=True)
    whole = {"train": len(recorded[-1].train), "val": len(recorded[-1].val)}
    assert run() == pytest.approx((0.4, 0.4), abs=0.06)
    assert run("missing.val={}") == (pytest.approx(0.4, abs=0.06), 1.0)
    assert run("missing.val={image: 0.2}") == pytest.approx((0.4, 0.8), abs=0.06)


def test_augmentation_is_for_training_alone_and_reaches_fine_tuning(project, recorded):
    for m in ("audio", "image"):
        pretrain.run(quick("augment.image={shift: 0.2}"), m, again=True)
    finetune.run(quick("augment.image={shift: 0.2}"))
    call = recorded[-1]
    assert set(call.train.augments) == {"image"}
    assert set(call.val.augments) == set()
    plain, seen = (
        call.train.batches([np.arange(8)], CPU),
        call.train.batches([np.arange(8)], CPU, seed=3),
    )
    assert not torch.equal(next(plain).inputs["image"], next(seen).inputs["image"])


def test_a_calibration_is_not_judged_by_the_samples_that_it_was_fitted_on(project):
    finetune.run(quick())
    with pytest.raises(UserError, match="the calibration was fitted on val") as error:
        evaluate.run(quick("evaluate.split=val"))
    assert error.value.exit_status == 2
    assert "evaluate.calibrate=false" in error.value.hint
    assert (
        evaluate.run(quick("evaluate.split=val", "evaluate.calibrate=false")).about["split"]
        == "val"
    )

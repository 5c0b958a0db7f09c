"""What every preset starts from, trains, and shows the model."""

from __future__ import annotations

import json
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
from toys.archives import files
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

TRAINED_PARTS = {
    "all": {"encoders", "heads", "vectors"},
    "head": {"heads", "vectors"},
    "fusion": {"encoders", "fusion"},
}


@dataclass
class FitCall:
    """What the training loop was called with."""

    step: PatternStep
    model: LateFusion
    train: LoadedSplit
    training: Training
    rates: set[tuple[str, float, float]]  # (kind of parameter, learning rate, weight decay)
    val: LoadedSplit
    pattern_losses: Tensor  # (64, S) cross entropy of samples under each pattern
    loss: float  # of a step with these samples


@pytest.fixture
def fit_calls(monkeypatch) -> list[FitCall]:
    """The calls of `fit`, which is replaced and trains nothing."""
    calls: list[FitCall] = []
    val_splits: list[LoadedSplit] = []

    def note_split(model: LateFusion, split: LoadedSplit, *rest: Any) -> Any:
        val_splits.append(split)
        return make_validation(model, split, *rest)

    def note_call(
        step: PatternStep,
        optimizer: Optimizer,
        train: LoadedSplit,
        validate: Any,
        run: Any,
        *,
        training: Training,
        **rest: Any,
    ) -> list[Any]:
        batch = next(train.batches(cut_batches(range(64), 64), CPU, seed=5))
        call = FitCall(
            step=step,
            model=step.model,
            train=train,
            training=training,
            rates=list_rates(optimizer),
            val=val_splits[-1],
            pattern_losses=compute_pattern_losses(step.model, batch),
            loss=compute_task_loss(step, batch),
        )
        calls.append(call)
        return []

    monkeypatch.setattr(train, "fit", note_call)
    monkeypatch.setattr(train, "make_validation", note_split)
    return calls


def list_rates(optimizer: Optimizer) -> set[tuple[str, float, float]]:
    kinds = {}
    for name, parameter in optimizer.model.named_parameters():
        kinds[id(parameter)] = name.split(".")[0]
    rates = set()
    for group in optimizer.adamw.param_groups:
        for parameter in group["params"]:
            rates.add((kinds[id(parameter)], group["peak"], group["weight_decay"]))
    return rates


@torch.no_grad()
def compute_pattern_losses(model: LateFusion, batch: Batch) -> Tensor:
    """(B, S): the loss of each sample with what each pattern leaves of it."""
    model.eval()
    columns = []
    for keep in torch.from_numpy(make_keep_table(model.modalities)):
        logits = model(batch._replace(present=keep.expand(len(batch.target), -1)))
        losses = functional.cross_entropy(logits, batch.target, reduction="none")
        columns.append(losses)
    return torch.stack(columns, 1)


@torch.no_grad()
def compute_task_loss(step: PatternStep, batch: Batch) -> float:
    """The loss of a step without its balancing term and its ranking loss."""
    step.model.eval()
    balancing = step.balancing
    ranking_weight = step.ranking_weight
    step.balancing = None
    step.ranking_weight = 0.0
    loss = step(batch).item()
    step.balancing = balancing
    step.ranking_weight = ranking_weight
    return loss


def load_encoders(folder: str) -> dict[str, Tensor]:
    weights = load_file(Path(folder) / "model.safetensors")
    return {name: x for name, x in weights.items() if name.startswith("encoders.")}


def load_unimodal_encoders() -> dict[str, Tensor]:
    audio = load_encoders("models/digits/pretrain/audio")
    image = load_encoders("models/digits/pretrain/image")
    return audio | image


def list_trained_parts(model: LateFusion) -> set[str]:
    parts = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts.add(name.split(".")[0])
    return parts


def check_shown_patterns(call: FitCall, mma: str) -> None:
    losses = call.pattern_losses
    complete_loss = losses[:, 0].mean().item()
    mean_loss = losses.mean().item()
    if mma == "drop":
        assert abs(call.loss - complete_loss) > 1e-3
        assert abs(call.loss - mean_loss) > 1e-3
        assert losses.amin(1).mean() < call.loss < losses.amax(1).mean()
    else:
        expected_loss = {"none": complete_loss, "all": mean_loss}[mma]
        assert call.loss == pytest.approx(expected_loss, rel=1e-5)
        assert abs(complete_loss - mean_loss) > 1e-3


def check_balancing(balancing: object, balance: str, unimodal: dict[str, Tensor]) -> None:
    """The teachers are the uni-modal models."""
    balancing_types = {"none": type(None), "ogm-ge": GradientModulation, "umt": Teachers}
    assert isinstance(balancing, balancing_types[balance])
    if isinstance(balancing, Teachers):
        assert set(balancing.teachers) == {"audio", "image"}
        for m, teacher in balancing.teachers.items():
            for name, x in teacher.encoders[m].state_dict().items():
                assert torch.equal(x, unimodal[f"encoders.{m}.{name}"])


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_starts_from_shows_and_how_long_it_trains(project, fit_calls, preset):
    """The loss of a batch says which patterns are shown.

    It is that of the complete samples, of a drawn pattern each, or the mean over all patterns.
    """
    changes = [
        "finetune.epochs=3",
        "finetune.learning_rate=3e-3",
        "finetune.scratch={epochs: 5, learning_rate: 7e-3}",
    ]
    finetune.run(quick(f"finetune.preset={preset}", *changes))
    init, mma, train, balance, fusion = PRESETS[preset]
    start = load_encoders("models/digits/ensemble")
    unimodal = load_unimodal_encoders()
    are_equal = []
    for name, x in unimodal.items():
        if x.unique().numel() > 1:  # a constant says nothing of where it comes from
            are_equal.append(torch.equal(start[name], x))
    expected_epochs = 5
    expected_rate = 7e-3
    if init == "unimodal":
        assert all(are_equal)
        expected_epochs = 3
        expected_rate = 3e-3
    else:
        assert not any(are_equal)
    if train == "none":
        assert fit_calls == []
        return
    (call,) = fit_calls
    assert call.training.epochs == expected_epochs
    assert call.training.learning_rate == expected_rate
    parts = train
    if fusion != "mean":
        parts = "fusion"
    assert list_trained_parts(call.model) == TRAINED_PARTS[parts]
    assert call.step.ranking_weight == {"simmlm": 0.1}.get(preset, 0.0)
    check_shown_patterns(call, mma)
    check_balancing(call.step.balancing, balance, unimodal)


@pytest.mark.slow
def test_rates_of_parts_reach_the_optimizer(project, fit_calls):
    finetune.run(quick("finetune.encoder={learning_rate: 1e-5}", "finetune.weight_decay=0.2"))
    learning_rate = quick().finetune.learning_rate
    assert learning_rate != 1e-5
    # Matrices decay by 0.2, vectors never do.
    assert fit_calls[0].rates == {
        ("encoders", 1e-5, 0.2),
        ("encoders", 1e-5, 0.0),
        ("heads", learning_rate, 0.2),
        ("heads", learning_rate, 0.0),
        ("vectors", learning_rate, 0.0),
    }


def check_fusion(preset: str, ensemble: dict[str, Tensor]) -> None:
    """There are no other heads, and what is stored of training comes from it."""
    assert not [name for name in ensemble if name.startswith(("heads.", "vectors."))]
    shards = Path("data/shards/digits").glob("train-*.parquet")
    train_samples = sum(pq.read_metadata(shard).num_rows for shard in shards)
    if preset == "fill-mean":
        assert all(ensemble[f"fusion.fill_{m}"].any() for m in ("audio", "image"))
    if preset in ("fill-neighbour", "retrieve"):
        for m in ("audio", "image"):
            bank = ensemble[f"fusion.bank_{m}"]
            assert len(bank) == {"fill-neighbour": 1024, "retrieve": train_samples}[preset]
            assert bank.any()
    if preset == "simmlm":
        unimodal = load_file("models/digits/pretrain/audio/model.safetensors")
        head = unimodal["heads.audio.weight"]
        distance = (ensemble["fusion.heads.audio.weight"] - head).norm()
        assert 0 < distance < head.norm() / 2  # one epoch after the expert
        assert ensemble["fusion.gate.weight"].any()


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_changes(project, preset):
    """Trained and evaluated: encoders and heads are compared with those of the uni-modal models."""
    params = quick(f"finetune.preset={preset}", "finetune.keep_start=null")
    finetune.run(params)
    settings = evaluate.ask(params, "audio", [0.5]).settings
    assert settings.preset == preset
    train = PRESETS[preset].train
    absence_rule = PRESETS[preset].fusion
    if absence_rule == "mean":
        absence_rule = "learned"
    assert settings.absent == absence_rule
    after = load_encoders("models/digits/ensemble")
    before = load_unimodal_encoders()
    are_equal = [torch.equal(after[name], x) for name, x in before.items()]
    if train == "all":
        assert not any(are_equal)
    else:
        assert all(are_equal)
    ensemble = load_file("models/digits/ensemble/model.safetensors")
    if PRESETS[preset].fusion != "mean":
        check_fusion(preset, ensemble)
        return
    for m in ("audio", "image"):
        unimodal = load_file(f"models/digits/pretrain/{m}/model.safetensors")
        # The untrained heads differ from those of the uni-modal models by one weight.
        ratio = ensemble[f"heads.{m}.weight"] / unimodal[f"heads.{m}.weight"]
        is_scaled = bool(((ratio / ratio.mean() - 1).abs() < 1e-4).all())
        assert is_scaled == (train == "none")


@pytest.mark.slow
@pytest.mark.parametrize("start", ["average", "pooled"])
def test_the_ensemble_that_is_only_an_average_is_one_for_every_subset(project, start):
    """To the last digits, in the stored predictions of real stages, uncalibrated.

    Where it is pooled, each uni-modal model has one weight.
    """
    params = quick("finetune.preset=ume", f"finetune.start={start}", "evaluate.calibrate=false")
    finetune.run(params)
    evaluate.run(params)
    table = pq.read_table("results/digits/predictions.parquet")
    shard = pq.read_table("data/shards/digits/test-000000.parquet")
    assert table["key"].to_pylist() == shard["key"].to_pylist()
    logits = {}
    for name in table.column_names:
        if "/" in name:
            logits[name] = np.stack(table[name].to_numpy())
    weights = {}
    for m in ("audio", "image"):
        weights[m] = np.median(logits[f"ensemble/{m}"] / logits[f"unimodal/{m}"])
    assert (weights == pytest.approx({"audio": 1, "image": 1}, abs=1e-4)) == (start == "average")
    audio = weights["audio"] * logits["unimodal/audio"]
    image = weights["image"] * logits["unimodal/image"]
    for subset, expected in (
        ("audio", audio),
        ("image", image),
        ("audio+image", (audio + image) / 2),
    ):
        np.testing.assert_allclose(logits[f"ensemble/{subset}"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_what_is_taken_from_training_is_taken_from_validation_unless_it_is_said_otherwise(
    project, fit_calls, stage
):
    def measure_shares(*sets: str) -> tuple[float, float]:
        """Return the shares of the training and of the validation samples that have an image."""
        params = quick("missing.train={audio: 0.3, image: 0.6}", *sets)
        pretrain.run(params, "image", force=True)
        if stage == "pretrain":
            # Samples without an image are left out.
            call = fit_calls[-1]
            return len(call.train) / whole["train"], len(call.val) / whole["val"]
        pretrain.run(params, "audio", force=True)
        finetune.run(params, force=True)
        call = fit_calls[-1]
        train_images = call.train.present[:, 1].sum().item()
        val_images = call.val.present[:, 1].sum().item()
        return train_images / whole["train"], val_images / whole["val"]

    pretrain.run(quick(), "image", force=True)
    whole = {"train": len(fit_calls[-1].train), "val": len(fit_calls[-1].val)}
    assert measure_shares() == pytest.approx((0.4, 0.4), abs=0.06)
    assert measure_shares("missing.val={}") == (pytest.approx(0.4, abs=0.06), 1.0)
    assert measure_shares("missing.val={image: 0.2}") == pytest.approx((0.4, 0.8), abs=0.06)


@pytest.mark.slow
def test_augmentation_is_for_training_alone_and_reaches_fine_tuning(project, fit_calls):
    for m in ("audio", "image"):
        pretrain.run(quick("augment.image={shift: 0.2}"), m, force=True)
    finetune.run(quick("augment.image={shift: 0.2}"))
    call = fit_calls[-1]
    assert set(call.train.augments) == {"image"}
    assert set(call.val.augments) == set()
    plain = next(call.train.batches([np.arange(8)], CPU))
    augmented = next(call.train.batches([np.arange(8)], CPU, seed=3))
    assert not torch.equal(plain.inputs["image"], augmented.inputs["image"])


@pytest.mark.slow
def test_a_calibration_is_not_judged_by_the_samples_that_it_was_fitted_on(project):
    finetune.run(quick())
    evaluate.run(quick())
    on_test = quick().paths.results
    before = files(on_test)
    with pytest.raises(UserError, match="the calibration was fitted on val") as error:
        evaluate.run(quick("evaluate.split=val"))
    assert error.value.exit_status == 2
    assert "evaluate.calibrate=false" in error.value.hint
    outcome = evaluate.run(quick("evaluate.split=val", "evaluate.calibrate=false"))
    assert outcome.settings.split == "val"
    after = files(on_test)
    assert json.loads(after["val/metrics.json"])["split"] == "val"
    assert {name: after[name] for name in after if not name.startswith("val/")} == before

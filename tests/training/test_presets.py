"""What each setting does to a training: what is seen, shown, started from, changed, chosen by. Not what a file calls it."""

from __future__ import annotations

import contextlib
import csv
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
from toys.project import quick
from toys.shards import write
from toys.training import toy, trained

from umemma.config import PRESETS, Machine
from umemma.data import loader
from umemma.data.loader import Split, cut
from umemma.errors import UserError
from umemma.missing import keep_table
from umemma.models.late_fusion import LateFusion
from umemma.stages import evaluate, finetune, pretrain
from umemma.training import train
from umemma.training.balancing import GradientModulation, Teachers
from umemma.training.step import PatternStep, validation
from umemma.types import Batch, DatasetSpec, Record

CPU = torch.device("cpu")


@dataclass
class Recorded:
    """What the loop was handed."""

    step: PatternStep
    model: LateFusion
    train: Split
    how: dict[str, Any]
    val: Split
    by_pattern: Tensor  # (64, S) cross entropy of samples under each pattern
    loss: float  # of a step on these


@pytest.fixture
def recorded(monkeypatch) -> list[Recorded]:
    """The calls of `fit`, which trains nothing."""
    calls: list[Recorded] = []
    seen: list[Split] = []

    def noted(model: LateFusion, split: Split, *rest: Any) -> Any:
        seen.append(split)
        return validation(model, split, *rest)

    def fit(step: Any, model: Any, train: Split, validate: Any, run: Any, **how: Any) -> list[Any]:
        batch = next(train.batches(cut(range(64), 64), CPU, seed=5))
        model.eval()
        with torch.no_grad():
            table = torch.from_numpy(keep_table(model.modalities))
            each = [cross_entropy(model, batch, row.expand(64, -1)) for row in table]
            step.rival, rival = None, step.rival
            loss = step(batch).item()
            step.rival = rival
        calls.append(Recorded(step, model, train, how, seen[-1], torch.stack(each, 1), loss))
        return []

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(train, "validation", noted)
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
    assert call.how["epochs"] == (5 if init == "scratch" else 3)
    assert call.how["learning_rate"] == (7e-3 if init == "scratch" else 3e-3)
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
    rival = call.step.rival
    assert isinstance(
        rival, {"none": type(None), "ogm-ge": GradientModulation, "umt": Teachers}[balance]
    )
    if isinstance(rival, Teachers):
        for m, teacher in rival.teachers.items():
            for name, x in teacher.encoders[m].state_dict().items():
                assert torch.equal(x, unimodal[f"encoders.{m}.{name}"])
        assert set(rival.teachers) == {"audio", "image"}


def test_rates_of_parts_reach_the_optimizer(project, recorded):
    finetune.run(quick("finetune.encoder={learning_rate: 1e-5}", "finetune.weight_decay=0.2"))
    rates = recorded[0].how["rates"]
    assert {rate for name, rate in rates.items() if name.startswith("encoders")} == {(1e-5, 0.2)}
    assert {rate for name, rate in rates.items() if name.startswith("heads")} == {
        (quick().finetune.learning_rate, 0.2)
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


def test_training_never_opens_the_test_split(project):
    for file in Path("data/shards/digits").glob("test-*.tar"):
        file.unlink()
    pretrain.run(quick(), "image", again=True)
    finetune.run(quick())


def upside_down(folder: Path) -> train.Data:
    """As `toy`, but in validation the labels are the other way round: the better it learns, the worse it scores."""
    spec = DatasetSpec("toy", "", ("image", "text"), ("no", "yes"), "", "", ("train", "val"))
    records = []
    for i in range(60):
        label = i % 2
        media = {
            "image": np.full((8, 8), 100 * label + i, np.uint8),
            "text": f"word {'yes' if label else 'no'}",
        }
        records.append(
            Record(f"k{i}", "train" if i < 40 else "val", label if i < 40 else 1 - label, media)
        )
    specs = toy(folder / "specs").specs
    return train.Data(
        loader.Store(str(folder / "s")),
        write(folder / "s", records, spec=spec),
        specs,
        Machine(),
        0,
    )


def test_validation_chooses_and_not_training(tmp_path):
    how = {"epochs": 8, "learning_rate": 3e-2}
    bests = []
    for data in (toy(tmp_path / "a"), upside_down(tmp_path / "b")):
        _, scores = trained(tmp_path / f"run {len(bests)}", data, **how)
        rows = csv.DictReader(
            (tmp_path / f"run {len(bests)}" / "run" / "metrics.csv").read_text().splitlines()
        )
        val = [
            float(row["value"]) for row in rows if (row["split"], row["name"]) == ("val", "score")
        ]
        assert scores["val_score"] == pytest.approx(max(val))
        bests.append((val[0], val[-1], scores["val_score"]))
    assert bests[0][1] > 0.9  # it has learnt it at the end
    assert bests[1][1] < 0.1  # so that at the end it is wrong about everything
    assert bests[1][2] > bests[1][1]  # and an earlier epoch is kept


def test_calibration_is_fitted_on_validation(tmp_path, monkeypatch):
    seen = []
    fit = train.calibration.fit

    def noted(logits: np.ndarray, target: np.ndarray, *rest: Any) -> Any:
        seen.append(target.tolist())
        return fit(logits, target, *rest)

    monkeypatch.setattr(train.calibration, "fit", noted)
    trained(tmp_path / "run", upside_down(tmp_path))
    assert len(seen) == 5  # three subsets and two probes
    assert all(target == [1 - i % 2 for i in range(40, 60)] for target in seen)


def test_validation_weighs_the_patterns_as_training_does(tmp_path):
    """All weight on the text: only its answers count, in the score and in the loss."""
    data = toy(tmp_path / "s")
    model, _ = trained(tmp_path, data, epochs=1)
    with contextlib.ExitStack() as stay:
        val = data.load("val", stay, "toy")
        found = validation(
            model, val, np.array([0.0, 0.0, 1.0]), 8, CPU
        )()  # audio+text, image, text
        (batch,) = val.batches(cut(range(20), 20), CPU)
    text = torch.tensor([[False, True]]).expand(20, -1)
    with torch.no_grad():
        logits = model.eval()(batch._replace(present=text))
    assert found["score"] == pytest.approx((logits.argmax(1) == batch.target).float().mean().item())
    assert found["loss"] == pytest.approx(
        functional.cross_entropy(logits, batch.target).item(), rel=1e-5
    )
    whole = validation(model, val, np.array([1.0, 0.0, 0.0]), 8, CPU)()
    assert whole["loss"] != pytest.approx(found["loss"], rel=1e-3)


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


STRANGE = """
import torch
from torch import nn
from umemma.types import ImageInput

class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(256, 8)

    def forward(self, x):
        x = x.flatten(1)
        copy = torch.zeros(x.numel())
        copy.put_(torch.arange(x.numel()), x.flatten())  # has no deterministic form
        return self.linear(copy.view(x.shape))

def encoder():
    return Strange(), 8, ImageInput(size=16, channels=1)
"""


@pytest.mark.filterwarnings("ignore:put_ does not have a deterministic implementation")
def test_a_kernel_that_cannot_repeat_is_named_with_the_switch(project):
    (project / "strange_encoder.py").write_text(STRANGE)
    sets = ["encoders.image.name=import:strange_encoder:encoder", "encoders.image.input={}"]
    with pytest.raises(
        UserError, match=r"machine.deterministic: put_ has no deterministic form"
    ) as error:
        pretrain.run(quick(*sets), "image")
    assert "warn or false" in error.value.hint
    for value in ("warn", "false"):
        assert pretrain.run(quick(*sets, f"machine.deterministic={value}"), "image", again=True) > 0
    assert torch.is_deterministic_algorithms_warn_only_enabled() is False
    pretrain.run(quick(), "audio", again=True)
    assert torch.are_deterministic_algorithms_enabled()


def test_the_probe_of_each_modality_is_fitted_and_belongs_to_the_model(project):
    finetune.run(quick("finetune.preset=ume"))
    found = load_file("models/digits/ensemble/model.safetensors")
    assert {name for name in found if name.startswith("probes")} == {
        f"probes.{m}.{part}" for m in ("audio", "image") for part in ("weight", "bias")
    }
    assert not any(x.isnan().any() for x in found.values())
    about = json.loads(Path("models/digits/ensemble/model.json").read_text())
    assert {"probe/audio", "probe/image"} < about["calibration"].keys()
    evaluate.run(quick("finetune.preset=ume"))
    information = json.loads(Path("results/digits/information.json").read_text())
    assert [row["modality"] for row in information["encoder_gaps"]] == ["audio", "image"]
    gaps = [
        [row["score"] for row in information[name]]
        for name in ("gaps", "encoder_gaps", "fusion_gaps")
    ]
    np.testing.assert_allclose(np.add(gaps[1], gaps[2]), gaps[0])

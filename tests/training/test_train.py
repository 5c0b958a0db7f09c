"""Training as the stages do it: frozen encoders on kept features, absences, pretrained weights, own encoders, bad data."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys.project import quick
from toys.training import CHOSEN, CPU, frozen, toy, trained

from umemma.config import Machine
from umemma.errors import UserError
from umemma.missing import draw_training_absences
from umemma.models import factory
from umemma.stages import evaluate, finetune, pretrain
from umemma.system.files import sha256
from umemma.training import feature_cache
from umemma.training.train import DataSource


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) for name in a if "probes" not in name
    )


@pytest.mark.parametrize("modality", ["image", "both"])
def test_taking_away_is_as_if_it_had_never_been_there(tmp_path, modality):
    """`missing.train` against shards that really lack the media: the same weights, alone and together."""
    ratios = {"image": 0.4, "text": 0.3}
    whole = toy(tmp_path / "whole")
    keys = [f"k{i}" for i in range(40)]
    gone = {
        (k, m)
        for m, away in draw_training_absences(keys, 0, ratios).items()
        for k, lacks in zip(keys, away, strict=True)
        if lacks
    }
    assert 15 < len(gone) < 45
    lacking = toy(tmp_path / "lacking", gone)
    simulated = DataSource(
        whole.store, whole.index, whole.specs, whole.machine, 0, missing={"train": ratios}
    )
    chosen = {"image": CHOSEN["image"]} if modality == "image" else CHOSEN
    first, scores = trained(tmp_path / "a", simulated, chosen)
    second, others = trained(tmp_path / "b", lacking, chosen)
    assert same(first, second)
    assert scores == others
    assert not same(first, trained(tmp_path / "c", whole, chosen)[0])


@pytest.mark.parametrize("names", [["image"], ["image", "text"]])
@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_training_on_kept_features_is_training_with_the_frozen_encoder(
    tmp_path, monkeypatch, messages, names, memory
):
    data = toy(tmp_path / "s")
    data = DataSource(data.store, data.index, data.specs, Machine(memory=memory, workers=0), 0)
    kept, scores = trained(tmp_path / "a", data, frozen(*names))
    assert sum("features of" in message for message in messages) == 2  # train and val
    again, _ = trained(tmp_path / "a", data, frozen(*names))
    assert sum("features of" in message for message in messages) == 2
    assert same(kept, again)
    trained(
        tmp_path / "a", data, frozen(*names), learning_rate=1e-3
    )  # the same features serve another training
    assert sum("features of" in message for message in messages) == 2
    monkeypatch.setattr(feature_cache, "find_frozen", lambda model, augments: [])
    slow, others = trained(tmp_path / "b", data, frozen(*names))
    assert sum("features of" in message for message in messages) == 2
    for name, tensor in kept.state_dict().items():
        torch.testing.assert_close(tensor, slow.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert scores["val_score"] == others["val_score"]
    fresh = factory.build(CHOSEN, data.specs, ["no", "yes"], "learned").encoders
    assert (
        kept.encoders.state_dict().keys() == fresh.state_dict().keys()
    )  # the encoders are in the model again


def test_features_of_other_weights_are_not_taken(tmp_path, messages):
    data = toy(tmp_path / "s")
    for seed in range(2):
        torch.manual_seed(seed)
        model = factory.build(frozen("image"), data.specs, ["no", "yes"])
        with contextlib.ExitStack() as stay:
            splits = {"val": data.load("val", stay, "toy", ["image"])}
            (plain,) = splits["val"].batches([np.arange(20)], CPU)
            expected = model.encode_one(
                "image", plain.inputs["image"], plain.present[:, 0]
            ).detach()
            with feature_cache.cache_features(
                model, splits, ["image"], tmp_path / "f", {}, 8, CPU
            ) as seen:
                torch.testing.assert_close(seen["val"].in_memory["image"], expected)
    assert sum("features of" in message for message in messages) == 2
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in [*(tmp_path / "f").iterdir(), tmp_path / "new"]}
    assert len(modes) == 1  # they may be read as any new file may


def test_features_of_samples_that_had_lost_it_are_not_taken(tmp_path, messages):
    """Frozen pictures, a share of them taken away, then another: the keys stay, what is there doesn't."""
    whole = toy(tmp_path / "s")
    for ratio in (0.5, 0.0):
        data = DataSource(
            whole.store,
            whole.index,
            whole.specs,
            whole.machine,
            0,
            missing={"train": {"image": ratio}},
        )
        model, _ = trained(tmp_path / "a", data, frozen("image"))
        shutil.rmtree(tmp_path / "a" / "run")
    assert same(model, trained(tmp_path / "b", whole, frozen("image"))[0])


def test_an_augmented_encoder_has_no_kept_features(tmp_path):
    model = factory.build(frozen("image"), toy(tmp_path).specs, ["no", "yes"])
    assert feature_cache.find_frozen(model, {}) == ["image"]
    assert feature_cache.find_frozen(model, {"image": object()}) == []


def test_streaming_trains_to_the_same_weights(tmp_path):
    data = toy(tmp_path / "s")
    kept, _ = trained(tmp_path / "a", data)
    streamed = DataSource(data.store, data.index, data.specs, Machine(memory=0.0, workers=1), 0)
    assert same(kept, trained(tmp_path / "b", streamed)[0])


def test_one_class_only(tmp_path):
    with pytest.raises(UserError, match="all 40 samples are of one class"):
        trained(tmp_path, toy(tmp_path / "s", labels=1))


def test_labels_out_of_range(tmp_path):
    data = toy(tmp_path / "s")
    narrow = data.index.model_copy(update={"classes": ["no"]})
    with pytest.raises(UserError, match="has no description, or one that makes no sense"):
        trained(tmp_path, DataSource(data.store, narrow, data.specs, data.machine, 0))


OWN = """
from torch import nn
from umemma.types import ImageInput

def tiny():
    layers = nn.Flatten(), nn.Linear(256, 24), nn.ReLU(), nn.Linear(24, 12)
    return nn.Sequential(*layers), 12, ImageInput(size=16, channels=1)
"""


def test_an_encoder_of_ones_own_all_the_way_with_adapters(project, monkeypatch):
    """Its pretrained weights from a file, frozen with adapters, alone, in the ensemble, in the evaluation."""
    (project / "tiny_encoder.py").write_text(OWN)
    plain = ["encoders.image.name=import:tiny_encoder:tiny", "encoders.image.input={}"]
    pretrain.run(quick(*plain), "image")
    weights = load_file("models/digits/pretrain/image/model.safetensors")
    start = {
        name.removeprefix("encoders.image."): x
        for name, x in weights.items()
        if name.startswith("encoders")
    }
    save_file(start, "start.safetensors")
    sets = [
        *plain,
        "encoders.image.weights=start.safetensors",
        "encoders.image.tune=lora",
        "encoders.image.lora.rank=2",
    ]
    params = quick(*sets)
    pretrain.run(params, "image")
    adapted = load_file("models/digits/pretrain/image/model.safetensors")
    assert torch.equal(adapted["encoders.image.1.base_layer.weight"], start["1.weight"])
    assert adapted["encoders.image.1.lora_B.default.weight"].abs().sum() > 0
    finetune.run(params)
    together = load_file("models/digits/ensemble/model.safetensors")
    assert torch.equal(together["encoders.image.1.base_layer.weight"], start["1.weight"])
    assert evaluate.run(params).about["preset"] == "ume-mma"
    save_file({"1.weight": start["1.weight"], "other": start["1.bias"]}, "start.safetensors")
    with pytest.raises(UserError, match=r"missing: 1.bias, 3.bias, 3.weight; unexpected: other"):
        pretrain.run(params, "image", again=True)


def test_pretrained_weights_are_where_the_baselines_from_scratch_start_too(project):
    pretrain.run(quick(), "image")
    weights = load_file("models/digits/pretrain/image/model.safetensors")
    start = {
        name.removeprefix("encoders.image."): x
        for name, x in weights.items()
        if name.startswith("encoders")
    }
    save_file(start, "start.safetensors")
    params = quick(
        "finetune.preset=late-fusion",
        "encoders.image.weights=start.safetensors",
        "encoders.image.tune=frozen",
    )
    finetune.run(params)
    ensemble = load_file("models/digits/ensemble/model.safetensors")
    assert all(torch.equal(ensemble[f"encoders.image.{name}"], x) for name, x in start.items())


@pytest.mark.parametrize(
    "sets",
    [
        ["augment.image.shift=0.1", "augment.image.flip=0.5"],
        ["augment.audio.freq_masks=1", "augment.audio.freq_width=0.2"],
        ["pretrain.precision=bf16", "pretrain.channels_last=true"],
        ["pretrain.ema=0.9", "pretrain.micro_batch=16"],
        ["missing.train.image=0.5", "missing.train.audio=0.5"],
    ],
)
def test_every_way_to_train_reaches_the_model(project, sets):
    before = Path("models/digits/pretrain/image/model.safetensors").read_bytes()
    modality = "audio" if "augment.audio" in sets[0] else "image"
    pretrain.run(quick(*sets), modality)
    model = Path(f"models/digits/pretrain/{modality}/model.safetensors").read_bytes()
    assert model != before
    assert (Path(f"models/digits/pretrain/{modality}") / "metrics.csv").read_text().count(
        "val,score"
    ) == 1


def test_a_model_that_is_there_stays_unless_it_is_to_be_trained_again(project, messages):
    params = quick()
    about = Path("models/digits/pretrain/image/model.json")
    before = about.stat().st_mtime_ns
    assert pretrain.run(params, "image") == json.loads(about.read_text())["scores"]["val_score"]
    assert about.stat().st_mtime_ns == before
    assert any("is trained with these settings already" in message for message in messages)
    pretrain.run(params, "image", again=True)
    assert about.stat().st_mtime_ns != before


def test_an_ensemble_of_other_unimodal_models_is_trained_anew(project, messages):
    """The settings are the same; the weights that it starts from aren't."""
    params = quick("finetune.epochs=1")
    finetune.run(params)
    first = Path("models/digits/ensemble/model.safetensors").read_bytes()
    folder = Path("models/digits/pretrain/image")
    weights = load_file(folder / "model.safetensors")
    save_file({name: x + 0.1 for name, x in weights.items()}, folder / "model.safetensors")
    about = json.loads((folder / "model.json").read_text())
    about["weights_sha256"] = sha256(folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(about))
    finetune.run(params)
    assert Path("models/digits/ensemble/model.safetensors").read_bytes() != first


def test_a_damaged_model_is_trained_again(project):
    weights = Path("models/digits/pretrain/image/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    pretrain.run(quick(), "image")
    assert weights.read_bytes() == whole
    shutil.rmtree(project / "runs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("augment.image.shfit=0.1", "Did you mean 'shift'"),
        ("augment.image.shift=7", "augment.image.shift"),
        ("augment.vido.shift=0.1", "unknown modality 'vido'"),
        ("missing.train.vido=0.1", "unknown modality 'vido'"),
        ("missing.train.image=1.5", "missing.train.image"),
        ("encoders.image.weights=nowhere.safetensors", "no such file"),
        ("encoders.image.tune=frozn", "encoders.image.tune"),
        ("encoders.image.name=torchaudio:WAV2VEC2_BASE", "has no encoder for image"),
        ("pretrain.precision=fp8", "pretrain.precision"),
    ],
)
def test_what_is_put_in_wrong(project, change, message):
    with pytest.raises(UserError) as error:
        pretrain.run(quick(change), "image")
    assert message in str(error.value)
    assert error.value.exit_status == 2


def test_nothing_is_left_to_train_on(project):
    with pytest.raises(UserError, match="no sample has image"):
        pretrain.run(quick("missing.train.image=1.0"), "image")

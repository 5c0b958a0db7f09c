"""pretrain-unimodal: encoders of every kind, settings, models that exist already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys.project import quick

from umemma.errors import UserError
from umemma.stages import evaluate, finetune, pretrain

CUSTOM_ENCODER = """
from torch import nn
from umemma.types import ImageInput

def tiny():
    layers = nn.Flatten(), nn.Linear(256, 24), nn.ReLU(), nn.Linear(24, 12)
    return nn.Sequential(*layers), 12, ImageInput(size=16, channels=1)
"""


@pytest.mark.slow
def test_a_custom_encoder_in_every_stage_with_adapters(project):
    """With pretrained weights from a file and adapters: uni-modal, in the ensemble, evaluated."""
    (project / "tiny_encoder.py").write_text(CUSTOM_ENCODER)
    plain = ["encoders.image.name=import:tiny_encoder:tiny", "encoders.image.input={}"]
    pretrain.run(quick(*plain), "image")
    weights = load_file("models/digits/pretrain/image/model.safetensors")
    start = {}
    for name, x in weights.items():
        if name.startswith("encoders"):
            start[name.removeprefix("encoders.image.")] = x
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
    assert evaluate.run(params).settings.preset == "ume-mma"
    save_file({"1.weight": start["1.weight"], "other": start["1.bias"]}, "start.safetensors")
    with pytest.raises(UserError, match=r"missing: 1.bias, 3.bias, 3.weight; unexpected: other"):
        pretrain.run(params, "image", force=True)


@pytest.mark.slow
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
    modality = "image"
    if "augment.audio" in sets[0]:
        modality = "audio"
    folder = Path(f"models/digits/pretrain/{modality}")
    before = (folder / "model.safetensors").read_bytes()
    pretrain.run(quick(*sets), modality)
    assert (folder / "model.safetensors").read_bytes() != before
    assert (folder / "metrics.csv").read_text().count("val,score") == 1


def test_a_model_that_is_there_stays_unless_it_is_to_be_trained_again(project, messages):
    params = quick()
    about = Path("models/digits/pretrain/image/model.json")
    before = about.stat().st_mtime_ns
    assert pretrain.run(params, "image") == json.loads(about.read_text())["scores"]["val_score"]
    assert about.stat().st_mtime_ns == before
    assert any("is trained with these settings already" in message for message in messages)
    pretrain.run(params, "image", force=True)
    assert about.stat().st_mtime_ns != before


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


def test_modalities_that_share_an_encoder_are_shown_alone():
    """Patterns front+kitchen, front, kitchen: only the single ones are trained."""
    assert pretrain._weigh_alone(["front", "kitchen"]).tolist() == [0.0, 0.5, 0.5]
    assert pretrain._weigh_alone(["front"]).tolist() == [1.0]

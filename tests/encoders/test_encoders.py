"""Encoders by their names: feature widths, unknown names, and where weights come from."""

from __future__ import annotations

import json
import re

import pytest
import torch
from toys.encoders import save_state

from umemma import config, encoders
from umemma.errors import UserError
from umemma.types import (
    AudioInput,
    ImageInput,
    SeriesInput,
    TableInput,
    TextInput,
    VectorInput,
    VideoInput,
    WaveInput,
)

VECTOR = VectorInput(width=5, mean=[0.0] * 5, std=[1.0] * 5)
SERIES = SeriesInput(channels=3, steps=9, mean=[0.0] * 3, std=[1.0] * 3)
TABLE = TableInput(
    numbers=[{"name": "a"}, {"name": "b"}], categories=[{"name": "c", "values": ["x"]}]
)
INPUTS = [
    ("cnn:small", "audio", AudioInput(mels=8), (2, 1, 8, 12), 64),
    ("cnn:small", "image", ImageInput(size=8), (2, 3, 8, 8), 64),
    ("cnn:small", "spectrogram", ImageInput(size=8, channels=1), (2, 1, 8, 8), 64),
    ("cnn:small", "video", VideoInput(frames=3, size=8), (2, 3, 3, 8, 8), 64),
    ("cnn:lenet", "audio", AudioInput(mels=16, seconds=0.2), (2, 1, 16, 21), 84),
    ("cnn:lenet", "image", ImageInput(), (2, 3, 32, 32), 84),
    ("cnn:lenet", "spectrogram", ImageInput(size=112, channels=1), (2, 1, 112, 112), 84),
    ("mlp:linear", "vector", VECTOR, (2, 5), 5),
    ("mlp:small", "vector", VECTOR, (2, 5), 64),
    ("mlp:linear", "table", TABLE, (2, 5), 7),
    ("mlp:small", "table", TABLE, (2, 5), 64),
    ("series:cnn", "series", SERIES, (2, 3, 9), 128),
    ("series:tcn", "series", SERIES, (2, 3, 9), 128),
    ("series:transformer", "series", SERIES, (2, 3, 9), 64),
    ("text:cnn", "text", TextInput(length=9), (2, 9), 192),
    ("text:transformer", "text", TextInput(length=9), (2, 9), 128),
    ("timm:test_resnet", "audio", AudioInput(mels=16, seconds=0.2), (2, 1, 16, 21), 96),
    ("timm:test_resnet", "image", ImageInput(size=32), (2, 3, 32, 32), 96),
    ("timm:test_vit", "audio", AudioInput(mels=16, seconds=0.31), (2, 1, 16, 32), 64),
    ("timm:test_vit", "spectrogram", ImageInput(size=32, channels=1), (2, 1, 32, 32), 64),
    ("timm:test_vit.r160_in1k", "video", VideoInput(frames=2, size=32), (2, 2, 3, 32, 32), 64),
]


@pytest.mark.parametrize(("name", "modality", "spec", "shape", "width"), INPUTS)
def test_features_have_the_width_that_is_promised(name, modality, spec, shape, width):
    assert type(encoders.input_spec(name, modality)) is type(spec)
    module, dim = encoders.build(name, modality, spec)
    module.eval()
    x = torch.zeros(shape, dtype=torch.int64) if modality == "text" else torch.rand(shape)
    assert module(x).shape == (2, dim) == (2, width)
    assert module(x).isfinite().all()


def test_a_size_that_a_model_can_not_be_built_for_is_said_at_once():
    with pytest.raises(UserError, match="built for an input of 30 by 30: Input height"):
        encoders.build("timm:test_vit", "image", ImageInput(size=30))
    with pytest.raises(
        UserError, match="built for an input of 64 by 320: Model only handles square inputs"
    ):
        encoders.build("timm:nest_tiny", "audio", encoders.input_spec("timm:nest_tiny", "audio"))
    with pytest.raises(UserError, match="3 channels"):
        encoders.build("open_clip:ViT-B-32", "image", ImageInput(channels=1))


@pytest.mark.parametrize(
    ("name", "modality", "message"),
    [
        ("text:cnn", "image", "has no encoder for image"),
        ("cnn:small", "text", "has no encoder for text"),
        ("cn:small", "image", "Did you mean 'cnn'?"),
        ("cnn:smal", "image", "Did you mean 'cnn:small'?"),
        ("timm:resnet81", "image", "Did you mean 'timm:resnet18'"),
        ("timm:resnet18.a1_in2k", "image", "Did you mean 'timm:resnet18.a1_in1k'"),
        ("open_clip:ViT-B-33", "text", "Did you mean 'open_clip:ViT-B-32'"),
        ("open_clip:ViT-B-32@laion2b", "image", "Did you mean 'open_clip:ViT-B-32@laion2b_"),
        ("torchaudio:HUBERT_BAS", "audio", "Did you mean 'torchaudio:HUBERT_BASE'"),
        ("timm:", "image", "unknown encoder 'timm:'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones_and_not_a_thousand(name, modality, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        encoders.input_spec(name, modality)
    assert caught.value.usage
    assert len(str(caught.value)) < 400


def test_pictures_are_normalised_as_the_weights_were_trained():
    assert encoders.input_spec("timm:resnet18", "image") == ImageInput(
        size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=True
    )
    grey = encoders.input_spec("timm:resnet18", "spectrogram")
    assert (grey.channels, grey.crop) == (1, False)
    assert (grey.mean, grey.std) == pytest.approx((0.449, 0.226))
    assert encoders.input_spec("timm:resnet18", "video") == VideoInput(
        size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=True
    )
    clip = encoders.input_spec("open_clip:ViT-B-32", "image")
    assert clip.mean == (0.48145466, 0.4578275, 0.40821073)
    assert encoders.input_spec("open_clip:ViT-B-16-SigLIP@webli", "image") == ImageInput(
        size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=False
    )
    assert encoders.input_spec("open_clip:ViT-B-32", "text") == TextInput(
        length=77, tokenizer="clip"
    )
    siglip = encoders.input_spec("open_clip:ViT-B-16-SigLIP", "text")
    assert siglip == TextInput(length=64, tokenizer="open_clip:ViT-B-16-SigLIP", padding=1)
    assert encoders.input_spec("torchaudio:HUBERT_BASE", "audio") == WaveInput(sample_rate=16000)


def test_small_encoders_start_from_scratch_unless_told():
    for name, modality in (("cnn:small", "image"), ("text:cnn", "text")):
        assert encoders.find_weights(name, modality, None) is None
        with pytest.raises(UserError, match="none are published"):
            encoders.find_weights(name, modality, "pretrained")
    assert encoders.find_weights("timm:test_resnet", "image", "none") is None
    path = save_state({}, "data/weights/cnn/small.pth")
    assert encoders.find_weights("cnn:small", "image", "pretrained") == path
    assert encoders.find_weights("cnn:small", "image", None) is None


def test_a_file_that_is_named_wins_and_has_to_be_there():
    save_state({}, "data/weights/timm/test_resnet.bin")
    path = save_state({}, "mine.pt")
    assert encoders.find_weights("timm:test_resnet", "image", "mine.pt") == path
    with pytest.raises(UserError, match="no such file: yours") as caught:
        encoders.find_weights("timm:test_resnet", "image", "yours.pt")
    assert caught.value.where == "encoders.image.weights"


def test_the_project_comes_before_the_caches():
    save_state({}, "data/weights/timm/resnet18.a1_in1k.pt")
    best = save_state({"a": torch.ones(1)}, "data/weights/timm/resnet18.a1_in1k.safetensors")
    assert encoders.find_weights("timm:resnet18.a1_in1k", "video", None) == best


@pytest.mark.parametrize(
    ("name", "modality", "place"),
    [
        ("timm:resnet18", "image", "data/weights/timm/resnet18.safetensors"),
        ("open_clip:ViT-B-32@openai", "text", "data/weights/open_clip/ViT-B-32@openai.safetensors"),
        ("hf:someone/something", "text", "data/weights/hf/someone/something.safetensors"),
    ],
)
def test_without_a_network_one_error_names_the_file_to_place(name, modality, place):
    with pytest.raises(UserError) as caught:
        encoders.find_weights(name, modality, "pretrained")
    assert caught.value.where == f"encoders.{modality}.weights"
    assert place in caught.value.hint
    assert "can't be reached" in caught.value.what


def test_a_file_of_the_hub_s_cache_is_taken(tmp_path):
    repo = tmp_path / "hub" / "models--timm--resnet18.a1_in1k"
    path = save_state(
        {"a": torch.ones(1)}, str(repo / "snapshots" / ("0" * 40) / "model.safetensors")
    )
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    assert encoders.find_weights("timm:resnet18", "image", None) == path


def test_a_file_of_torch_s_cache_is_taken(tmp_path):
    path = save_state({}, str(tmp_path / "torch" / "checkpoints" / "hubert_fairseq_base_ls960.pth"))
    assert encoders.find_weights("torchaudio:HUBERT_BASE", "audio", None) == path


def test_models_without_published_weights_say_so():
    with pytest.raises(
        UserError, match="no weights of timm:beit3_giant_patch14_224: none are published"
    ):
        encoders.find_weights("timm:beit3_giant_patch14_224", "image", None)


def test_the_settings_of_an_encoder_are_json():  # model.json holds the settings of a training
    assert json.dumps(config.Encoder(name="timm:resnet18").model_dump(mode="json"))

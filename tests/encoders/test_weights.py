"""Files of weights: asked for, read safely, and refused where they belong to another encoder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from toys.encoders import save_state

from umemma import encoders
from umemma.config import Encoder
from umemma.encoders import weights
from umemma.errors import UserError
from umemma.models import factory
from umemma.types import AudioInput, ImageInput


def test_an_unreachable_hub_is_asked_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert not weights.is_online()


def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch):
    monkeypatch.setattr("requests.head", lambda *_, **__: pytest.fail("asked"))
    assert not weights.is_online()


def test_a_state_dict_is_unwrapped():
    plain = {"a.weight": torch.ones(2), "b": torch.zeros(1)}
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in plain.items()}}
    for name in ("one.pt", "two.pth"):
        state = weights.read_state(save_state(wrapped, name))
        assert state.keys() == plain.keys()
    torch.save(plain, "old.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(weights.read_state(Path("old.bin"))["a.weight"], torch.ones(2))


class Code:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_code_in_a_file_is_refused_and_does_not_run():
    torch.save({"a": torch.ones(1), "b": Code()}, "evil.pt")
    with pytest.raises(UserError, match="can't be loaded safely"):
        weights.read_state(Path("evil.pt"))
    assert not Path("harm").exists()


@pytest.mark.parametrize("name", ["junk.pt", "junk.safetensors"])
@pytest.mark.parametrize("data", [b"", b"junk" * 100, b"PK\x03\x04" + b"x" * 100, b"\x80\x04junk"])
def test_a_damaged_file_is_an_error_of_one_line(name, data):
    Path(name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        weights.read_state(Path(name))
    assert caught.value.where == name
    assert "\n" not in caught.value.what


def test_a_script_and_a_file_without_weights_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        torch.jit.script(nn.Linear(1, 1)).save("script.pt")
    torch.save({"epoch": 3}, "empty.pt")
    for name, message in (
        ("script.pt", "can't be loaded safely"),
        ("empty.pt", "holds no weights"),
    ):
        with pytest.raises(UserError, match=message):
            weights.read_state(Path(name))


def test_weights_of_another_encoder_are_refused_with_what_differs():
    resnet, _ = encoders.build("timm:resnet10t", "image", ImageInput(size=32))
    path = save_state(timm.create_model("test_resnet").state_dict())
    with pytest.raises(UserError, match="not the weights of this encoder") as caught:
        encoders.load_weights(resnet, "timm:resnet10t", "image", ImageInput(size=32), path)
    assert "unexpected: layer" in caught.value.what
    assert "other shape: conv1.0.weight (" in caught.value.what
    assert " more" in caught.value.what
    assert str(path) in caught.value.where
    small, _ = encoders.build("cnn:small", "image", ImageInput())
    state = small.state_dict()
    state.pop("layers.0.weight")
    with pytest.raises(UserError, match=r"missing: layers\.0\.weight\n"):
        encoders.load_weights(small, "cnn:small", "image", ImageInput(), save_state(state))


def test_an_encoder_is_taken_out_of_a_model_of_umemma():
    """Its heads, its probes and its other encoders are left where they are."""
    specs = {"audio": AudioInput(), "image": ImageInput(size=8)}
    chosen = {m: Encoder(name="cnn:small") for m in specs}
    path = save_state(factory.build(chosen, specs, ["no", "yes"]).state_dict())
    image, _ = encoders.build("cnn:small", "image", specs["image"])
    encoders.load_weights(image, "cnn:small", "image", specs["image"], path)
    state = weights.read_state(path)
    for name, tensor in image.state_dict().items():
        torch.testing.assert_close(tensor, state[f"encoders.image.{name}"])
    audio = factory.build({"audio": chosen["audio"]}, {"audio": specs["audio"]}, ["no", "yes"])
    path = save_state(audio.state_dict())
    with pytest.raises(UserError, match="model of audio, without an encoder of image") as caught:
        encoders.load_weights(image, "cnn:small", "image", specs["image"], path)
    assert caught.value.where == str(path)

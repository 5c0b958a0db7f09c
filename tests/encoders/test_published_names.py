"""Weights under the names of another library: loaded by order, or refused with a library's name."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models
from toys.encoders import compute_same, randomise, save_state

from umemma import encoders
from umemma.encoders import weights
from umemma.encoders.published_names import rename_by_order
from umemma.errors import UserError
from umemma.types import AudioInput, ImageInput

SPEC = ImageInput(size=64)


def published_state() -> dict[str, torch.Tensor]:
    """Return the weights of a tiny classifier with the names of another library."""
    layers = {
        "_stem": nn.Conv2d(3, 4, 3),
        "_bn0": nn.BatchNorm2d(4),
        "_conv": nn.Conv2d(4, 4, 3),
        "_bn1": nn.BatchNorm2d(4),
        "_fc": nn.Linear(4, 2),
    }
    return randomise(nn.ModuleDict(layers)).state_dict()


def own_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("mobilenet_v2", "mobilenetv2_100"), ("efficientnet_b0", "efficientnet_b0")],
)
def test_torchvision_s_names_load_into_the_same_network_of_timm(theirs, ours, messages):
    published = randomise(models.get_model(theirs, weights=None))
    module, _ = encoders.build(f"timm:{ours}", "image", SPEC)
    path = save_state(published.state_dict(), f"{theirs}.pth")
    encoders.load_weights(module, f"timm:{ours}", "image", SPEC, path)
    published.classifier = nn.Identity()
    assert compute_same(module, published, 2, 3, 64, 64)
    assert f"{path} for timm:{ours}: other names, but the same order" in "".join(messages)
    assert "features.0.0.weight as conv_stem.weight" in "".join(messages)


def test_other_names_load_into_one_channel_too():
    published = models.mobilenet_v2(weights=None)
    module, _ = encoders.build("timm:mobilenetv2_100", "audio", AudioInput())
    path = save_state(published.state_dict(), "mobilenet.pth")
    encoders.load_weights(module, "timm:mobilenetv2_100", "audio", AudioInput(), path)
    three = published.features[0][0].weight
    torch.testing.assert_close(module.conv_stem.weight, three.sum(1, keepdim=True))


def test_every_tensor_goes_to_its_place():
    state = published_state()
    module = own_net()
    renamed = rename_by_order(state, module, "here")
    weights.load_state(module, renamed, "here")
    assert torch.equal(module[2].weight, state["_conv.weight"])
    assert torch.equal(module[3].running_var, state["_bn1.running_var"])
    assert torch.equal(module[1].bias, state["_bn0.bias"])
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert rename_by_order(old, own_net(), "here").keys() == renamed.keys()


def change_order(state):
    """Move a bias behind the running mean, which has its shape."""
    keys = list(state)
    keys.insert(keys.index("_bn0.running_mean"), keys.pop(keys.index("_bn0.bias")))
    return {key: state[key] for key in keys}


def change_shape(state):
    return {**state, "_conv.weight": torch.ones(4, 4, 1, 1)}


def leave_out(state):
    return {key: value for key, value in state.items() if key != "_bn1.bias"}


def add_one(state):
    return {**state, "_more.weight": torch.ones(4)}


def rename_kind(state):
    return {key.replace("_conv.weight", "_conv.kernel"): value for key, value in state.items()}


def mix_layers(state):
    """Take the bias of one layer for that of the other."""
    return {key.replace("_bn0.bias", "_other.bias"): value for key, value in state.items()}


@pytest.mark.parametrize(
    "change",
    [change_order, change_shape, leave_out, add_one, rename_kind, mix_layers],
)
def test_what_does_not_correspond_one_to_one_is_left_as_it_is(change, messages):
    state = change(published_state())
    module = own_net()
    assert rename_by_order(state, module, "here") is state
    assert not messages
    with pytest.raises(UserError, match="not the weights of this encoder"):
        weights.load_state(module, state, "here")


def test_a_name_of_another_place_is_not_renamed():
    module = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False))
    state = {"1.weight": torch.rand(3, 3, 1, 1), "2.weight": torch.rand(3, 3, 1, 1)}
    assert rename_by_order(state, module, "here") is state


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4))


def test_one_layer_is_not_loaded_into_two():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), Shift())
    state = {"a.weight": torch.ones(4, 3, 3, 3), "a.bias": torch.ones(4)}
    assert rename_by_order(state, module, "here") is state
    state = {"a.weight": torch.ones(4, 3, 3, 3), "b.bias": torch.ones(4)}
    assert list(rename_by_order(state, module, "here")) == ["0.weight", "1.bias"]


def test_linear_layers_are_not_loaded_by_order(messages):
    spec = ImageInput(size=160)
    module, _ = encoders.build("timm:test_vit", "image", spec)
    state = {f"net.{key}": value for key, value in module.state_dict().items()}
    path = save_state(state, "vit.pth")
    with pytest.raises(UserError, match="not the weights of this encoder"):
        encoders.load_weights(module, "timm:test_vit", "image", spec, path)
    assert not messages


TWINS = """
from torch import nn
from umemma.types import ImageInput
def twins():
    first, second = (nn.Conv2d(3, 3, 1, bias=False) for _ in range(2))
    return nn.Sequential(first, second), 3, ImageInput(size=1)
"""


def test_a_file_that_sorts_its_tensors_is_not_loaded_by_order():
    Path("my_twins.py").write_text(TWINS)
    name = "import:my_twins:twins"
    spec = ImageInput(size=1)
    module, _ = encoders.build(name, "image", spec)
    state = {"stem.weight": torch.rand(3, 3, 1, 1), "body.weight": torch.rand(3, 3, 1, 1)}
    with pytest.raises(UserError, match="not the weights of this encoder"):
        encoders.load_weights(module, name, "image", spec, save_state(state, "twins.safetensors"))
    encoders.load_weights(module, name, "image", spec, save_state(state, "twins.pt"))
    assert torch.equal(module[0].weight, state["stem.weight"])
    assert torch.equal(module[1].weight, state["body.weight"])
    sys.modules.pop("my_twins")


def test_torchvision_s_names_without_their_order_are_refused_with_their_family():
    state = models.mobilenet_v2(weights=None).state_dict()
    module, _ = encoders.build("timm:mobilenetv2_100", "image", SPEC)
    path = save_state(state, "some.safetensors")
    with pytest.raises(UserError, match="are those of torchvision: name torchvision:MODEL"):
        encoders.load_weights(module, "timm:mobilenetv2_100", "image", SPEC, path)


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("features.0.0.weight", "torchvision: name torchvision:MODEL"),
        ("_blocks.0._bn1.weight", "lukemelas: take its .pth file with timm:tf_efficientnet_lite0"),
        ("visual.conv1.weight", "open_clip: name open_clip:MODEL@PRETRAINED"),
        ("embeddings.word_embeddings.weight", "transformers: name hf:FOLDER"),
        ("conv_stem.weight", "timm: name timm:MODEL"),
    ],
)
def test_the_error_names_the_library_that_the_names_are_from(key, advice):
    with pytest.raises(UserError, match="not the weights of this encoder") as caught:
        weights.load_state(nn.Conv2d(1, 1, 1), {key: torch.ones(1)}, "here")
    assert caught.value.hint.startswith(f"Names like {key} are those of")
    assert advice in caught.value.hint
    with pytest.raises(UserError) as caught:
        weights.load_state(nn.Conv2d(1, 1, 1), {"strange.weight": torch.ones(1)}, "here")
    assert caught.value.hint.startswith("Name the weights of exactly this encoder")


def test_a_pickled_model_is_refused_with_the_command_that_converts_it():
    module = nn.Linear(2, 3)
    torch.save(module, "whole.pt")
    with pytest.raises(UserError, match="can't be loaded safely") as caught:
        weights.read_state(Path("whole.pt"))
    command = re.search(r"python -c .*", caught.value.hint)[0]
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    state = weights.read_state(Path("whole-state.pt"))
    assert torch.equal(state["weight"], module.weight)

"""The image models of torchvision: their classifiers, sizes and published weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models
from toys.encoders import compute_same, randomise, save_state

from umemma import encoders
from umemma.encoders.catalogue import list_encoders
from umemma.encoders.torchvision import names, source, width
from umemma.errors import UserError
from umemma.types import ImageInput, VideoInput

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
LAST_LAYERS = {
    "resnet18": "fc",
    "mobilenet_v2": "classifier.1",
    "efficientnet_b0": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "shufflenet_v2_x0_5": "fc",
}


@pytest.mark.parametrize("variant", LAST_LAYERS)
def test_torchvision_s_classifiers_load_without_their_last_layer(variant):
    published = randomise(models.get_model(variant, weights=None))
    path = save_state(published.state_dict(), f"{variant}.pth")
    spec = ImageInput(size=64)
    module, dim = encoders.build(f"torchvision:{variant}", "image", spec)
    encoders.load_weights(module, f"torchvision:{variant}", "image", spec, path)
    published.set_submodule(LAST_LAYERS[variant], nn.Identity())
    assert compute_same(module, published, 2, 3, 64, 64)
    assert module(torch.rand(2, 3, 64, 64)).shape == (2, dim)
    assert width(variant) == dim


def test_the_input_is_that_of_the_weights():
    for variant, size in (("resnet18", 224), ("efficientnet_v2_s", 384)):
        spec = encoders.input_spec(f"torchvision:{variant}", "image")
        assert spec.size == size
        assert spec.crop
    assert encoders.input_spec("torchvision:resnet18", "image") == ImageInput(
        size=224, crop=True, **IMAGENET
    )
    assert isinstance(encoders.input_spec("torchvision:resnet18", "video"), VideoInput)


def test_position_embeddings_are_fitted_to_the_size():
    published = models.get_model("vit_b_32", weights=None)
    state = published.state_dict()
    nn.init.normal_(state["encoder.pos_embedding"])
    spec = ImageInput(size=64)
    module, dim = encoders.build("torchvision:vit_b_32", "image", spec)
    path = save_state(state, "vit.pth")
    encoders.load_weights(module, "torchvision:vit_b_32", "image", spec, path)
    assert module.encoder.pos_embedding.shape == (1, 1 + 2 * 2, dim)
    assert torch.equal(module.encoder.pos_embedding[:, 0], state["encoder.pos_embedding"][:, 0])
    assert module.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 768)


def test_a_video_is_encoded_by_frames():
    published = randomise(models.get_model("resnet18", weights=None))
    spec = VideoInput(frames=2, size=32)
    module, _ = encoders.build("torchvision:resnet18", "video", spec)
    path = save_state(published.state_dict(), "resnet.pth")
    encoders.load_weights(module, "torchvision:resnet18", "video", spec, path)
    assert torch.equal(module.encoder.conv1.weight, published.conv1.weight)
    assert module(torch.rand(2, 2, 3, 32, 32)).shape == (2, 512)


def test_an_input_that_a_model_does_not_take_is_an_error():
    with pytest.raises(UserError, match="it takes 3 channels, not 1\n"):
        encoders.build("torchvision:resnet18", "image", ImageInput(size=32, channels=1))
    with pytest.raises(UserError, match="can't be built for an input of 50 by 50"):
        encoders.build("torchvision:vit_b_32", "image", ImageInput(size=50))
    with pytest.raises(UserError, match="can't be built for an input of 16 by 16"):
        encoders.build("torchvision:alexnet", "image", ImageInput(size=16))
    with pytest.raises(UserError, match="Did you mean 'torchvision:mobilenet_v2'"):
        encoders.input_spec("torchvision:mobilenetv2", "image")
    with pytest.raises(UserError, match="'torchvision' has no encoder for audio"):
        encoders.input_spec("torchvision:resnet18", "audio")


def test_the_listing_names_them_and_finds_placed_weights():
    rows, notes = list_encoders("torchvision:resnet*")
    assert [row.name for row in rows] == [
        f"torchvision:resnet{depth}" for depth in (101, 152, 18, 34, 50)
    ]
    assert [row.width for row in rows] == [2048, 2048, 512, 512, 2048]
    assert {(row.input, row.weights) for row in rows} == {("224 px", "downloads")}
    assert not notes
    path = Path("data/weights/torchvision/resnet18.pth")
    path.parent.mkdir(parents=True)
    path.touch()
    assert list_encoders("torchvision:resnet18")[0][0].weights == f"yes: {path}"
    assert encoders.find_weights("torchvision:resnet18", "image", None) == path


@pytest.mark.slow
def test_every_model_has_an_input_a_width_and_published_weights():
    assert len(names()) > 50
    for variant in names():
        assert encoders.input_spec(f"torchvision:{variant}", "image").size >= 224
        assert width(variant) >= 500
        assert source(variant).url.startswith("https://download.pytorch.org/models/")

"""The towers of a CLIP, and its published weights."""

from __future__ import annotations

import pytest
import torch
from toys.encoders import save_state

from umemma import encoders
from umemma.encoders import open_clip
from umemma.errors import UserError
from umemma.types import ImageInput, TextInput


def test_a_clip_has_to_say_which_weights():
    with pytest.raises(UserError, match=r"which weights\?") as caught:
        encoders.find_weights("open_clip:ViT-B-32", "image", None)
    assert caught.value.usage
    assert "open_clip:ViT-B-32@openai" in caught.value.hint
    assert encoders.find_weights("open_clip:ViT-B-32", "image", "none") is None


@pytest.mark.parametrize("layout", [0, 1], ids=["openai", "custom"])
def test_a_tower_is_taken_out_of_a_whole_clip(tiny_clip, layout):
    clip = tiny_clip[layout]
    path = save_state(clip.state_dict())
    for modality, shape, theirs in (
        ("image", (2, 3, 32, 32), clip.encode_image),
        ("text", (2, 9), clip.encode_text),
    ):
        spec = encoders.input_spec("open_clip:tiny", modality)
        module, width = encoders.build("open_clip:tiny", modality, spec)
        assert width == 12
        encoders.load_weights(module, "open_clip:tiny", modality, spec, path)
        x = torch.rand(shape) if modality == "image" else torch.randint(1, 20, shape)
        torch.testing.assert_close(module.eval()(x), theirs(x))
        module(x).sum().backward()
        assert all(p.grad is not None for p in module.parameters())


def test_a_clip_s_positions_are_fitted_to_another_size_and_length(tiny_clip):
    path = save_state(tiny_clip[0].state_dict())
    for modality, spec, shape in (
        ("image", ImageInput(size=64), (2, 3, 64, 64)),
        ("text", TextInput(length=6), (2, 6)),
    ):
        module, _ = encoders.build("open_clip:tiny", modality, spec)
        encoders.load_weights(module, "open_clip:tiny", modality, spec, path)
        x = torch.rand(shape) if modality == "image" else torch.randint(1, 20, shape)
        assert module.eval()(x).shape == (2, 12)


def test_weights_of_a_wider_clip_are_refused(tiny_clip):
    import open_clip as library

    wide = {"context_length": 9, "vocab_size": 20, "width": 24, "heads": 2, "layers": 1}
    other = library.CLIP(12, library.get_model_config("tiny")["vision_cfg"], wide)
    module, _ = encoders.build("open_clip:tiny", "text", TextInput(length=9))
    with pytest.raises(UserError, match="other shape: "):
        encoders.load_weights(
            module, "open_clip:tiny", "text", TextInput(length=9), save_state(other.state_dict())
        )


def test_weights_are_published_where_open_clip_says():
    source = open_clip.source("ViT-B-32@laion2b_s34b_b79k")
    assert source.repo == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    assert source.files == ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    assert open_clip.source("ViTamin-S@datacomp1b").files == (
        "pytorch_model.safetensors",
        "pytorch_model.bin",
    )

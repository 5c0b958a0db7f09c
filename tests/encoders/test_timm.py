"""Published weights of timm: classifiers, channels and position embeddings."""

from __future__ import annotations

import pytest
import timm
import torch
from toys.encoders import compute_same, save_state

from umemma import encoders
from umemma.types import AudioInput, ImageInput


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "levit_128s"])
def test_timm_s_classifiers_load_without_their_heads(name):
    published = timm.create_model(name)
    spec = ImageInput(size=published.pretrained_cfg["input_size"][-1])
    module, _ = encoders.build(f"timm:{name}", "image", spec)
    encoders.load_weights(module, f"timm:{name}", "image", spec, save_state(published.state_dict()))
    published.reset_classifier(0)
    assert compute_same(module, published, 1, 3, spec.size, spec.size)
    again, _ = encoders.build(f"timm:{name}", "image", spec)
    encoders.load_weights(
        again, f"timm:{name}", "image", spec, save_state(module.state_dict(), "own.pt")
    )
    assert compute_same(module, again, 1, 3, spec.size, spec.size)


def test_one_channel_sees_what_three_equal_ones_would():
    published = timm.create_model("test_resnet")
    spec = AudioInput(mels=32, seconds=0.31)
    module, _ = encoders.build("timm:test_resnet", "audio", spec)
    encoders.load_weights(
        module, "timm:test_resnet", "audio", spec, save_state(published.state_dict())
    )
    published.reset_classifier(0)
    x = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(module.eval()(x), published.eval()(x.expand(1, 3, 32, 32)))


def test_position_embeddings_are_fitted_to_a_spectrogram():
    published = timm.create_model("test_vit")
    spec = AudioInput(mels=32, seconds=0.63)
    module, width = encoders.build("timm:test_vit", "audio", spec)
    encoders.load_weights(
        module, "timm:test_vit", "audio", spec, save_state(published.state_dict())
    )
    assert module.eval()(torch.rand(2, 1, 32, 64)).shape == (2, width)
    assert torch.equal(module.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)
    patches = module.pos_embed.shape[1] - 1
    assert patches == (32 // 16) * (64 // 16)

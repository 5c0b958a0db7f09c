"""Low-rank adapters: where they are, and what they change."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from toys.encoders import compute_same
from toys.models import tiny_wave

from umemma import encoders
from umemma.errors import UserError
from umemma.types import ImageInput, TextInput


def test_fresh_adapters_change_nothing_and_a_step_changes_the_output():
    module, _ = encoders.build("timm:test_vit", "image", ImageInput(size=32))
    module.eval()
    x = torch.rand(2, 3, 32, 32)
    before = module(x)
    encoders.add_lora(module, rank=2, alpha=4.5, dropout=0.0)
    torch.testing.assert_close(module(x), before)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in trained}
    assert layers == {"qkv", "proj", "fc1", "fc2"}
    module(x).square().sum().backward()
    assert all(p.grad is not None for p in trained.values())
    torch.optim.SGD(trained.values(), lr=0.1).step()
    assert not torch.allclose(module(x), before)

    other, _ = encoders.build("timm:test_vit", "image", ImageInput(size=32))
    encoders.add_lora(other, rank=2, alpha=4.5, dropout=0.0)
    other.load_state_dict(module.state_dict())
    assert compute_same(module, other, 2, 3, 32, 32)


def test_no_adapter_stands_where_it_would_be_passed_by(tiny_clip):
    """Every adapter gets a gradient: its layer is called."""
    tower, _ = encoders.build("open_clip:tiny", "text", TextInput(length=9))
    beit, _ = encoders.build("timm:beitv2_base_patch16_224", "image", ImageInput(size=32))
    beit.blocks = beit.blocks[:1]
    for module, x in ((tower, torch.randint(1, 20, (2, 9))), (beit, torch.rand(2, 3, 32, 32))):
        encoders.add_lora(module, rank=2, alpha=4, dropout=0.0)
        module(x).square().sum().backward()
        trained = [name for name, p in module.named_parameters() if p.requires_grad]
        assert trained
        assert not [name for name in trained if module.get_parameter(name).grad is None]
        assert not [name for name in trained if ".attn.out_proj." in name or ".qkv." in name]


def test_adapters_reach_the_attention_of_wav2vec2():
    module = tiny_wave("wav2vec2")
    encoders.add_lora(module, rank=2, alpha=4, dropout=0.0)
    assert any("attention.q_proj.lora_A" in name for name, _ in module.named_parameters())


def test_an_encoder_without_linear_layers_takes_no_adapters():
    module, _ = encoders.build("cnn:small", "image", ImageInput())
    with pytest.raises(UserError, match="no linear layer") as caught:
        encoders.add_lora(module, 2, 4, 0.0)
    assert "full or frozen" in caught.value.hint


def test_peft_is_asked_for_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError) as caught:
        encoders.add_lora(nn.Sequential(nn.Linear(1, 1)), 2, 4, 0.0)
    assert "pip install 'umemma[lora]'" in caught.value.hint

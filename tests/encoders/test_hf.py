"""Text models of Hugging Face, from a folder."""

from __future__ import annotations

import sys

import pytest
import torch
from toys.encoders import save_state

from umemma import encoders
from umemma.encoders import hf, weights
from umemma.errors import UserError
from umemma.types import TextInput


def test_a_model_of_the_hub_loads_from_a_folder(bert):
    import transformers

    name = f"hf:{bert}"
    spec = encoders.input_spec(name, "text")
    assert spec == TextInput(length=16, tokenizer=name, padding=0)
    module, _ = encoders.build(name, "text", spec)
    path = encoders.find_weights(name, "text", None)
    assert path == bert / "model.safetensors"
    encoders.load_weights(module, name, "text", spec, path)
    tokens = torch.tensor([[2, 5, 6, 3]])
    theirs = (
        transformers.BertForMaskedLM.from_pretrained(bert).bert(tokens).last_hidden_state.mean(1)
    )
    torch.testing.assert_close(module.eval()(tokens), theirs)
    module(tokens).sum().backward()
    assert all(p.grad is not None for p in module.parameters())

    again, _ = encoders.build(name, "text", spec)
    encoders.load_weights(again, name, "text", spec, save_state(module.state_dict(), "own.pt"))
    torch.testing.assert_close(again.eval()(tokens), theirs)


def test_padding_makes_no_difference_to_a_model_of_the_hub(bert):
    module, _ = encoders.build(f"hf:{bert}", "text", TextInput(length=8))
    module.eval()
    tokens = torch.tensor([[2, 5, 6, 3]])
    torch.testing.assert_close(module(tokens), module(torch.nn.functional.pad(tokens, (0, 4))))
    assert module(torch.zeros(2, 8, dtype=torch.int64)).isfinite().all()


def test_weights_that_a_model_of_the_hub_lacks_are_listed(bert):
    state = weights.read_state(bert / "model.safetensors")
    del state["bert.encoder.layer.0.attention.self.query.weight"]
    module, _ = encoders.build(f"hf:{bert}", "text", TextInput(length=8))
    with pytest.raises(
        UserError, match=r"missing: model\.encoder\.layer\.0\.attention\.self\.query\.weight"
    ):
        encoders.load_weights(module, f"hf:{bert}", "text", TextInput(length=8), save_state(state))
    state = weights.read_state(bert / "model.safetensors")
    state["bert.embeddings.word_embeddings.weight"] = torch.ones(3, 8)
    with pytest.raises(
        UserError, match=r"other shape: model\.embeddings\.word_embeddings\.weight \(3, 8\) instead"
    ):
        encoders.load_weights(module, f"hf:{bert}", "text", TextInput(length=8), save_state(state))


def test_a_model_of_the_hub_that_can_t_be_had(bert):
    with pytest.raises(UserError, match="no tokenizer: "):
        encoders.input_spec("hf:nobody/nothing", "text")
    with pytest.raises(UserError, match="takes 16 tokens, not 77"):
        encoders.build(f"hf:{bert}", "text", TextInput(length=77))


def test_transformers_is_asked_for_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'umemma\[transformers\]'"):
        hf.import_transformers()

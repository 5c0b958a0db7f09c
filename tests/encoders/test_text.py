"""Text encoders: padding makes no difference, and only CLIP's tokens are accepted."""

from __future__ import annotations

import pytest
import torch

from umemma import encoders
from umemma.errors import UserError
from umemma.types import TextInput


@pytest.mark.parametrize("name", ["text:cnn", "text:transformer"])
def test_padding_makes_no_difference_to_a_text(name):
    module, _ = encoders.build(name, "text", TextInput())
    module.eval()
    tokens = torch.tensor([[49406, 320, 1125, 49407]])
    padded = torch.nn.functional.pad(tokens, (0, 6))
    torch.testing.assert_close(module(tokens), module(padded))
    before = module(padded)
    if name == "text:transformer":
        torch.nn.init.normal_(module.embedding.weight[0])
    torch.testing.assert_close(before, module(padded))
    other = torch.tensor([[49406, 320, 2368, 49407]])
    assert not torch.allclose(module(tokens), module(other))


def test_a_text_of_padding_alone_changes_nothing_about_its_neighbours():
    module, width = encoders.build("text:transformer", "text", TextInput(length=4))
    module.eval()
    tokens = torch.tensor([[5, 6, 0, 0], [0, 0, 0, 0]])
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            assert torch.equal(module(tokens)[1], torch.zeros(width))
            torch.testing.assert_close(module(tokens)[0], module(tokens[:1])[0])
    module(tokens).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_own_tokens_are_refused_where_the_vocabulary_is_fixed():
    with pytest.raises(UserError, match="reads CLIP's tokens"):
        encoders.build("text:cnn", "text", TextInput(tokenizer="hf:bert"))

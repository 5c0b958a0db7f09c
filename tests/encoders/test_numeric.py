"""Encoders of vectors, tables and series: padding, names, and inputs whose size isn't known."""

from __future__ import annotations

import pytest
import torch

from umemma import encoders
from umemma.encoders.numeric.mlp import TableFeatures
from umemma.encoders.numeric.series import StepNorm
from umemma.errors import UserError
from umemma.types import SeriesInput, TableInput, VectorInput

SERIES = ["series:cnn", "series:tcn", "series:transformer"]
SPEC = SeriesInput(channels=2, steps=40, mean=(0.0, 0.0), std=(1.0, 1.0))


@pytest.mark.parametrize("length", [1, 7, 8, 21])
@pytest.mark.parametrize("name", SERIES)
def test_padding_makes_no_difference_to_a_series(name, length):
    torch.manual_seed(0)
    module, _ = encoders.build(name, "series", SPEC)
    module.eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 2, length)
    padded = torch.nn.functional.pad(x, (0, 40 - length))
    torch.testing.assert_close(module(x), module(padded), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(module(x)[0], module(x)[1])


@pytest.mark.parametrize("name", SERIES)
def test_padding_alone_changes_nothing_about_its_neighbours(name):
    torch.manual_seed(0)
    module, width = encoders.build(name, "series", SPEC)
    module.eval()
    x = torch.randn(2, 2, 40)
    x[1] = 0
    torch.testing.assert_close(module(x)[0], module(x[:1])[0])
    assert torch.equal(module(x)[1], torch.zeros(width))
    module(x).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_the_statistics_of_a_norm_are_those_of_the_steps():
    x = torch.randn(1, 64, 5)
    steps = torch.tensor([[[1.0, 1, 1, 0, 0]]])
    expected = torch.nn.functional.group_norm(x[:, :, :3], 8)
    norm = StepNorm()
    torch.testing.assert_close(norm(x, steps)[:, :, :3], expected)
    assert norm(x, steps)[:, :, 3:].abs().max() == 0


def test_names_have_embeddings_and_an_empty_or_unseen_one_starts_at_zero():
    spec = TableInput(
        numbers=[{"name": "area"}], categories=[{"name": "zip", "values": ["02134", "85255"]}]
    )
    features = TableFeatures(spec)
    x = torch.tensor([[1.5, 0.0, code] for code in range(4)])
    out = features(x)
    assert out.shape == (4, features.width)
    assert torch.equal(out[:, :2], x[:, :2])
    assert out[:2, 2:].abs().max() == 0
    assert not torch.equal(out[2], out[3])


@pytest.mark.parametrize(
    ("name", "kind", "spec"),
    [
        ("mlp:small", "vector", VectorInput()),
        ("mlp:linear", "table", TableInput()),
        ("series:tcn", "series", SeriesInput()),
    ],
)
def test_without_samples_the_size_of_an_input_is_not_known(name, kind, spec):
    assert encoders.input_spec(name, kind) == spec
    with pytest.raises(UserError, match="the samples don't say how many"):
        encoders.build(name, kind, spec)

"""Encoders: feature widths, and that what isn't there makes no difference."""

from __future__ import annotations

import pytest
import torch

from umemma import encoders
from umemma.contracts import AudioInput, ImageInput, TextInput, VideoInput
from umemma.errors import UserError

INPUTS = [
    ("cnn:small", "audio", AudioInput(mels=8), (2, 1, 8, 12), 64),
    ("cnn:small", "image", ImageInput(size=8), (2, 3, 8, 8), 64),
    ("cnn:small", "spectrogram", ImageInput(size=8, channels=1), (2, 1, 8, 8), 64),
    ("cnn:small", "video", VideoInput(frames=3, size=8), (2, 3, 3, 8, 8), 64),
    ("text:cnn", "text", TextInput(length=9), (2, 9), 192),
]


@pytest.mark.parametrize(("name", "modality", "spec", "shape", "width"), INPUTS)
def test_features_have_the_width_that_is_promised(name, modality, spec, shape, width):
    assert type(encoders.input_spec(name, modality)) is type(spec)
    module, dim = encoders.build(name, modality, spec)
    x = torch.zeros(shape, dtype=torch.int64) if modality == "text" else torch.rand(shape)
    assert module(x).shape == (2, dim) == (2, width)
    assert module(x).isfinite().all()


def test_a_video_is_the_average_of_its_frames():
    module, _ = encoders.build("cnn:small", "video", VideoInput(frames=3, size=8))
    x = torch.rand(2, 3, 3, 8, 8)
    torch.testing.assert_close(module(x), torch.stack([module(x[:, [t]]) for t in range(3)]).mean(0))


def test_padding_makes_no_difference_to_a_text():
    module, _ = encoders.build("text:cnn", "text", TextInput())
    tokens = torch.tensor([[49406, 320, 1125, 49407]])
    torch.testing.assert_close(module(tokens), module(torch.nn.functional.pad(tokens, (0, 6))))
    other = torch.tensor([[49406, 320, 2368, 49407]])
    assert not torch.equal(module(tokens), module(other))


@pytest.mark.parametrize(("name", "modality"), [("text:cnn", "image"), ("cnn:small", "text")])
def test_an_encoder_of_another_modality(name, modality):
    with pytest.raises(UserError, match=f"has no encoder for {modality}"):
        encoders.input_spec(name, modality)

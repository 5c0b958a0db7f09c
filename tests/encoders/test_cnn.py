"""Convolutional networks: the layers of LeNet-5, and the smallest picture."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from umemma import encoders
from umemma.errors import UserError
from umemma.types import AudioInput, ImageInput


def test_lenet_has_the_layers_of_its_paper():
    module, _ = encoders.build("cnn:lenet", "image", ImageInput(channels=1))
    convolutions = (25 + 1) * 6 + (6 * 25 + 1) * 16  # without the gaps between the maps of C3
    assert (
        sum(p.numel() for p in module.parameters())
        == convolutions + (16 * 25 + 1) * 120 + (120 + 1) * 84
    )


@pytest.mark.parametrize(("name", "least"), [("cnn:lenet", 16), ("cnn:small", 8)])
def test_a_picture_that_is_too_small_is_said(name, least):
    with pytest.raises(UserError, match=f"{name} needs {least} by {least}"):
        encoders.build(name, "image", ImageInput(size=least - 1))
    assert encoders.build(name, "image", ImageInput(size=least))
    with pytest.raises(UserError, match=f"needs {least} by {least} at least, not 7 by"):
        encoders.build(name, "audio", AudioInput(mels=7))


@pytest.mark.parametrize("name", ["sample_rate", "seconds", "mels", "window", "hop"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_of_an_input_are_above_0(name, value):
    with pytest.raises(ValidationError, match=f"{name}\n  Input should be greater than 0"):
        AudioInput.model_validate({name: value})

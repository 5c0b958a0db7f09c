"""Convolutional networks: the layers of LeNet-5, and the smallest picture."""

from __future__ import annotations

import pytest

from umemma import encoders
from umemma.errors import UserError
from umemma.types import ImageInput


def test_lenet_has_the_layers_of_its_paper():
    module, _ = encoders.build("cnn:lenet", "image", ImageInput(channels=1))
    convolutions = (25 + 1) * 6 + (6 * 25 + 1) * 16  # without the gaps between the maps of C3
    assert (
        sum(p.numel() for p in module.parameters())
        == convolutions + (16 * 25 + 1) * 120 + (120 + 1) * 84
    )


def test_lenet_says_when_a_picture_is_too_small():
    with pytest.raises(UserError, match="needs 16 by 16"):
        encoders.build("cnn:lenet", "image", ImageInput(size=15))

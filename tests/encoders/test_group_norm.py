"""cnn:small normalises within a sample, so that absent neighbours in a batch cannot matter."""

from __future__ import annotations

import torch

from umemma import encoders
from umemma.types import ImageInput


def test_features_in_training_do_not_depend_on_the_neighbours_in_the_batch():
    torch.manual_seed(0)
    encoder, _ = encoders.build("cnn:small", "image", ImageInput(size=16, channels=1))
    encoder.train()
    images = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        alone = encoder(images[:1])
        in_a_batch = encoder(images)[:1]
    assert torch.allclose(alone, in_a_batch, atol=1e-6)

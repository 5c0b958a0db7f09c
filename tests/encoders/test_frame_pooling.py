"""A video by an image encoder: the pooling of its frames, and which weights it loads."""

from __future__ import annotations

import pytest
import torch
from toys.encoders import compute_same, save_state

from umemma import encoders
from umemma.encoders.frame_pooling import OverFrames
from umemma.types import ImageInput, VideoInput


def test_a_video_is_the_average_of_its_frames():
    module, _ = encoders.build("cnn:small", "video", VideoInput(frames=3, size=8))
    assert all(name.startswith("encoder.") for name in module.state_dict())
    x = torch.rand(2, 3, 3, 8, 8)
    torch.testing.assert_close(
        module(x), torch.stack([module(x[:, [t]]) for t in range(3)]).mean(0)
    )


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_black_frames_at_the_end_of_a_clip_do_not_count(pool):
    spec = VideoInput(frames=4, size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    module, _ = encoders.build("cnn:small", "video", spec, pool)
    if pool == "attention":
        torch.nn.init.normal_(module.score.weight)
    black = (-torch.tensor(spec.mean) / torch.tensor(spec.std)).reshape(3, 1, 1).expand(3, 8, 8)
    x = torch.rand(2, 4, 3, 8, 8)
    x[0, 2:] = black
    torch.testing.assert_close(module(x)[0], module(x[:1, :2])[0])
    within = x.clone()
    within[1, 1] = black  # but the clip goes on after it
    assert not torch.allclose(module(within)[1], module(within[1:, [0, 2, 3]])[0])
    nothing = black.expand(1, 4, 3, 8, 8)
    torch.testing.assert_close(module(nothing), module.encoder(nothing[:, 0]))


def test_attention_over_frames_is_an_average_weighted_by_their_scores():
    module = OverFrames(torch.nn.Flatten(), 1, ImageInput(size=1, channels=1), "attention")
    x = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1, 1)
    assert module(x).tolist() == [[2.0]]  # it starts as the mean
    torch.nn.init.constant_(module.score.weight, 0.5 * torch.tensor(3.0).log().item())  # 3 to 1
    torch.testing.assert_close(module(x), torch.tensor([[2.5]]))


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_a_video_encoder_takes_its_own_weights_and_those_of_its_image_encoder(pool):
    spec = VideoInput(frames=2, size=8)
    image, _ = encoders.build("cnn:small", "image", spec.picture)
    first, _ = encoders.build("cnn:small", "video", spec, pool)
    encoders.load_weights(first, "cnn:small", "video", spec, save_state(image.state_dict()))
    assert compute_same(first.encoder, image, 2, 3, 8, 8)
    second, _ = encoders.build("cnn:small", "video", spec, pool)
    encoders.load_weights(
        second, "cnn:small", "video", spec, save_state(first.state_dict(), "other.safetensors")
    )
    assert compute_same(first, second, 2, 2, 3, 8, 8)

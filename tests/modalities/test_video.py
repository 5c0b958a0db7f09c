"""Video: the frames of a shard become the frames that the encoder sees."""

from __future__ import annotations

import pytest
import torch
from toys.augmentation import FRAMES, PICTURE_OPTIONS, VIDEO_SPEC, augment_batch
from toys.media import film

from umemma import modalities
from umemma.modalities import video
from umemma.types import Packing, VideoInput


def test_frames_are_chosen_or_black_ones_follow(tmp_path):
    members = modalities.pack({"video": film(tmp_path / "a.mp4")}, Packing(frames=4))
    packed = members["video.mjpeg"]
    two = video.decode(packed, VideoInput(frames=2, size=8))
    four = video.decode(packed, VideoInput(frames=4, size=8))
    six = video.decode(packed, VideoInput(frames=6, size=8))
    assert four.shape == (4, 3, 8, 8)
    assert four.dtype == torch.uint8
    assert four.flatten(1).any(1).all()
    assert torch.equal(two, four[[1, 3]])
    black = video.make_blank(VideoInput(frames=2, size=8))
    assert torch.equal(six, torch.cat([four, black]))


@pytest.mark.parametrize("options", PICTURE_OPTIONS)
def test_all_frames_of_a_clip_are_changed_alike_and_padding_stays_black(options):
    clip = FRAMES.clone()
    clip[:, 1] = clip[:, 0]
    augmented = augment_batch(video, clip, VIDEO_SPEC, **options)
    assert torch.equal(augmented[:, 0], augmented[:, 1]) == ("noise" not in options)
    assert not augmented[:, 2].any()

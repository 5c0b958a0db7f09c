"""Augmentation and normalisation of pictures; what each option does is known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys.augmentation import CROP_FLIP_SHIFT, FRAMES, MANY_NUMBERS, NUMBERS, augment_batch

from umemma.errors import UserError
from umemma.modalities import image, video, vision
from umemma.types import ImageInput, VideoInput

SQUARE = torch.tensor(
    [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10, 11, 12],
        [13, 14, 15, 16],
    ],
    dtype=torch.uint8,
)


def augment_square(square: torch.Tensor = SQUARE, **drawn) -> list[list[int]]:
    """Apply the draws of one sample to a 4 x 4 picture."""
    batch = square.view(1, 1, 1, 4, 4)
    draws = {name: np.array([value]) for name, value in drawn.items()}
    augmented = vision.augment(batch, vision.Augment(), draws)
    return augmented[0, 0, 0].tolist()


def get_index(operation: str) -> int:
    return list(vision.OPERATIONS).index(operation)


# Crop, flip and shift. ----------------------------------------------------------------------------


def test_a_flip_mirrors_left_and_right():
    assert augment_square(flip=True) == SQUARE.flip(1).tolist()
    assert augment_square(flip=False) == SQUARE.tolist()


def test_a_shift_moves_whole_pixels_and_black_comes_in():
    assert augment_square(shift=(0.25, -0.5)) == [
        [0, 0, 0, 0],
        [3, 4, 0, 0],
        [7, 8, 0, 0],
        [11, 12, 0, 0],
    ]
    assert augment_square(shift=(0.12, 0.0)) == SQUARE.tolist()  # 0.48 of a pixel


def test_a_crop_is_enlarged():
    assert augment_square(crop=(0.0, 0.0, 1.0, 1.0)) == SQUARE.tolist()
    ramp = torch.arange(0, 160, 10, dtype=torch.uint8).expand(1, 1, 1, 16, 16)
    drawn = {"crop": np.array([[0.25, 0.25, 0.5, 0.5]])}
    enlarged = vision.augment(ramp, vision.Augment(), drawn)[0, 0, 0]
    # Column i shows the place 4 + (i + 0.5) / 2 - 0.5 of the ramp; 0.5 is rounded to an even
    # number.
    row = [38, 42, 48, 52, 58, 62, 68, 72, 78, 82, 88, 92, 98, 102, 108, 112]
    assert enlarged[0].tolist() == row
    assert (enlarged == enlarged[0]).all()


def test_a_crop_at_the_edge_brings_no_black_in():
    flat = torch.full((6, 1, 1, 12, 12), 200, dtype=torch.uint8)
    corners = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
    drawn = {"crop": np.array(corners * 3)}
    assert torch.equal(vision.augment(flat, vision.Augment(), drawn), flat)


def test_crop_then_flip_then_shift():
    drawn = vision.draw(vision.Augment(**CROP_FLIP_SHIFT), NUMBERS)
    at_once = vision.augment(FRAMES, vision.Augment(), drawn)
    in_steps = FRAMES
    for name in ("crop", "flip", "shift"):
        in_steps = vision.augment(in_steps, vision.Augment(), {name: drawn[name]})
    assert torch.equal(at_once, in_steps)


def test_crops_keep_to_their_share_and_shape():
    drawn = vision.draw(vision.Augment(crop=0.3, flip=0.2, shift=0.1), MANY_NUMBERS)
    top, left, height, width = drawn["crop"].T
    area = height * width
    ratio = width / height
    assert 0.3 < area.min() < 0.301
    assert 0.999 < area.max() <= 1
    assert ratio.min() >= 0.75 - 1e-9
    assert ratio.max() <= 4 / 3 + 1e-9
    assert min(top.min(), left.min()) >= -1e-9
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-9
    assert drawn["flip"].mean() == pytest.approx(0.2, abs=0.02)
    assert -0.1 <= drawn["shift"].min() < -0.099
    assert 0.099 < drawn["shift"].max() <= 0.1


# RandAugment and noise. ---------------------------------------------------------------------------


@pytest.mark.parametrize("operation", vision.OPERATIONS)
def test_an_operation_changes_pictures_and_leaves_black_black(operation):
    drawn = {
        "operations": np.array([[get_index(operation)]] * 6),
        "by": np.array([[0.6]] * 6),
    }
    # There have to be more pixels than levels to equalise them.
    dim = (FRAMES // 2).repeat(1, 1, 1, 2, 2)
    augmented = vision.augment(dim, vision.Augment(), drawn)
    assert augmented.dtype == torch.uint8
    assert not augmented[:, 2].any()
    assert torch.equal(augmented, dim) == (operation == "identity")


def test_operations_have_the_strength_that_is_asked_for():
    def apply(operation, by, square=SQUARE):
        return augment_square(square, operations=[get_index(operation)], by=[by])

    bright = SQUARE * 10
    brighter = (bright * 1.9).int().clamp(max=255)
    assert apply("brightness", 1.0, bright) == brighter.tolist()
    assert apply("brightness", -1.0, bright) == SQUARE.tolist()
    # By one pixel: 150 / 331 * 0.5 * 4 = 0.9.
    assert apply("translate_x", 0.5) == [[0, *row[:3]] for row in SQUARE.tolist()]
    assert apply("posterize", 1.0, bright) == (bright // 16 * 16).tolist()  # 4 bits
    assert apply("posterize", 0.0) == SQUARE.tolist()


def test_noise_has_the_spread_that_is_asked_for():
    grey = torch.full((6, 3, 64, 64), 128, dtype=torch.uint8)
    noise = augment_batch(image, grey, ImageInput(size=64), noise=0.1) - 128
    torch.testing.assert_close(noise.std(), torch.tensor(25.5), rtol=0.02, atol=0)
    assert noise.mean().abs() < 0.5


# Normalisation. -----------------------------------------------------------------------------------


def test_pixels_are_normalised_as_the_encoder_asks():
    x = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    spec = ImageInput(size=1, mean=(0.0, 0.5, 0.25), std=(1.0, 0.5, 0.5))
    normalised = image.finish(x, spec)
    torch.testing.assert_close(normalised.flatten(), torch.tensor([0.0, 1.0, -0.1]))

    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = (levels / 255 - 0.45) / 0.225
    grey_spec = ImageInput(size=16, channels=1, mean=0.45, std=0.225)
    assert torch.equal(image.finish(levels, grey_spec), expected)

    frames = levels.expand(2, 3, 16, 16)[None]
    clip_spec = VideoInput(frames=2, size=16, mean=(0.45,) * 3, std=(0.225,) * 3)
    assert torch.equal(video.finish(frames, clip_spec), expected.expand(1, 2, 3, 16, 16))

    with pytest.raises(UserError, match="3 numbers for 1 channels"):
        image.finish(levels, ImageInput(size=16, channels=1, mean=(0.5,) * 3))

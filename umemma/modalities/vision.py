"""Augmentation and normalisation of pictures: images, ready-made spectrograms and video frames.

Random resized crop, flip, shift, RandAugment and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from umemma.errors import UserError
from umemma.modalities.sampling import SampleDraws, Share, sample_normal, sample_uniform
from umemma.system.seeds import mix
from umemma.types import ImageInput, PerChannel, Plain, VideoInput

if TYPE_CHECKING:
    import torch

RATIO = 4 / 3  # the maximum aspect ratio of a crop; the minimum is its inverse
LIGHT = 0.9  # the maximum change of brightness, colour, contrast and sharpness


class Augment(Plain):
    """The augmentation of pictures in training, in this order. The defaults change nothing.

    crop: a random resized crop of at least this share of the area. flip: the probability that a
    picture is mirrored, left to right. shift: by whole pixels, at most this share of the side;
    black comes in. randaugment: the number of operations, which have this magnitude. noise: its
    standard deviation as a share of the range of a pixel; a black picture gets none.

    References: Szegedy et al., Going deeper with convolutions, arXiv 1409.4842 (crop); Cubuk et
    al., RandAugment, arXiv 1909.13719, with the ranges of torchvision's RandAugment.
    """

    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    flip: Share = 0.0
    shift: Share = 0.0
    randaugment: Annotated[int, Field(ge=0)] = 0
    magnitude: Share = 0.3
    noise: Share = 0.0


def draw(options: Augment, numbers: np.ndarray) -> SampleDraws:
    """Draw the augmentation of B samples from `numbers`, (B,) uint64.

    crop: (B, 4) top, left, height and width as shares of the side. flip: (B,) bool. shift: (B, 2)
    down and to the right, as shares of the side. operations: (B, n) indices into OPERATIONS. by:
    (B, n) their magnitudes with a sign. noise: (B,) seeds.
    """
    drawn: SampleDraws = {}
    if options.crop < 1:
        drawn["crop"] = _draw_crop(options.crop, numbers)
    if options.flip:
        drawn["flip"] = sample_uniform(numbers, "flip") < options.flip
    if options.shift:
        direction = 2 * sample_uniform(numbers, "shift", 2) - 1
        drawn["shift"] = options.shift * direction
    if options.randaugment:
        count = options.randaugment
        index = sample_uniform(numbers, "randaugment", count) * len(OPERATIONS)
        drawn["operations"] = index.astype(np.int64)
        is_negative = sample_uniform(numbers, "randaugment.sign", count) < 0.5
        drawn["by"] = options.magnitude * np.where(is_negative, -1, 1)
    if options.noise:
        drawn["noise"] = mix(numbers, 0, "noise")
    return drawn


def _draw_crop(min_area: float, numbers: np.ndarray) -> np.ndarray:
    """Return (B, 4): top, left, height and width as shares of the side."""
    area = 1 - (1 - min_area) * sample_uniform(numbers, "crop.area")
    log_max_ratio = np.log(np.minimum(RATIO, 1 / area))  # both sides have to fit
    ratio = np.exp(log_max_ratio * (2 * sample_uniform(numbers, "crop.ratio") - 1))
    sides = np.sqrt(np.stack([area / ratio, area * ratio], 1))
    corner = (1 - sides) * sample_uniform(numbers, "crop.place", 2)
    return np.concatenate([corner, sides], 1)


def augment(x: torch.Tensor, options: Augment, drawn: SampleDraws) -> torch.Tensor:
    """Augment x: (B, frames, channels, size, size) uint8, all frames of a sample alike.

    The result has the same shape; it is uint8 or, with noise, float32 in 0..255.
    """
    import torch

    if drawn.keys() & {"crop", "flip", "shift"}:
        x = _crop_flip_shift(x, drawn)
    if "operations" in drawn:
        operations = drawn["operations"].tolist()
        magnitudes = drawn["by"].tolist()
        samples = []
        for sample, indices, signed in zip(x, operations, magnitudes, strict=True):
            samples.append(_apply_operations(sample, indices, signed))
        x = torch.stack(samples)
    if "noise" in drawn:
        not_black = (x != 0).flatten(2).any(2)[..., None, None, None]
        std = 255 * options.noise
        x = (x + not_black * std * sample_normal(drawn["noise"], x)).clamp(0, 255)
    return x


def finish(x: torch.Tensor, spec: ImageInput | VideoInput) -> torch.Tensor:
    """Turn (B, ..., channels, size, size) in 0..255 into float32, (x / 255 - mean) / std."""
    mean = _per_channel(spec.mean, spec, x)
    std = _per_channel(spec.std, spec, x)
    return (x / 255).sub_(mean).div_(std)


def _per_channel(
    value: PerChannel, spec: ImageInput | VideoInput, x: torch.Tensor
) -> float | torch.Tensor:
    """Return one number, or (channels, 1, 1). Raises UserError for a wrong number of channels."""
    import torch

    if not isinstance(value, tuple):
        return value
    if len(value) != spec.channels:
        raise UserError(
            f"{len(value)} numbers for {spec.channels} channels",
            "mean and std of an input",
            "Give one number, or one for each channel.",
            usage=True,
        )
    return torch.tensor(value).view(-1, 1, 1).to(x.device, non_blocking=True)


def _crop_flip_shift(x: torch.Tensor, drawn: SampleDraws) -> torch.Tensor:
    """Crop, flip and shift in one step.

    Each row and column of the result has a position in x, which is read by bilinear sampling; at a
    position that is a whole number, that is exactly the pixel.
    """
    import torch

    side = x.shape[-1]
    pixels = np.arange(float(side))
    position = np.broadcast_to(pixels, (len(x), 2, side))  # (B, rows and columns, side)
    if "shift" in drawn:
        position = position - np.rint(drawn["shift"] * side)[..., None]
    is_outside = (position < 0) | (position > side - 1)
    if "flip" in drawn:
        is_flipped = drawn["flip"][:, None] & [False, True]
        position = np.where(is_flipped[..., None], side - 1 - position, position)
    if "crop" in drawn:
        start = drawn["crop"][:, :2, None]
        share = drawn["crop"][:, 2:, None]
        position = (start * side + (position + 0.5) * share - 0.5).clip(0, side - 1)
    # grid_sample counts from -1 to 1; beyond that it reads black.
    position = np.where(is_outside, -3.0, (2 * position + 1) / side - 1)
    positions = torch.from_numpy(position.astype(np.float32))
    rows, columns = positions.to(x.device, non_blocking=True).unbind(1)
    column_grid = columns[:, None].expand(-1, side, -1)
    row_grid = rows[..., None].expand(-1, -1, side)
    grid = torch.stack([column_grid, row_grid], -1)
    pictures = torch.nn.functional.grid_sample(
        x.flatten(1, 2).float(),
        grid,
        align_corners=False,
    )
    return pictures.round_().to(torch.uint8).view_as(x)


# RandAugment. -------------------------------------------------------------------------------------


def _apply_operations(
    x: torch.Tensor, operations: list[int], magnitudes: list[float]
) -> torch.Tensor:
    """Apply RandAugment's operations to one sample, (frames, channels, size, size) uint8."""
    from torchvision.transforms.v2 import functional

    table = list(OPERATIONS.values())
    for index, magnitude in zip(operations, magnitudes, strict=True):
        x = table[index](functional, x, magnitude)
    return x


def _shear_x(f: Any, x: torch.Tensor, by: float) -> torch.Tensor:
    angle = math.degrees(math.atan(0.3 * by))
    return f.affine(x, 0.0, [0, 0], 1.0, [angle, 0.0])


def _shear_y(f: Any, x: torch.Tensor, by: float) -> torch.Tensor:
    angle = math.degrees(math.atan(0.3 * by))
    return f.affine(x, 0.0, [0, 0], 1.0, [0.0, angle])


def _translate_x(f: Any, x: torch.Tensor, by: float) -> torch.Tensor:
    pixels = round(150 / 331 * by * x.shape[-1])
    return f.affine(x, 0.0, [pixels, 0], 1.0, [0.0, 0.0])


def _translate_y(f: Any, x: torch.Tensor, by: float) -> torch.Tensor:
    pixels = round(150 / 331 * by * x.shape[-1])
    return f.affine(x, 0.0, [0, pixels], 1.0, [0.0, 0.0])


# RandAugment's operations without solarize, which turns black into white: here a black picture
# stays black. Each one gets torchvision.transforms.v2.functional, a picture of shape
# (..., channels, size, size), uint8, and the magnitude with its sign, -1..1.
OPERATIONS: dict[str, Callable[[Any, torch.Tensor, float], torch.Tensor]] = {
    "identity": lambda f, x, by: x,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": lambda f, x, by: f.rotate(x, 30 * by),
    "brightness": lambda f, x, by: f.adjust_brightness(x, 1 + LIGHT * by),
    "color": lambda f, x, by: f.adjust_saturation(x, 1 + LIGHT * by),
    "contrast": lambda f, x, by: f.adjust_contrast(x, 1 + LIGHT * by),
    "sharpness": lambda f, x, by: f.adjust_sharpness(x, 1 + LIGHT * by),
    "posterize": lambda f, x, by: f.posterize(x, 8 - round(4 * abs(by))),
    "autocontrast": lambda f, x, by: f.autocontrast(x),
    "equalize": lambda f, x, by: f.equalize(x),
}

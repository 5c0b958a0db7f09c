"""Pictures in a batch: what an image, a ready-made spectrogram and the frames of a video have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from umemma.errors import UserError
from umemma.modalities.sampling import Drawn, Share, normal, uniform
from umemma.system.seeds import mixed
from umemma.types import ImageInput, PerChannel, Plain, VideoInput

if TYPE_CHECKING:
    import torch

RATIO = 4 / 3  # of the sides of a cut-out: at most, and at least the inverse
LIGHT = 0.9  # the most that brightness, colour, contrast and sharpness are changed by
# RandAugment's, without solarising, which makes light of black: a black picture stays black in each of these. They get
# torchvision.transforms.v2.functional, (..., channels, size, size) uint8, and the magnitude with its sign, -1..1.
OPERATIONS: dict[str, Callable[[Any, torch.Tensor, float], torch.Tensor]] = {
    "identity": lambda f, x, by: x,
    "shear_x": lambda f, x, by: f.affine(
        x, 0.0, [0, 0], 1.0, [math.degrees(math.atan(0.3 * by)), 0.0]
    ),
    "shear_y": lambda f, x, by: f.affine(
        x, 0.0, [0, 0], 1.0, [0.0, math.degrees(math.atan(0.3 * by))]
    ),
    "translate_x": lambda f, x, by: f.affine(
        x, 0.0, [round(150 / 331 * by * x.shape[-1]), 0], 1.0, [0.0, 0.0]
    ),
    "translate_y": lambda f, x, by: f.affine(
        x, 0.0, [0, round(150 / 331 * by * x.shape[-1])], 1.0, [0.0, 0.0]
    ),
    "rotate": lambda f, x, by: f.rotate(x, 30 * by),
    "brightness": lambda f, x, by: f.adjust_brightness(x, 1 + LIGHT * by),
    "color": lambda f, x, by: f.adjust_saturation(x, 1 + LIGHT * by),
    "contrast": lambda f, x, by: f.adjust_contrast(x, 1 + LIGHT * by),
    "sharpness": lambda f, x, by: f.adjust_sharpness(x, 1 + LIGHT * by),
    "posterize": lambda f, x, by: f.posterize(x, 8 - round(4 * abs(by))),
    "autocontrast": lambda f, x, by: f.autocontrast(x),
    "equalize": lambda f, x, by: f.equalize(x),
}


class Augment(Plain):
    """How pictures are changed in training, in this order; by default not at all.

    crop: a random resized crop, of this share of the area at least. flip: how likely a picture is mirrored, left to right.
    shift: by whole pixels, at most this share of the side; what comes in is black. randaugment: so many operations, of
    this magnitude. noise: its standard deviation, as a share of the range of a pixel; a black picture gets none.
    References: Szegedy et al., Going deeper with convolutions, arXiv 1409.4842 (crop); Cubuk et al., RandAugment,
    arXiv 1909.13719, with the ranges of torchvision's RandAugment.
    """

    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    flip: Share = 0.0
    shift: Share = 0.0
    randaugment: Annotated[int, Field(ge=0)] = 0
    magnitude: Share = 0.3
    noise: Share = 0.0


def draw(options: Augment, numbers: np.ndarray) -> Drawn:
    """crop: (B, 4) top, left, height, width as shares of the side; flip: (B,) bool; shift: (B, 2) down and to the right,
    as shares; operations: (B, n) numbers of OPERATIONS, by: (B, n) their magnitudes with a sign; noise: (B,) seeds."""
    drawn: Drawn = {}
    if options.crop < 1:
        area = 1 - (1 - options.crop) * uniform(numbers, "crop.area")
        steepest = np.log(np.minimum(RATIO, 1 / area))  # so that both sides fit
        ratio = np.exp(steepest * (2 * uniform(numbers, "crop.ratio") - 1))
        sides = np.sqrt(np.stack([area / ratio, area * ratio], 1))
        drawn["crop"] = np.concatenate([(1 - sides) * uniform(numbers, "crop.place", 2), sides], 1)
    if options.flip:
        drawn["flip"] = uniform(numbers, "flip") < options.flip
    if options.shift:
        drawn["shift"] = options.shift * (2 * uniform(numbers, "shift", 2) - 1)
    if options.randaugment:
        chosen = uniform(numbers, "randaugment", options.randaugment) * len(OPERATIONS)
        drawn["operations"] = chosen.astype(np.int64)
        signs = np.where(uniform(numbers, "randaugment.sign", options.randaugment) < 0.5, -1, 1)
        drawn["by"] = options.magnitude * signs
    if options.noise:
        drawn["noise"] = mixed(numbers, 0, "noise")
    return drawn


def augment(x: torch.Tensor, options: Augment, drawn: Drawn) -> torch.Tensor:
    """x: (B, frames, channels, size, size) uint8, all frames of a sample changed alike. The same shape comes out, uint8
    or, with noise, float32 in 0..255."""
    import torch

    if drawn.keys() & {"crop", "flip", "shift"}:
        x = _resampled(x, drawn)
    if "operations" in drawn:
        chosen = zip(x, drawn["operations"].tolist(), drawn["by"].tolist(), strict=True)
        x = torch.stack([_operated(*one) for one in chosen])
    if "noise" in drawn:
        there = (x != 0).flatten(2).any(2)[..., None, None, None]
        x = (x + there * (255 * options.noise) * normal(drawn["noise"], x)).clamp(0, 255)
    return x


def finish(x: torch.Tensor, spec: ImageInput | VideoInput) -> torch.Tensor:
    """(B, ..., channels, size, size) in 0..255 -> float32, (x / 255 - mean) / std."""
    return (x / 255).sub_(_per_channel(spec.mean, spec, x)).div_(_per_channel(spec.std, spec, x))


def _per_channel(
    value: PerChannel, spec: ImageInput | VideoInput, x: torch.Tensor
) -> float | torch.Tensor:
    import torch

    if not isinstance(value, tuple):
        return value
    if len(value) != spec.channels:
        what, hint = (
            f"{len(value)} numbers for {spec.channels} channels",
            "Give one number, or one for each channel.",
        )
        raise UserError(what, "mean and std of an input", hint, usage=True)
    return torch.tensor(value, device=x.device).view(-1, 1, 1)


def _resampled(x: torch.Tensor, drawn: Drawn) -> torch.Tensor:
    """Crop, flip and shift in one step. Each row and column of the result has a place in x, which bilinear sampling reads;
    a place that is a whole number gives the very pixel."""
    import torch

    side = x.shape[-1]
    place = np.broadcast_to(
        np.arange(float(side)), (len(x), 2, side)
    )  # (B, rows and columns, side), in pixels
    if "shift" in drawn:
        place = place - np.rint(drawn["shift"] * side)[..., None]
    outside = (place < 0) | (place > side - 1)
    if "flip" in drawn:
        place = np.where(
            (drawn["flip"][:, None] & [False, True])[..., None], side - 1 - place, place
        )
    if "crop" in drawn:
        start, share = drawn["crop"][:, :2, None], drawn["crop"][:, 2:, None]
        place = (start * side + (place + 0.5) * share - 0.5).clip(0, side - 1)
    place = np.where(
        outside, -3.0, (2 * place + 1) / side - 1
    )  # from -1 to 1; beyond, there is black
    rows, columns = torch.from_numpy(place.astype(np.float32)).to(x.device).unbind(1)
    grid = torch.stack(
        [columns[:, None].expand(-1, side, -1), rows[..., None].expand(-1, -1, side)], -1
    )
    pictures = torch.nn.functional.grid_sample(x.flatten(1, 2).float(), grid, align_corners=False)
    return pictures.round_().to(torch.uint8).view_as(x)


def _operated(x: torch.Tensor, operations: list[int], by: list[float]) -> torch.Tensor:
    """x: (frames, channels, size, size) uint8."""
    from torchvision.transforms.v2 import functional

    table = list(OPERATIONS.values())
    for number, magnitude in zip(operations, by, strict=True):
        x = table[number](functional, x, magnitude)
    return x

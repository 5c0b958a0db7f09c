"""Corruption of pictures, as the encoder gets them: noise, blur, and a black rectangle.

Noise and blur have the levels of ImageNet-C (Hendrycks & Dietterich, ICLR 2019), whose pictures
have 224 pixels; the blur of another size is in proportion. The rectangle is that of Random Erasing
(Zhong et al., AAAI 2020, arXiv 1708.04896), black, as a covered lens is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from umemma.modalities import image
from umemma.modalities.corruption.grades import PERCENT, SHARES, Grades
from umemma.modalities.sampling import sample_normal, sample_uniform
from umemma.types import ImageInput

if TYPE_CHECKING:
    import torch

REFERENCE_SIDE = 224  # pixels
KINDS = {
    "noise": Grades((0.08, 0.12, 0.18, 0.26, 0.38), "{:g}", "standard deviation, of a range of 1"),
    "blur": Grades((1, 2, 3, 4, 6), "{:g}", "sigma in pixels of 224"),
    "occlusion": Grades(SHARES, PERCENT, "share of the area"),
}


def decode(
    data: bytes, spec: ImageInput, kind: str, level: float, number: np.ndarray
) -> torch.Tensor:
    """Return (channels, size, size) uint8, corrupted."""
    return corrupt(image.decode(data, spec)[None], kind, level, number)[0]


def corrupt(x: torch.Tensor, kind: str, level: float, number: np.ndarray) -> torch.Tensor:
    """Corrupt (frames, channels, size, size) uint8; only noise differs from frame to frame."""
    if kind == "noise":
        return _add_noise(x, level, number)
    if kind == "blur":
        return _blur(x, level * x.shape[-1] / REFERENCE_SIDE)
    return _cover(x, level, number)


def _add_noise(x: torch.Tensor, level: float, number: np.ndarray) -> torch.Tensor:
    import torch

    noise = sample_normal(number, x[None])[0]
    return ((x / 255 + level * noise).clamp(0, 1) * 255).round().to(torch.uint8)


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    reach = min(math.ceil(3 * sigma), x.shape[-1] - 1)  # pixels; the border is mirrored
    blurred: torch.Tensor = functional.gaussian_blur(x, [2 * reach + 1] * 2, [sigma] * 2)
    return blurred


def _cover(x: torch.Tensor, share: float, number: np.ndarray) -> torch.Tensor:
    """Blacken a rectangle, nearly a square, of this share of the area."""
    side = x.shape[-1]
    height = max(1, round(side * math.sqrt(share)))
    width = min(side, round(share * side * side / height))
    place = sample_uniform(number, "place", 2)[0]
    top = int(place[0] * (side - height + 1))
    left = int(place[1] * (side - width + 1))
    covered = x.clone()
    covered[..., top : top + height, left : left + width] = 0
    return covered

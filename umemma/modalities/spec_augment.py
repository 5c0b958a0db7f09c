"""SpecAugment: stretches of time and bands of frequency are taken out of a spectrogram.

Reference: Park et al., SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition, arXiv 1904.08779.
Without its time warping, which gains least there. A width is uniform from 0 to the widest, then the place from all that fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from umemma.modalities.sampling import Drawn, Share, uniform
from umemma.types import Plain

if TYPE_CHECKING:
    import torch


class Masks(Plain):
    """How many masks, and the widest one as a share of the axis."""

    time_masks: Annotated[int, Field(ge=0)] = 0
    time_width: Share = 0.2
    freq_masks: Annotated[int, Field(ge=0)] = 0
    freq_width: Share = 0.3


def draw(options: Masks, numbers: np.ndarray, freq: int, time: int) -> Drawn:
    """freq_masks, time_masks: (B, masks, 2) where each starts and ends, of `freq` bins and `time` steps."""
    drawn = {}
    axes = {
        "freq": (options.freq_masks, options.freq_width, freq),
        "time": (options.time_masks, options.time_width, time),
    }
    for axis, (count, widest, size) in axes.items():
        if count:
            width = np.floor(uniform(numbers, f"{axis}.width", count) * (round(widest * size) + 1))
            start = np.floor(uniform(numbers, f"{axis}.start", count) * (size - width + 1))
            drawn[f"{axis}_masks"] = np.stack([start, start + width], -1).astype(np.int64)
    return drawn


def masked(x: torch.Tensor, drawn: Drawn, fill: torch.Tensor) -> torch.Tensor:
    """x: (B, ..., F, T), or (B, T) with masks in time only; fill: what stands in a mask, of x's type."""
    import torch

    for name, dim in (("freq_masks", -2), ("time_masks", -1)):
        if name in drawn:
            start, end = torch.from_numpy(drawn[name]).to(x.device).unbind(-1)
            place = torch.arange(x.shape[dim], device=x.device)
            inside = ((place >= start[..., None]) & (place < end[..., None])).any(1)
            shape = [1] * x.ndim
            shape[0], shape[dim] = inside.shape
            x = torch.where(inside.view(shape), fill, x)
    return x

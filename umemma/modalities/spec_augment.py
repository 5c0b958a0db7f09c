"""SpecAugment: masks over stretches of time and bands of frequency of a spectrogram.

Reference: Park et al., SpecAugment: A Simple Data Augmentation Method for Automatic Speech
Recognition, arXiv 1904.08779. Time warping, which gains least there, is left out. The width of a
mask is uniform from 0 to the maximum; its place is then uniform among all that fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from umemma.modalities.sampling import SampleDraws, Share, sample_uniform
from umemma.types import Plain

if TYPE_CHECKING:
    import torch


class Masks(Plain):
    """The number of masks, and their maximum width as a share of the axis."""

    time_masks: Annotated[int, Field(ge=0)] = 0
    time_width: Share = 0.2
    freq_masks: Annotated[int, Field(ge=0)] = 0
    freq_width: Share = 0.3


def draw_masks(options: Masks, numbers: np.ndarray, freq: int, time: int) -> SampleDraws:
    """Draw the masks of B samples of `freq` bins and `time` steps.

    freq_masks, time_masks: (B, masks, 2), the start and the end of each mask.
    """
    drawn = {}
    axes = {
        "freq": (options.freq_masks, options.freq_width, freq),
        "time": (options.time_masks, options.time_width, time),
    }
    for axis, (count, max_share, size) in axes.items():
        if count == 0:
            continue
        max_width = round(max_share * size)
        width_draws = sample_uniform(numbers, f"{axis}.width", count)
        width = np.floor(width_draws * (max_width + 1))
        start_draws = sample_uniform(numbers, f"{axis}.start", count)
        start = np.floor(start_draws * (size - width + 1))
        bounds = np.stack([start, start + width], -1)
        drawn[f"{axis}_masks"] = bounds.astype(np.int64)
    return drawn


def apply_masks(x: torch.Tensor, drawn: SampleDraws, fill: torch.Tensor) -> torch.Tensor:
    """Fill the masks of x, (B, ..., F, T), or (B, T) with masks in time only.

    fill: the value inside a mask, of the same type as x.
    """
    import torch

    for name, dim in (("freq_masks", -2), ("time_masks", -1)):
        if name not in drawn:
            continue
        bounds = torch.from_numpy(drawn[name]).to(x.device, non_blocking=True)
        start, end = bounds.unbind(-1)
        index = torch.arange(x.shape[dim], device=x.device)
        in_mask = (index >= start[..., None]) & (index < end[..., None])
        in_any_mask = in_mask.any(1)
        shape = [1] * x.ndim
        shape[0] = in_any_mask.shape[0]
        shape[dim] = in_any_mask.shape[1]
        x = torch.where(in_any_mask.view(shape), fill, x)
    return x

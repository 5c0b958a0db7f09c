"""Corruption of clips: that of pictures, frames that turn black, and frames that freeze.

Black frames at the end of a clip are padding and stay so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from umemma.modalities import video
from umemma.modalities.corruption import pictures
from umemma.modalities.corruption.grades import PERCENT, SHARES, Grades, place_burst
from umemma.types import VideoInput

if TYPE_CHECKING:
    import torch

KINDS = {
    **pictures.KINDS,
    "burst": Grades(SHARES, PERCENT, "share of the frames, black"),
    "freeze": Grades(SHARES, PERCENT, "share of the frames, frozen"),
}


def decode(
    data: bytes, spec: VideoInput, kind: str, level: float, number: np.ndarray
) -> torch.Tensor:
    """Return (frames, channels, size, size) uint8, corrupted."""
    clip = video.decode(data, spec)
    shown = clip.flatten(1).any(1).nonzero()
    if not len(shown):
        return clip
    count = int(shown[-1]) + 1
    frames = clip[:count]
    if kind in pictures.KINDS:
        clip[:count] = pictures.corrupt(frames, kind, level, number)
        return clip
    burst = place_burst(number, count, level)
    if kind == "burst":
        frames[burst] = 0
    else:
        frames[burst] = frames[max(burst.start - 1, 0)].clone()
    return clip

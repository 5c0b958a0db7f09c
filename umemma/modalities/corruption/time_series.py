"""Corruption of series: noise, and a burst in which no channel was measured.

The holes of a burst are filled as those of the data are, with a line between their neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from umemma.modalities import series
from umemma.modalities.corruption.grades import DEVIATIONS, PERCENT, SHARES, Grades, place_burst
from umemma.modalities.files.arrays import read_first_npy, write_npy
from umemma.modalities.sampling import sample_normal
from umemma.types import SeriesInput

if TYPE_CHECKING:
    import torch

KINDS = {
    "noise": Grades(DEVIATIONS, "{:g}", "in standard deviations of training"),
    "burst": Grades(SHARES, PERCENT, "share of the time, not measured"),
}


def decode(
    data: bytes, spec: SeriesInput, kind: str, level: float, number: np.ndarray
) -> torch.Tensor:
    """Return (channels, steps) float32, corrupted; NaN where there is nothing stays NaN."""
    if kind == "burst":
        return series.decode(drop_burst(data, level, number), spec)
    x = series.decode(data, spec)
    std = x.new_tensor(spec.std)[:, None]
    return x + level * std * sample_normal(number, x[None])[0]


def drop_burst(data: bytes, share: float, number: np.ndarray) -> bytes:
    """Return a packed series with NaN in this share of its steps, in a row."""
    samples, rate = read_first_npy(data)
    samples = samples.copy()
    samples[place_burst(number, len(samples), share)] = np.nan
    return write_npy(samples) + rate

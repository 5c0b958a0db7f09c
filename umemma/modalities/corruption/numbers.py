"""Corruption of vectors: noise, and numbers that become unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from umemma.modalities import vector
from umemma.modalities.corruption.grades import DEVIATIONS, PERCENT, SHARES, Grades, choose_share
from umemma.modalities.sampling import sample_normal
from umemma.types import VectorInput

if TYPE_CHECKING:
    import torch

KINDS = {
    "noise": Grades(DEVIATIONS, "{:g}", "in standard deviations of training"),
    "drop": Grades(SHARES, PERCENT, "share of the numbers, unknown"),
}


def decode(
    data: bytes, spec: VectorInput, kind: str, level: float, number: np.ndarray
) -> torch.Tensor:
    """Return (width,) float32, corrupted."""
    import torch

    x = vector.decode(data, spec)
    if kind == "noise":
        return x + level * x.new_tensor(spec.std) * sample_normal(number, x[None])[0]
    known = (~x.isnan()).nonzero()[:, 0]
    is_dropped = torch.from_numpy(choose_share(number, len(known), level))
    return x.index_fill(0, known[is_dropped], torch.nan)

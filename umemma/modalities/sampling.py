"""Chance for augmentation. All of it comes from one number per sample, so a batch is augmented as its items one by one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from umemma.system.seeds import mixed, unit

if TYPE_CHECKING:
    import torch

Share = Annotated[float, Field(ge=0, le=1)]
Drawn = dict[str, np.ndarray]  # {what for: (B, ...)}, without what is off
GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the step of SplitMix64


def uniform(numbers: np.ndarray, name: str, *shape: int) -> np.ndarray:
    """(B, *shape) float64 in [0, 1) that belong to `name` and to each of `numbers`, (B,) uint64."""
    steps = np.arange(math.prod(shape), dtype=np.uint64) * GAMMA
    return unit(mixed(numbers[:, None] + steps, 0, name)).reshape(len(numbers), *shape)


def normal(seeds: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Standard normal noise for `like` (B, ...), on its device: drawn on the CPU, so the same for every device."""
    import torch

    streams = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    return torch.stack([torch.randn(like.shape[1:], generator=stream) for stream in streams]).to(
        like.device
    )

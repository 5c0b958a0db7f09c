"""Random draws for augmentation.

All draws of a sample come from one number, so a batch is augmented as its items are one by one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from umemma.system.seeds import mix, to_unit

if TYPE_CHECKING:
    import torch

Share = Annotated[float, Field(ge=0, le=1)]
SampleDraws = dict[str, np.ndarray]  # {augmentation: (B, ...)}, without those that are off
GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the step of SplitMix64


def sample_uniform(numbers: np.ndarray, name: str, *shape: int) -> np.ndarray:
    """Return (B, *shape) float64 in [0, 1), determined by `name` and `numbers`, (B,) uint64."""
    steps = np.arange(math.prod(shape), dtype=np.uint64) * GAMMA
    hashes = mix(numbers[:, None] + steps, 0, name)
    return to_unit(hashes).reshape(len(numbers), *shape)


def sample_normal(seeds: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Return standard normal noise of the shape of `like`, (B, ...), on its device.

    It is drawn on the CPU, so it is the same on every device.
    """
    import torch

    noise = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(int(seed))
        noise.append(torch.randn(like.shape[1:], generator=generator))
    return torch.stack(noise).to(like.device, non_blocking=True)

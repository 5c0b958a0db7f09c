"""Compact batches of every modality, with the settings to augment them.

Each batch has 6 samples, except where a test makes its own.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch

from umemma.system.seeds import hash_keys, mix
from umemma.types import (
    AudioInput,
    ImageInput,
    InputSpec,
    SeriesInput,
    TableInput,
    TextInput,
    VectorInput,
    VideoInput,
    WaveInput,
)


def make_numbers(count: int) -> np.ndarray:
    """Return (count,) uint64, the numbers that the augmentation of samples is drawn from."""
    keys = [f"sample{i}" for i in range(count)]
    return mix(hash_keys(keys), 0, "augment")


NUMBERS = make_numbers(6)
MANY_NUMBERS = make_numbers(4000)

IMAGE_SPEC = ImageInput(size=12)
GREY_SPEC = ImageInput(size=12, channels=1)
VIDEO_SPEC = VideoInput(frames=3, size=12)
AUDIO_SPEC = AudioInput(sample_rate=1000, seconds=0.2, mels=8, window=64, hop=10)
WAVE_SPEC = WaveInput(sample_rate=1000, seconds=0.2)
TEXT_SPEC = TextInput(length=10)
VECTOR_SPEC = VectorInput(width=5, mean=[1.0] * 5, std=[2.0] * 5)
SERIES_SPEC = SeriesInput(channels=2, steps=9, mean=(1.0, 0.0), std=(2.0, 1.0))
TABLE_SPEC = TableInput(
    numbers=[{"name": "a"}, {"name": "b"}], categories=[{"name": "c", "values": ["x", "y"]}]
)

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(1, 256, (6, 3, 12, 12), dtype=torch.uint8, generator=GENERATOR)
FRAMES = torch.randint(1, 256, (6, 3, 3, 12, 12), dtype=torch.uint8, generator=GENERATOR)
FRAMES[:, 2] = 0  # padding
SPECTROGRAMS = torch.randn(6, 1, 8, 21, generator=GENERATOR)
SAMPLES = torch.randn(6, 200, generator=GENERATOR) / 10
SAMPLES[1, 150:] = 0  # padding
SAMPLES[2] = 0  # nothing there
TEXTS = [
    [1, 11, 12, 13, 14, 15, 16, 2, 0, 0],
    [1, 21, 0, 22, 2, 0, 0, 0, 0, 0],
    [1, 2, 0, 0, 0, 0, 0, 0, 0, 0],
]
TOKENS = torch.tensor(TEXTS * 2)
VECTORS = torch.randn(6, 5, generator=GENERATOR)
SERIES = torch.randn(6, 2, 9, generator=GENERATOR)
SERIES[1, :, 6:] = torch.nan  # padding
SERIES[2] = torch.nan  # nothing there
CELLS = [[1.0, 2.0, 2.0], [torch.nan, 2.0, 3.0], [3.0, 4.0, 0.0]]
TABLE_ROWS = torch.tensor(CELLS * 2, dtype=torch.float64)

CROP_FLIP_SHIFT = {"crop": 0.4, "flip": 0.5, "shift": 0.3}
PICTURE_OPTIONS: list[dict[str, Any]] = [
    {"crop": 0.4},
    {"flip": 0.5},
    {"shift": 0.3},
    CROP_FLIP_SHIFT,
    {"randaugment": 2, "magnitude": 0.7},
    {"noise": 0.1},
]


def augment_batch(
    modality: ModuleType,
    x: torch.Tensor,
    spec: InputSpec,
    numbers: np.ndarray = NUMBERS,
    **options: Any,
) -> torch.Tensor:
    """Draw the augmentation of a batch from `numbers` and apply it."""
    chosen = modality.Augment(**options)
    drawn = modality.draw(chosen, numbers, spec)
    augmented: torch.Tensor = modality.augment(x, spec, chosen, drawn)
    return augmented

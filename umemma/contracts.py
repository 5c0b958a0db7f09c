"""The nouns that the rooms of the house hand to one another. Plain data, no torch at import.

Legend of shapes: B batch, N samples of a split, M modalities, D feature width, C classes, H W pixels, F mel bins,
T time steps or samples. Seconds are s, rates are Hz. A multi-modal thing is a dict keyed by modality in sorted order;
column i of a (B, M) array belongs to the i-th modality in sorted order. Booleans say what is there: True = present.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Plain(BaseModel):
    """Frozen data whose keys and types are checked, and which refuses keys it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# 1. Record: what a dataset says of one sample. ------------------------------------------------------------------------


@dataclass(frozen=True)
class Sound:
    """samples: (T,) float32 in -1..1, mono; rate: Hz."""

    samples: np.ndarray
    rate: int


# Encoded bytes, a file, a sound, or an image as an (H, W[, 3]) uint8 array.
Media: TypeAlias = "bytes | Path | Sound | np.ndarray"


@dataclass(frozen=True)
class Record:
    """One sample as a dataset lists it. A modality that `media` lacks is absent; nothing is decoded yet.

    key: unique in the dataset, no dots (WebDataset splits names there). group: samples of one group (an image paired
    with several recordings, say) are not independent, so intervals are drawn over groups.
    """

    key: str
    split: str
    label: int
    media: Mapping[str, Media]
    group: str = ""


# 2. DatasetSpec: what is known of a dataset before any file of it is read. --------------------------------------------


@dataclass(frozen=True)
class DatasetSpec:
    name: str
    summary: str
    modalities: tuple[str, ...]  # sorted
    classes: tuple[str, ...]
    licence: str
    citation: str
    splits: tuple[str, ...] = ("train", "val", "test")


# 3. InputSpec: what an encoder wants to see. Made by encoders, read by modalities, carried by the stages. -------------


class ImageInput(Plain):
    """(channels, size, size) float32, (pixel / 255 - mean) / std."""

    size: int = 32
    channels: int = 3
    mean: float = 0.5
    std: float = 0.25


class AudioInput(Plain):
    """(1, mels, T) float32 log-mel spectrogram of `seconds` s, T = seconds * sample_rate / hop + 1; times in samples."""

    sample_rate: int = 16000
    seconds: float = 3.0
    mels: int = 64
    window: int = 400
    hop: int = 160


InputSpec = ImageInput | AudioInput


# 4. Batch: what a model is fed. ---------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """inputs: {modality: (B, ...)}, an absent one filled with the blank input; present: (B, M) bool; target: (B,)."""

    inputs: dict[str, Tensor]
    present: Tensor
    target: Tensor


# 5. ResultRow: one number of an evaluation, with everything needed to know what it is. --------------------------------


class ResultRow(NamedTuple):
    """One metric on one setting.

    model: "ensemble" or "unimodal"; missing: the modalities taken away, "" for none; left: those that remain;
    ratio: the share of samples they are taken from; draw: the number of a seeded draw, -1 for the exact expectation
    over all draws; value with its 95 % interval low..high; n: samples scored; refused: samples left out because
    nothing would have remained of them.
    """

    model: str
    missing: str
    left: str
    ratio: float
    draw: int
    metric: str
    value: float
    low: float
    high: float
    n: int
    refused: int


def joined(modalities: Iterable[str]) -> str:
    """The written name of a set of modalities, sorted: "audio+image"."""
    return "+".join(sorted(modalities))

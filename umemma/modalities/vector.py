"""Vectors: numbers that were computed elsewhere, such as embeddings; float32 .npy in the shards.

NaN is a number that is unknown. Also what the training samples say about numbers, for series too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from umemma.errors import UserError
from umemma.modalities.files.arrays import read_npy, to_array, to_float32, write_npy
from umemma.modalities.limits import Packed, read_file
from umemma.modalities.sampling import SampleDraws, Share, sample_normal, sample_uniform
from umemma.system.seeds import mix
from umemma.types import Media, Packing, Plain, VectorInput

if TYPE_CHECKING:
    import torch

SUFFIXES = ("npy",)
DIGITS = 9  # of a statistic: as many as tell two float32 apart
CONSTANT = 1e-7  # a standard deviation below this share of the mean is rounding


# Packing and decoding. ----------------------------------------------------------------------------


def pack(media: Media, packing: Packing) -> Packed | None:
    """Encode (D,) numbers, an array, a list or a .npy or .npz file of them; None if all are NaN.

    Axes of length 1 do not count. Raises ValueError for numbers that are infinite in float32.
    """
    if isinstance(media, Path):
        media = read_file(media)
    array = read_npy(media) if isinstance(media, bytes) else to_array(media)
    if array.size == max(array.shape, default=1):
        array = array.reshape(-1)
    if array.ndim != 1:
        raise ValueError("not a vector: an array with several dimensions")
    numbers = to_float32(array)
    if np.isnan(numbers).all():
        return None
    return Packed("npy", write_npy(numbers))


def decode(data: bytes, spec: VectorInput) -> torch.Tensor:
    """Return (width,) float32, NaN where a number is unknown."""
    import torch

    numbers = read_npy(data)
    if numbers.shape != (spec.width,):
        raise ValueError(f"a vector of {numbers.size} numbers, not {spec.width}")
    return torch.from_numpy(numbers)


def make_blank(spec: VectorInput) -> torch.Tensor:
    """Return a vector of which nothing is known; the encoder sees the mean of the training."""
    import torch

    return torch.full((spec.width,), torch.nan)


def finish(x: torch.Tensor, spec: VectorInput) -> torch.Tensor:
    """Return (B, width) float32, standardised."""
    return standardise(x, x.new_tensor(spec.mean), x.new_tensor(spec.std), spec.clip)


def standardise(
    x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return (x - mean) / std within -clip..clip, 0 where x is NaN."""
    return ((x - mean) / std).clamp(-clip, clip).nan_to_num(0.0)


# Augmentation. ------------------------------------------------------------------------------------


class Augment(Plain):
    """The augmentation of a vector in training, in this order. The defaults change nothing.

    noise: normal noise on each number, in standard deviations of the training. dropout: the
    probability that a number becomes unknown.
    """

    noise: Annotated[float, Field(ge=0)] = 0.0
    dropout: Share = 0.0


def check(options: Augment, spec: VectorInput) -> None:
    """Accept every option."""


def draw(options: Augment, numbers: np.ndarray, spec: VectorInput) -> SampleDraws:
    """Draw noise, (B,) seeds, and dropout, (B, width) in [0, 1)."""
    drawn: SampleDraws = {}
    if options.noise:
        drawn["noise"] = mix(numbers, 0, "noise")
    if options.dropout:
        drawn["dropout"] = sample_uniform(numbers, "dropout", spec.width)
    return drawn


def augment(
    x: torch.Tensor,
    spec: VectorInput,
    options: Augment,
    drawn: SampleDraws,
) -> torch.Tensor:
    """Augment (B, width) float32."""
    import torch

    if "noise" in drawn:
        noise = sample_normal(drawn["noise"], x)
        x = x + options.noise * x.new_tensor(spec.std) * noise
    if "dropout" in drawn:
        is_dropped = torch.from_numpy(drawn["dropout"]).to(x.device) < options.dropout
        x = x.masked_fill(is_dropped, torch.nan)
    return x


# What the training samples say. -------------------------------------------------------------------


class Moments:
    """Mean and standard deviation of C numbers, sample by sample, in float64. NaN does not count.

    Reference: Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances, 1979.
    """

    def __init__(self, width: int) -> None:
        self.count = np.zeros(width)
        self.mean = np.zeros(width)
        self.squares = np.zeros(width)  # the sum of the squared distances from the mean

    def add(self, rows: np.ndarray) -> None:
        """Add (n, C) rows."""
        known = ~np.isnan(rows)
        count = known.sum(0)
        total = self.count + count
        of_known = np.maximum(count, 1)
        values = np.where(known, rows, 0).astype(np.float64)
        mean = values.sum(0) / of_known
        distances = np.where(known, values - mean, 0)
        difference = mean - self.mean
        share = count / np.maximum(total, 1)
        self.squares += (distances**2).sum(0) + difference**2 * self.count * share
        self.mean += difference * share
        self.count = total

    def describe(self) -> dict[str, list[float]]:
        """Return {"mean": C numbers, "std": C numbers}; a constant number has the std 1."""
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        std[std <= CONSTANT * np.abs(self.mean)] = 1.0
        return {"mean": _round(self.mean), "std": _round(std)}


def _round(numbers: np.ndarray) -> list[float]:
    return [float(f"{number:.{DIGITS}g}") for number in numbers]


class Survey:
    """What the training samples say about a vector, and whether all samples have one width.

    name: of the modality.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.first_key = ""
        self.moments = Moments(0)
        self.unknown = 0

    def add(self, key: str, split: str, data: bytes) -> None:
        """Add the tar member of a sample. UserError for one of another width than the first."""
        numbers = read_npy(data)
        if not self.first_key:
            self.first_key = key
            self.moments = Moments(len(numbers))
        width = len(self.moments.count)
        if len(numbers) != width:
            raise refuse_shape(
                self.name, key, f"{len(numbers)} numbers", self.first_key, f"{width}"
            )
        if split == "train":
            self.moments.add(numbers[None])
            self.unknown += int(np.isnan(numbers).any())

    def find(self) -> dict[str, Any]:
        """Return fields of the VectorInput."""
        return {"width": len(self.moments.count), **self.moments.describe()}

    def summarize(self) -> list[str]:
        """Return lines about what was found, for the log."""
        lines = [f"vectors of {len(self.moments.count)} numbers"]
        if self.unknown:
            lines.append(
                f"{self.unknown} training samples have unknown numbers, which count as the mean"
            )
        return lines


def refuse_shape(name: str, key: str, shape: str, other_key: str, other_shape: str) -> UserError:
    """Return the error about two samples whose shapes differ."""
    return UserError(
        f"sample {key!r} has {shape}, sample {other_key!r} has {other_shape}",
        name,
        "All samples of a modality need the same. Correct the one that is wrong, or leave its cell "
        "empty, and run: umemma preprocess",
    )


# Preparing a vector without umemma. ---------------------------------------------------------------


def make_recipe(spec: VectorInput, packing: Packing) -> dict[str, Any]:
    """Describe how a vector becomes the input without umemma."""
    steps = [
        "Take the numbers as float32. Where all of them are NaN, the vector is absent.",
        "(number - mean) / std for each of them.",
        f"Bring what is below -{spec.clip:g} or above {spec.clip:g} to these bounds.",
        "NaN, a number that is unknown, becomes 0.",
    ]
    return {"steps": steps}

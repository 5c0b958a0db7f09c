"""Series: measurements over time, (T, C) float32 .npy in the shards, then the sampling rate.

NaN is a hole, where nothing was measured. It is filled with the line between its neighbours when
the series is decoded. A series of NaN alone is absent.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from umemma.modalities import spec_augment
from umemma.modalities.files.arrays import (
    read_array,
    read_first_npy,
    read_npy,
    to_array,
    to_float32,
    write_npy,
)
from umemma.modalities.limits import MAX_BYTES, Packed, read_file
from umemma.modalities.sampling import SampleDraws, Share, sample_normal, sample_uniform
from umemma.modalities.vector import Moments, refuse_shape, standardise
from umemma.system.seeds import mix
from umemma.types import Media, Packing, Plain, Series, SeriesInput

if TYPE_CHECKING:
    import torch

SUFFIXES = ("npy",)
MAX_STEPS = 1024  # of the window that preprocess proposes
MAX_DENOMINATOR = 1000  # of the ratio of two rates


# Packing. -----------------------------------------------------------------------------------------


def pack(media: Media, packing: Packing) -> Packed | None:
    """Encode (T, C) numbers, or (T,) of one channel; None if all are NaN.

    They are an array, a list, or a .npy, .npz, .mat or .csv file. Steps at the end in which nothing
    was measured are left out. Raises ValueError for numbers that are infinite in float32.
    """
    rate = None
    if isinstance(media, Series):
        rate = media.rate
        media = media.samples
    if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
        raise ValueError("a sampling rate that is not a positive number")
    if isinstance(media, Path):
        media = read_file(media)
    array = read_array(media) if isinstance(media, bytes) else to_array(media)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError("not a series: an array that is neither (T, C) nor (T,)")
    if 4 * array.size > MAX_BYTES:
        raise ValueError("series over the size bound")
    samples = to_float32(array)
    measured = np.flatnonzero(~np.isnan(samples).all(1))
    if not len(measured):
        return None
    data = write_npy(samples[: measured[-1] + 1])
    if rate is not None:
        data += write_npy(np.array(rate, np.float64))
    return Packed("npy", data)


# Decoding. ----------------------------------------------------------------------------------------


def decode(data: bytes, spec: SeriesInput) -> torch.Tensor:
    """Return (channels, steps) float32: the window, NaN behind the end of the series.

    A channel of which nothing was measured is NaN too.
    """
    import torch

    samples, rate = _unpack(data)
    if samples.shape[1] != spec.channels:
        raise ValueError(f"a series of {samples.shape[1]} channels, not {spec.channels}")
    samples = fill_holes(samples)
    if rate is not None and spec.rate is not None:
        samples = resample(samples, rate, spec.rate)
    if spec.fit == "stretch":
        samples = _stretch(samples, spec.steps)
    surplus = len(samples) - spec.steps
    if surplus > 0:
        start = surplus // 2
        samples = samples[start : start + spec.steps]
    window = np.full((spec.channels, spec.steps), np.nan, np.float32)
    window[:, : len(samples)] = samples.T
    return torch.from_numpy(window)


def _unpack(data: bytes) -> tuple[np.ndarray, float | None]:
    """Return (T, C) and the sampling rate in Hz, None where it is unknown."""
    samples, rest = read_first_npy(data)
    if samples.ndim != 2:
        raise ValueError("not a series")
    if not rest:
        return samples, None
    return samples, float(read_npy(rest))


def fill_holes(samples: np.ndarray) -> np.ndarray:
    """Return (T, C) with the line between its neighbours in each hole, the nearest at the ends."""
    holes = np.isnan(samples)
    if not holes.any():
        return samples
    filled = samples.copy()
    steps = np.arange(len(samples))
    for channel in np.flatnonzero(holes.any(0) & ~holes.all(0)):
        hole = holes[:, channel]
        filled[hole, channel] = np.interp(steps[hole], steps[~hole], samples[~hole, channel])
    return filled


def resample(samples: np.ndarray, rate: float, target: float) -> np.ndarray:
    """Return (T', C) at `target` Hz, through a low-pass filter where that is less than `rate`."""
    ratio = Fraction(target / rate).limit_denominator(MAX_DENOMINATOR)
    if ratio == 1 or len(samples) == 1:
        return samples
    if ratio <= 0 or 4 * samples.size * ratio > MAX_BYTES:
        raise ValueError("sampling rates that are too far apart")
    from scipy.signal import resample_poly

    resampled = resample_poly(samples, ratio.numerator, ratio.denominator, padtype="line")
    return resampled.astype(np.float32)


def _stretch(samples: np.ndarray, steps: int) -> np.ndarray:
    """Return (steps, C): `steps` points, evenly spread over the lines between the samples."""
    places = np.linspace(0, len(samples) - 1, steps)
    at = np.arange(len(samples))
    channels = [np.interp(places, at, channel) for channel in samples.T]
    return np.column_stack(channels).astype(np.float32)


def make_blank(spec: SeriesInput) -> torch.Tensor:
    """Return a series without a step; the encoder sees padding."""
    import torch

    return torch.full((spec.channels, spec.steps), torch.nan)


def finish(x: torch.Tensor, spec: SeriesInput) -> torch.Tensor:
    """Return (B, channels, steps) float32, standardised, 0 where there is nothing."""
    mean = x.new_tensor(spec.mean)[:, None]
    std = x.new_tensor(spec.std)[:, None]
    return standardise(x, mean, std, spec.clip)


# Augmentation. ------------------------------------------------------------------------------------


class Augment(Plain):
    """The augmentation of a series in training, in this order. The defaults change nothing.

    shift: in time, to either side, by at most this share of the length; what leaves at one end
    comes in at the other. scale: each channel is multiplied by a factor of 1 - scale to 1 + scale.
    noise: normal noise on each sample, in standard deviations of the training. Then time_masks
    masks over at most the share time_width of the window, filled with the mean.

    Reference: Um et al., Data Augmentation of Wearable Sensor Data for Parkinson's Disease
    Monitoring using Convolutional Neural Networks, ICMI 2017, arXiv 1706.00527.
    """

    shift: Share = 0.0
    scale: Share = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    time_masks: Annotated[int, Field(ge=0)] = 0
    time_width: Share = 0.2


def check(options: Augment, spec: SeriesInput) -> None:
    """Accept every option."""


def draw(options: Augment, numbers: np.ndarray, spec: SeriesInput) -> SampleDraws:
    """Draw shift, (B,) shares of the length, scale, (B, C) factors, noise, (B,) seeds; masks."""
    drawn: SampleDraws = {}
    if options.shift:
        drawn["shift"] = options.shift * (2 * sample_uniform(numbers, "shift") - 1)
    if options.scale:
        direction = 2 * sample_uniform(numbers, "scale", spec.channels) - 1
        drawn["scale"] = 1 + options.scale * direction
    if options.noise:
        drawn["noise"] = mix(numbers, 0, "noise")
    masks = spec_augment.Masks(time_masks=options.time_masks, time_width=options.time_width)
    return drawn | spec_augment.draw_masks(masks, numbers, 0, spec.steps)


def augment(
    x: torch.Tensor,
    spec: SeriesInput,
    options: Augment,
    drawn: SampleDraws,
) -> torch.Tensor:
    """Augment (B, channels, steps) float32; what lies behind the end of a series stays NaN."""
    import torch

    if "shift" in drawn:
        index = torch.arange(spec.steps, device=x.device)
        is_step = ~x.isnan().all(1)
        length = (is_step * (index + 1)).amax(1, keepdim=True)
        share = torch.from_numpy(drawn["shift"]).to(x.device)[:, None]
        steps = (share * length).round().long()
        source = torch.where(index < length, (index - steps) % length.clamp(min=1), index)
        x = x.gather(2, source[:, None].expand_as(x))
    if "scale" in drawn:
        x = x * torch.from_numpy(drawn["scale"]).to(x)[..., None]
    if "noise" in drawn:
        noise = sample_normal(drawn["noise"], x)
        x = x + options.noise * x.new_tensor(spec.std)[:, None] * noise
    return spec_augment.apply_masks(x, drawn, x.new_tensor(spec.mean)[:, None])


# What the training samples say. -------------------------------------------------------------------


class Survey:
    """What the training samples say about a series: channels, rate, length, and statistics.

    name: of the modality.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.first_key = ""
        self.moments = Moments(0)
        self.lengths: Counter[tuple[int, float | None]] = Counter()  # of (steps, rate)
        self.holes = 0

    def add(self, key: str, split: str, data: bytes) -> None:
        """Add the tar member of a sample. UserError for other channels than the first one's."""
        samples, rate = _unpack(data)
        channels = samples.shape[1]
        if not self.first_key:
            self.first_key = key
            self.moments = Moments(channels)
        if channels != len(self.moments.count):
            known = f"{len(self.moments.count)}"
            raise refuse_shape(self.name, key, f"{channels} channels", self.first_key, known)
        if split == "train":
            self.moments.add(samples)
            self.lengths[len(samples), rate] += 1
            self.holes += int(np.isnan(samples).any())

    def find(self) -> dict[str, Any]:
        """Return fields of the SeriesInput.

        The rate is the commonest one, the lowest of several; steps is the longest series at that
        rate, at most MAX_STEPS.
        """
        rate = self._find_rate()
        found: dict[str, Any] = {"channels": len(self.moments.count), **self.moments.describe()}
        if rate is not None:
            found["rate"] = rate
        return {**found, "steps": min(MAX_STEPS, self._find_longest(rate))}

    def _find_rate(self) -> float | None:
        rates: Counter[float] = Counter()
        for (_, rate), count in self.lengths.items():
            if rate is not None:
                rates[rate] += count
        return min(rates, key=lambda rate: (-rates[rate], rate), default=None)

    def _find_longest(self, target: float | None) -> int:
        longest = 1
        for length, rate in self.lengths:
            if rate is not None and target is not None:
                length = math.ceil(length * target / rate)
            longest = max(longest, length)
        return longest

    def summarize(self) -> list[str]:
        """Return lines about what was found, for the log."""
        rate = self._find_rate()
        longest = self._find_longest(rate)
        text = f"series of {len(self.moments.count)} channels"
        if rate is not None:
            text += f" at {rate:g} Hz"
        lines = [f"{text}, the longest of {longest} steps"]
        if longest > MAX_STEPS:
            lines.append(f"the window is {MAX_STEPS} steps; encoders.{self.name}.input.steps")
        rates = {rate for _, rate in self.lengths if rate is not None}
        if len(rates) > 1:
            lines.append(f"the others of {len(rates)} sampling rates are resampled to that")
        if self.holes:
            lines.append(f"{self.holes} training samples have holes, filled with straight lines")
        return lines


# Preparing a series without umemma. ---------------------------------------------------------------


def make_recipe(spec: SeriesInput, packing: Packing) -> dict[str, Any]:
    """Describe how a series becomes the input without umemma."""
    steps = [
        "Take (T, C) samples as float32. Where all are NaN, the series is absent. Leave out the "
        "steps at the end in which all channels are NaN.",
        "Fill NaN in each channel by numpy.interp over its other samples; a channel of NaN alone "
        "stays so.",
    ]
    if spec.rate is not None:
        steps.append(
            f"Where the sampling rate is known and isn't {spec.rate:g} Hz: scipy.signal."
            "resample_poly(samples, up, down, padtype='line') with the fraction up / down = "
            f"fractions.Fraction({spec.rate:g} / rate).limit_denominator({MAX_DENOMINATOR})."
        )
    if spec.fit == "stretch":
        steps.append(
            f"Stretch it: numpy.interp at numpy.linspace(0, T - 1, {spec.steps}) per channel."
        )
    else:
        steps.append(
            f"Of more than {spec.steps} steps take the middle, from (T - {spec.steps}) // 2 on."
        )
    steps += [
        "(sample - mean) / std per channel, within the bounds -clip and clip; NaN becomes 0.",
        f"Zeros behind the end up to {spec.steps} steps; shape (C, steps).",
    ]
    return {"steps_of_window": spec.steps, "steps": steps}

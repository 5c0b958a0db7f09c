"""Media that a user gives -> batches of decoded samples, as training samples are made.

Media are packed like the shards and decoded as the encoders ask. A medium that cannot be read is
absent, with its reason. A sample of which nothing is left becomes a Failure in its place.
"""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from umemma import modalities
from umemma.errors import UserError, unknown_name
from umemma.system.signals import allow_interrupts
from umemma.types import OWN, BrokenPolicy, Clip, InputSpec, Media, Packing, Series, Sound

NUMERIC = ("series", "table", "vector")  # kinds that are numbers
NOTHING = "no modality is present"
MAX_SAMPLE_RATE = 655350  # Hz, the highest that FLAC can store
SOUND_TYPES = (np.float32, np.float64, np.int16)


@dataclass(frozen=True)
class Failure:
    """Why a sample gets no prediction.

    reason: fixed phrases after their modalities, "image: file is missing; text: not a text".
    """

    reason: str


class DecodedSample(NamedTuple):
    """inputs: {modality: (...)}, compact; present: M booleans; broken: why media can't be read."""

    inputs: dict[str, Tensor]
    present: list[bool]
    broken: tuple[str, ...]


class DecodedBatch(NamedTuple):
    """A batch of B samples, of which B' could be decoded.

    inputs: {modality: (B', ...)}, compact; present: (B', M) bool; broken: for each of the B', why
    its media cannot be read; failures: for each of the B, a Failure or None.
    """

    inputs: dict[str, Tensor]
    present: Tensor
    broken: list[tuple[str, ...]]
    failures: list[Failure | None]


@dataclass
class DecodedBatches(IterableDataset[Any]):
    """Batches of decoded samples. Worker i of W processes makes the batches i, i + W, i + 2 W."""

    samples: Iterable[Mapping[str, Any] | Failure]
    batch_size: int
    packing: Packing
    specs: Mapping[str, InputSpec]
    policy: BrokenPolicy = "absent"

    def __iter__(self) -> Iterator[DecodedBatch | UserError]:
        worker = get_worker_info()
        first, step = 0, 1
        if worker:
            first, step = worker.id, worker.num_workers
        try:
            for batch in itertools.islice(self._split_batches(), first, None, step):
                yield self._decode_batch(batch)
        except UserError as error:
            # It is handed over whole: DataLoader would turn a raised one into text.
            yield error

    def _split_batches(self) -> Iterator[list[Mapping[str, Any] | Failure]]:
        samples = iter(self.samples)
        batch = list(itertools.islice(samples, self.batch_size))
        while batch:
            yield batch
            batch = list(itertools.islice(samples, self.batch_size))

    def _decode_batch(self, samples: list[Mapping[str, Any] | Failure]) -> DecodedBatch:
        decoded: list[DecodedSample] = []
        failures: list[Failure | None] = []
        for sample in samples:
            if isinstance(sample, Failure):
                failures.append(sample)
                continue
            result = decode_sample(sample, self.packing, self.specs, self.policy)
            if isinstance(result, Failure):
                failures.append(result)
            else:
                decoded.append(result)
                failures.append(None)
        inputs: dict[str, Tensor] = {}
        if decoded:
            for m in self.specs:
                inputs[m] = torch.stack([sample.inputs[m] for sample in decoded])
        present = torch.tensor([sample.present for sample in decoded])
        return DecodedBatch(
            inputs,
            present.reshape(-1, len(self.specs)),
            [sample.broken for sample in decoded],
            failures,
        )


def decode_sample(
    sample: Mapping[str, Any],
    packing: Packing,
    specs: Mapping[str, InputSpec],
    policy: BrokenPolicy = "absent",
) -> DecodedSample | Failure:
    """Decode the media of one sample, {modality: media}; an absent one gets the blank input.

    A Failure where no modality is present or, by `policy`, where a medium cannot be read. UserError
    for an unknown modality.
    """
    for m in sample:
        if m not in specs:
            raise unknown_name("modality", m, specs, "the model")
    inputs: dict[str, Tensor] = {}
    broken: dict[str, str] = {}
    for m, spec in specs.items():
        if sample.get(m) is None:
            continue
        try:
            kind = modalities.find_kind(spec)
            media = to_media(kind, sample[m], packing)
            # An empty text or a silent sound packs to nothing: it is absent.
            for data in modalities.pack({m: media}, packing, {m: kind}).values():
                inputs[m] = modalities.get_module(kind).decode(data, spec)
        except ValueError as error:
            broken[m] = str(error)
    reasons = modalities.format_reasons(broken)
    if not inputs or (broken and policy == "fail"):
        return Failure("; ".join(reasons) or NOTHING)
    present = [m in inputs for m in sorted(specs)]
    for m, spec in specs.items():
        if m not in inputs:
            inputs[m] = modalities.find_module(spec).make_blank(spec)
    return DecodedSample(inputs, present, reasons)


# What a user gives as Media. ------------------------------------------------------------------


def to_media(kind: str, value: Any, packing: Packing) -> Media:
    """Convert what a user gives to what `modalities.pack` takes of a kind of modality.

    ValueError, a fixed phrase, for what is of the wrong type or shape. Other types are passed on;
    `modalities.pack` refuses the ones it does not know.
    """
    if isinstance(value, str) and kind in NUMERIC and value.lstrip()[:1] in ("[", "{"):
        value = _parse_numbers(value)
    if isinstance(value, str) and kind != "text":
        value = Path(value)
    if isinstance(value, Path):
        return _to_file(kind, value)
    if kind in NUMERIC:
        return _to_numbers(kind, value)
    if isinstance(value, bytes) and kind == "video":
        from umemma.modalities.files import av_decoder

        return av_decoder.read_clip(value, packing, pictures=True, sound=False).frames or []
    if isinstance(value, Image.Image) and not value.mode.startswith(("I", "F")):
        value = _to_pixels(value)
    if isinstance(value, np.ndarray) and not kind.startswith(OWN):
        return _check_pixels(value)
    if isinstance(value, tuple) and len(value) == 2:
        samples, rate = value
        value = Sound(np.asarray(samples), rate)
    if isinstance(value, Sound):
        return _check_sound(value)
    return value


def _to_file(kind: str, path: Path) -> Media:
    try:
        is_special = path.exists() and not path.is_file()
    except OSError:  # too long a name, or a folder without permission to enter it
        raise ValueError("file can't be read") from None
    if is_special:  # a folder, or a device that may never end
        raise ValueError("not a file")
    if kind in ("audio", "video"):
        return Clip(path)
    return path


def _parse_numbers(text: str) -> Any:
    """Return a list of numbers, or the cells of a row, written as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None


def _to_numbers(kind: str, value: Any) -> Media:
    """Return a vector, a series or the cells of a row; (samples, rate) becomes a Series."""
    rate = None
    is_pair = isinstance(value, tuple) and len(value) == 2
    if kind == "series" and is_pair and not isinstance(value[0], (int, float)):
        value, rate = value
    if hasattr(value, "__array__"):
        value = np.asarray(value)
    if rate is not None:
        return Series(value, rate)
    numbers: Media = value
    return numbers


def _to_pixels(image: Image.Image) -> np.ndarray:
    """Turn an image upright as its EXIF data says; (H, W) where it is grey, else (H, W, 3)."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in ("L", "RGB"):
        upright = upright.convert("RGB")
    return np.asarray(upright)


def _check_pixels(pixels: np.ndarray) -> np.ndarray:
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not is_image or not pixels.size:
        raise ValueError("not an image: an array has to be (H, W) or (H, W, 3) uint8")
    return pixels


def _check_sound(sound: Sound) -> Sound:
    has_samples = sound.samples.dtype in SOUND_TYPES and sound.samples.ndim == 1
    has_rate = isinstance(sound.rate, int) and 0 < sound.rate <= MAX_SAMPLE_RATE
    if not has_samples or not has_rate:
        what = "not a sound: (samples, rate) has to be (T,) float32 in -1..1 or int16, and Hz"
        raise ValueError(what)
    return sound


# Functions of DataLoader workers, which have to be picklable. ---------------------------------


def ignore_interrupts(worker_id: int) -> None:
    """Leave Ctrl-C to the process that started this worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    allow_interrupts()


def return_unchanged(batch: Any) -> Any:
    return batch

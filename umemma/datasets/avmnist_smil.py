"""`avmnist-smil`: the small AV-MNIST of SMIL (Ma et al., AAAI 2021, arXiv:2103.05677): 1,500 clean
pairs.

Recordings of three speakers of the Free Spoken Digit Dataset, each once: index < 15 is the test set
(450), the rest is for training (1,050). Images: MNIST as it is, from its train and its test. What
the protocol leaves open is ours:

- which image goes with which recording: by hashes, no image twice;
- validation: `val_share` of the training recordings of each digit, by hashes (100 of 1,050).

Peers keep every third sample of a recording and take 20 x 20 MFCCs of that. That is an encoder's
business: the shards hold the recordings as they are, 8 kHz.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from umemma.datasets import _digits_av as parts
from umemma.errors import UserError
from umemma.system.seeds import uniform
from umemma.types import DatasetSpec, Plain, Record, Source

SPEAKERS = ("jackson", "nicolas", "theo")
TEST = 15  # indices below this
PER_DIGIT = 105  # training recordings: 35 of each speaker
SPEC = DatasetSpec(
    name="avmnist-smil",
    summary="1,500 pairs of clean written and spoken digits (MNIST + FSDD), SMIL's protocol",
    modalities=("audio", "image"),
    classes=tuple("0123456789"),
    licence=parts.LICENCE,
    citation="Ma et al., SMIL: Multimodal Learning with Severely Missing Modality, AAAI 2021, "
    "arXiv:2103.05677",
    expected={"train": 950, "val": 100, "test": 450},
    size=parts.SIZE,
    disk=60_000_000,
)


class Options(Plain):
    """val_share: the part of the training recordings that validates; the protocol has none."""

    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.1


def sources(folder: Path, options: Options) -> Iterator[Source]:
    return parts.sources(media=True)


def spec(folder: Path, options: Options) -> DatasetSpec:
    val = 10 * _validating(PER_DIGIT, options)
    return dataclasses.replace(
        SPEC, expected={"train": 10 * PER_DIGIT - val, "val": val, "test": 450}
    )


def records(folder: Path, options: Options) -> Iterator[Record]:
    """The recordings in the order of their hashes; a key is a recording's name.

    UserError where MNIST's files are damaged, or where a digit has no recording or fewer images
    than recordings.
    """
    spoken = [one for one in parts.recordings(folder) if one.speaker in SPEAKERS]
    rows = []
    for part in ("train", "test"):
        digits = parts.labels(folder, part)
        for digit in range(10):
            said = [
                one.name
                for one in spoken
                if one.digit == digit and (one.take < TEST) == (part == "test")
            ]
            written = np.flatnonzero(digits == digit).tolist()
            if not 0 < len(said) <= len(written):
                counts = f"{len(said)} recordings and {len(written)} images"
                what = f"{counts} of the digit {digit} for {part}"
                raise UserError(what, str(folder), parts.AGAIN)
            said.sort(key=functools.partial(uniform, 0, SPEC.name, "recording"))
            written.sort(key=functools.partial(uniform, 0, SPEC.name, "image", part))
            val = 0
            if part == "train":
                val = _validating(len(said), options)
            for place, (key, number) in enumerate(zip(said, written, strict=False)):
                rows.append((key, "val" if place < val else part, digit, part, number))
    for key, split, digit, part, number in sorted(
        rows, key=lambda row: uniform(0, "order", row[0])
    ):
        audio = folder / "recordings" / f"{key}.wav"
        yield Record(
            key,
            split,
            digit,
            {"audio": audio, "image": functools.partial(_image, folder, part, number)},
        )


def _validating(count: int, options: Options) -> int:
    """How many of a digit's training recordings validate: at least one, and not all."""
    return min(max(1, round(count * options.val_share)), count - 1)


def _image(folder: Path, part: str, number: int) -> np.ndarray:
    """(28, 28) uint8."""
    return parts.images(folder, part)[number]

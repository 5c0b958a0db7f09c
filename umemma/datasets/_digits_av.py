"""What the data sets of written and spoken digits share: MNIST's files, the Free Spoken Digit
Dataset's, and noise.

MNIST (LeCun et al., 1998), four gzipped idx files: a big-endian header (two zero bytes, the type 8
= uint8, the number of axes, each length as uint32), then the bytes. FSDD 1.0.10
(github.com/Jakobovski/free-spoken-digit-dataset): recordings/{digit}_{speaker}_{index}.wav, 6
speakers, 8 kHz mono; indices 0-4 of each digit and speaker are its test set.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from umemma.errors import UserError
from umemma.types import Source

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
IMAGES = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
LABELS = {"train": "train-labels-idx1-ubyte.gz", "test": "t10k-labels-idx1-ubyte.gz"}
CONTENT = {  # md5 of what is in the .gz: its header differs between mirrors
    IMAGES["train"]: "6bbc9ace898e44ae57da46a324031adb",
    LABELS["train"]: "a25bea736e30d166cdddb491f175f624",
    IMAGES["test"]: "2646ac647ad5339dbf082846283269ea",
    LABELS["test"]: "27ae3e4e09519cfbb04c329615203637",
}
FSDD = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
RECORDING = re.compile(r"(?:.*/)?recordings/((\d)_([a-z]+)_(\d+))\.wav", re.ASCII)
LICENCE = "MNIST: CC BY-SA 3.0; recordings (FSDD): CC BY-SA 4.0"
SIZE = 27_200_000  # bytes: 11.6 MB of MNIST, 15.6 MB of FSDD
AGAIN = "Get it again: umemma download"


class Recording(NamedTuple):
    """A spoken digit: file name without .wav, digit 0-9, speaker, and which of the speaker's 50
    takes.
    """

    name: str
    digit: int
    speaker: str
    take: int


def sources(*, media: bool) -> Iterator[Source]:
    """MNIST and FSDD. media: the recordings are named by the records one by one."""
    for name, content in CONTENT.items():
        yield Source(
            name, tuple(mirror + name for mirror in MIRRORS), checksum=f"gunzip-md5:{content}"
        )
    # No checksum: GitHub makes this archive anew now and then, and its bytes have changed before.
    yield Source(
        "free-spoken-digit-dataset-1.0.10.tar.gz", (FSDD,), unpack=place, files=3000, media=media
    )


def place(member: str) -> str | None:
    """`free-spoken-digit-dataset-1.0.10/recordings/0_theo_1.wav` -> `recordings/0_theo_1.wav`; None
    for the rest.
    """
    found = RECORDING.fullmatch(member)
    if found:
        return f"recordings/{found[1]}.wav"
    return None


def recordings(folder: Path) -> list[Recording]:
    """What lies in `recordings/`, in the order of the names.

    UserError where that folder isn't there.
    """
    try:
        names = sorted(path.name for path in (folder / "recordings").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "not there yet", str(folder / "recordings"), "Run: umemma download"
        ) from None
    found = filter(None, (RECORDING.fullmatch(f"recordings/{name}") for name in names))
    return [Recording(one[1], int(one[2]), one[3], int(one[4])) for one in found]


def labels(folder: Path, part: str) -> np.ndarray:
    """(N,) uint8, 0-9, of MNIST's "train" or "test".

    UserError where they are damaged or there are more or fewer images.
    """
    path = folder / LABELS[part]
    with _idx(path, 1) as (file, (count,)):
        digits = np.frombuffer(_all(file, count), np.uint8)
    if (digits > 9).any():
        raise UserError("damaged: labels that are no digits", str(path), AGAIN)
    with _idx(folder / IMAGES[part], 3) as (_, shape):
        if shape != (count, 28, 28):
            raise UserError(f"{shape} images for {count} labels", str(folder / IMAGES[part]), AGAIN)
    return digits


@functools.cache
def images(folder: Path, part: str) -> np.ndarray:
    """(N, 28, 28) uint8, read-only, of MNIST's "train" or "test"; kept, as a worker asks for
    many.
    """
    with _idx(folder / IMAGES[part], 3) as (file, shape):
        return np.frombuffer(_all(file, math.prod(shape)), np.uint8).reshape(shape)


@contextlib.contextmanager
def _idx(path: Path, axes: int) -> Iterator[tuple[gzip.GzipFile, tuple[int, ...]]]:
    """An idx file of uint8 after its header, and its shape.

    UserError where it is missing or damaged.
    """
    try:
        with gzip.open(path, "rb") as file:
            header = _all(file, 4 + 4 * axes, more=True)
            if header[:4] != bytes([0, 0, 8, axes]):
                raise UserError(f"damaged: not an idx file of {axes} axes", str(path), AGAIN)
            yield file, struct.unpack(f">{axes}I", header[4:])
    except FileNotFoundError:
        raise UserError("not there yet", str(path), "Run: umemma download") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"damaged: {error}", str(path), AGAIN) from None


def _all(file: gzip.GzipFile, size: int, more: bool = False) -> bytes:
    """The next `size` bytes, after which the file has to end unless there may be `more`."""
    data = file.read(size)
    if len(data) < size or not (more or file.read(1) == b""):
        raise EOFError("its length is not what its header says")
    return data


def add_noise(
    clip: np.ndarray,
    snr_db: float,
    seed: int,
    *,
    length: int,
    noise: np.ndarray | None = None,
    peak: float = 0.5,
) -> np.ndarray:
    """(length,) float32 in -peak..peak: the clip at a drawn place in noise.

    noise: (T,) samples from which a drawn stretch is taken, over its end to its start again; None =
    white. SNR: mean power of the clip over that of the noise, dB. A clip longer than `length` is
    cut off there.
    """
    chance = np.random.default_rng(seed)
    clip = clip[:length]
    sound = np.zeros(length)
    offset = chance.integers(0, length - len(clip) + 1)
    sound[offset : offset + len(clip)] = clip
    if noise is None:
        stretch = chance.standard_normal(length)
    else:
        stretch = np.take(noise, chance.integers(len(noise)) + np.arange(length), mode="wrap")
        stretch = stretch / np.sqrt(np.mean(stretch**2))
    sound += stretch * np.sqrt(np.mean(clip**2) / 10 ** (snr_db / 10))
    return (peak * sound / np.abs(sound).max()).astype(np.float32)

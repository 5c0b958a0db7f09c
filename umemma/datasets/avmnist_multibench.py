"""`avmnist-multibench`: AV-MNIST as MultiBench distributes it (Liang et al., NeurIPS 2021,
arXiv:2107.07502).

Six .npy files: images of 784 numbers, spectrograms of 112 x 112, labels; 60,000 for training and
10,000 for test, of which the last 5,000 (a twelfth) of train validate, as in MultiBench's loader.
That divides both modalities by 255, so both are grey values: here they become pictures of whole
grey levels. The sound is a ready-made spectrogram from which no waveform can be had, so the
modality is `spectrogram` and not `audio`. Made with FSDD and without ESC-50's noise, it is neither
CentralNet's AV-MNIST nor our `avmnist`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from umemma.errors import UserError
from umemma.system.seeds import uniform
from umemma.types import DatasetSpec, Plain, Record, Source

SPEC = DatasetSpec(
    name="avmnist-multibench",
    summary="written digits and spectrograms of spoken ones, as MultiBench distributes them",
    modalities=("image", "spectrogram"),
    classes=tuple("0123456789"),
    licence="none stated; made from MNIST (CC BY-SA 3.0) and FSDD (CC BY-SA 4.0)",
    citation="Liang et al., MultiBench, NeurIPS Datasets and Benchmarks 2021, arXiv:2107.07502",
    expected={"train": 55_000, "val": 5_000, "test": 10_000},
)
SHAPES: dict[str, tuple[int, ...]] = {
    "image": (784,),
    "audio": (112, 112),
}  # of one sample, by folder
MEMBER = re.compile(
    r"(?:.*/)?((?:image|audio)/(?:train|test)_data\.npy|(?:train|test)_labels\.npy)", re.ASCII
)
DRIVE = "1KvKynJJca5tDtI5Mmp6CoRh9pQywH8Xp"
STEPS = f"""\
Get avmnist.tar.gz from https://drive.google.com/file/d/{DRIVE}/view
and run: umemma download avmnist-multibench --from FOLDER
where FOLDER holds the archive, or what is in it:
  avmnist/
    image/train_data.npy   (60000 x 784)
    image/test_data.npy    (10000 x 784)
    audio/train_data.npy   (60000 x 112 x 112)
    audio/test_data.npy    (10000 x 112 x 112)
    train_labels.npy       (60000)
    test_labels.npy        (10000)"""

AGAIN = "Get it again: umemma download avmnist-multibench"


class Options(Plain):
    """outside: what becomes of values outside 0..255: the picture counts as one that can't be read,
    or they are clipped.
    """

    outside: Literal["refuse", "clip"] = "refuse"


def sources(folder: Path, options: Options) -> Iterator[Source]:
    yield Source("avmnist.tar.gz", (f"gdrive:{DRIVE}",), unpack=place, files=6, steps=STEPS)


def place(member: str) -> str | None:
    """`avmnist/image/train_data.npy` -> `image/train_data.npy`; None for any other file."""
    found = MEMBER.fullmatch(member)
    if found:
        return found[1]
    return None


def spec(folder: Path, options: Options) -> DatasetSpec:
    return SPEC


def records(folder: Path, options: Options) -> Iterator[Record]:
    """The rows in the order of their keys' hashes; keys are the split and the number of the row in
    its files.

    UserError for a file that is missing, no array of numbers, or of another shape.
    """
    rows = []
    for part in ("train", "test"):
        labels = load(folder / f"{part}_labels.npy", ())
        for name, shape in SHAPES.items():
            path = folder / name / f"{part}_data.npy"
            if (count := len(load(path, shape))) != len(labels):
                raise UserError(f"{count} samples for {len(labels)} labels", str(path), AGAIN)
        for number, label in enumerate(labels.tolist()):
            split = part
            if part == "train" and number >= len(labels) - len(labels) // 12:
                split = "val"
            rows.append((f"{split}-{number:05d}", split, label, part, number))
    for key, split, label, part, number in sorted(
        rows, key=lambda row: uniform(0, "order", row[0])
    ):
        if label not in range(10):
            yield Record(key, split, None, {}, problem="a label that is no digit")
            continue
        image, audio = (
            functools.partial(
                _picture, folder / name / f"{part}_data.npy", name, number, options.outside
            )
            for name in ("image", "audio")
        )
        yield Record(key, split, int(label), {"image": image, "spectrogram": audio})


def load(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """(N, *shape) numbers, left on the disk. UserError where it isn't that."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # never unpickles
    except FileNotFoundError:
        raise UserError(
            "not there yet", str(path), "Run: umemma download avmnist-multibench"
        ) from None
    except ValueError as error:
        raise UserError(f"damaged: {error}", str(path), AGAIN) from None
    if array.ndim == 0 or array.shape[1:] != shape or array.dtype.kind not in "iuf":
        wanted = " x ".join(map(str, ("N", *shape)))
        raise UserError(
            f"an array of {array.dtype} {array.shape}, not of {wanted} numbers", str(path), AGAIN
        )
    return array


# Called where a sample is packed. -----------------------------------------------------------------


@functools.cache
def _kept(path: Path, name: str) -> np.ndarray:
    return load(path, SHAPES[name])


def _picture(path: Path, name: str, number: int, outside: str) -> np.ndarray:
    """(28, 28) or (112, 112) uint8.

    ValueError, a fixed phrase, for values that are no grey levels.
    """
    side = {"image": 28, "audio": 112}[name]
    values = np.rint(_kept(path, name)[number].astype(np.float64)).reshape(side, side)
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    if outside == "refuse" and not (values.min() >= 0 and values.max() <= 255):
        raise ValueError("values outside 0..255 (preprocess.options.outside: clip takes them)")
    return values.clip(0, 255).astype(np.uint8)

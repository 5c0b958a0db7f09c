"""A data set of your own, in the layout that its authors chose: turned into a table.

The names of data sets in params.yaml are those of the package, and no setting adds one. For data of
your own that is not needed: a script writes one table, and the data set `manifest` reads it. This
one is for

    frogs/train/toad/pond-3/0001.png     a picture; pond-3 is where it was taken
    frogs/train/toad/pond-3/0001.wav     the call of the same animal, which may be missing

In an empty folder, where UMEMMA is the clone of umemma (`--make` writes a few such files first):

    python $UMEMMA/examples/own_dataset.py frogs --make
    umemma init frogs/table.csv --yes
    umemma download --from frogs
    umemma doctor
    umemma preprocess

A data set that many people use is better a module of the package: see "A dataset" in
ARCHITECTURE.md.
"""

from __future__ import annotations

import argparse
import csv
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS = ("key", "picture", "call", "label", "split", "group")


def list_rows(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield a row per animal. Animals of one pond depend on one another, so it is their group."""
    for picture in sorted(folder.glob("*/*/*/*.png")):
        split, label, pond, name = picture.relative_to(folder).with_suffix("").parts
        call = picture.with_suffix(".wav")
        cell = call.relative_to(folder).as_posix() if call.exists() else ""
        key = f"{pond}-{name}"
        yield key, picture.relative_to(folder).as_posix(), cell, label, split, pond


def write_table(folder: Path) -> None:
    """Write table.csv beside the files that it names."""
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows(list_rows(folder))


def make_files(folder: Path) -> None:
    """Write 48 made animals. One in four has no call."""
    generator = np.random.default_rng(0)
    time = np.arange(4000) / 8000  # s
    for number in range(48):
        split = ("train", "train", "val", "test")[number // 12]
        label = ("toad", "frog")[number % 2]
        place = folder / split / label / f"pond-{number // 6}"
        place.mkdir(parents=True, exist_ok=True)
        shades = generator.integers(0, 120, (24, 24, 3)) + 120 * (number % 2)
        Image.fromarray(shades.astype(np.uint8)).save(place / f"{number:04d}.png")
        if number % 4 == 3:
            continue
        tone = np.sin(2 * np.pi * (300 + 500 * (number % 2)) * time)
        with wave.open(str(place / f"{number:04d}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((tone * 8000).astype("<i2").tobytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", action="store_true", help="write made files first")
    arguments = parser.parse_args()
    if arguments.make:
        make_files(arguments.folder)
    write_table(arguments.folder)

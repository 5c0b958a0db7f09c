"""`digits`: the embedded default.

A written digit (image) and the same digit spoken (audio); needs no network.

Images: the UCI handwritten digits that scikit-learn carries (Alpaydin & Kaynak, 1998; 8 x 8, 17
grey levels). Audio: espeak-ng voices (scripts/make_digits_speech.py), 8 kHz mono. As in AV-MNIST
(Vielzeuf et al., CentralNet, 2018) each modality is made imperfect on purpose, so that both
together are clearly better than each alone: the images keep part of their energy (PCA fitted on the
training images, mean added back), and the recordings get white noise at a stated signal-to-noise
ratio. Images and voices are disjoint between splits; voices of one family (iven, iven2, ...) stay
on one side. An image stands in `utterances` samples and a voice in many, so samples are grouped by
image and by voice. A group of voices is a family, as its members aren't independent.
"""

from __future__ import annotations

import functools
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from umemma.datasets._digits_av import add_noise
from umemma.errors import UserError
from umemma.system.seeds import derive, uniform
from umemma.system.signals import delay_stop_signals
from umemma.types import DatasetSpec, Plain, Record, Sound, Source

SPEC = DatasetSpec(
    name="digits",
    summary="written and spoken digits, embedded and offline (UCI digits + espeak-ng voices)",
    modalities=("audio", "image"),
    classes=tuple("0123456789"),
    licence="images CC BY 4.0 (UCI), recordings Apache-2.0 as this project",
    citation="Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, "
    "doi:10.24432/C50P49",
)
SHARES = {"train": 0.60, "val": 0.15, "test": 0.25}
RATE = 8000  # Hz
SECONDS = 0.8


class Options(Plain):
    """How imperfect each modality is, and how many utterances each image is paired with."""

    image_energy: Annotated[float, Field(gt=0, le=1)] = 0.25
    snr_db: float = -4.0
    utterances: Annotated[int, Field(gt=0)] = 3


def sources(folder: Path, options: Options) -> Iterator[Source]:
    """Two tables, made from installed packages."""
    yield Source("images.parquet", make=_make_images)
    yield Source(
        "speech.parquet",
        make=functools.partial(shutil.copyfile, Path(__file__).with_name("digits_speech.parquet")),
    )


def _make_images(path: Path) -> None:
    """label, pixels (64 grey levels 0..16)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = digits.images.reshape(-1, 64).astype(np.uint8)
    table = pa.table(
        {
            "label": digits.target.astype(np.int8),
            "pixels": pa.array(map(bytes, pixels), pa.binary(64)),
        }
    )
    pq.write_table(table, path, compression="none")


def spec(folder: Path, options: Options) -> DatasetSpec:
    return SPEC


def records(folder: Path, options: Options) -> Iterator[Record]:
    """Pairs in the order of their keys; the noise of a pair is drawn by its key."""
    for name in ("images.parquet", "speech.parquet"):
        if not (folder / name).is_file():
            raise UserError("no such file", str(folder / name), "Run: umemma download digits")
    labels, images = _images(folder / "images.parquet")
    image_split = _cut(
        [str(i) for i in range(len(labels))], [str(label) for label in labels], "image"
    )
    images = _keep_energy(
        images, np.array([split == "train" for split in image_split]), options.image_energy
    )
    speech = pq.read_table(folder / "speech.parquet").to_pylist()
    if not speech:
        raise UserError(
            "no recordings in it", str(folder / "speech.parquet"), "Run: umemma download digits"
        )
    families = [clip["voice"].rstrip("0123456789").lower() for clip in speech]
    voice_split = dict(zip(families, _cut_families(families), strict=True))
    for number, (label, image, split) in enumerate(zip(labels, images, image_split, strict=True)):
        choices = [
            (clip, family)
            for clip, family in zip(speech, families, strict=True)
            if clip["digit"] == label and voice_split[family] == split
        ]
        choices.sort(key=lambda choice: uniform(0, "digits", "pair", number, choice[0]["voice"]))
        for clip, family in choices[: options.utterances]:
            key = f"{number:04d}-{clip['voice'].replace(' ', '_')}"
            sound = _add_noise(
                _decode(clip["flac"]), options.snr_db, derive(0, "digits", "noise", key)
            )
            group = {"image": f"{number:04d}", "voice": family}
            yield Record(
                key, split, int(label), {"audio": Sound(sound, RATE), "image": image}, group
            )


def _images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N,) labels and (N, 64) pixels in 0..1."""
    table = pq.read_table(path)
    pixels = np.frombuffer(b"".join(table["pixels"].to_pylist()), dtype=np.uint8)
    return table["label"].to_numpy(), pixels.reshape(-1, 64) / 16.0


def _cut(names: list[str], strata: list[str], what: str) -> list[str]:
    """A split for each name: within each stratum, by the names' hashes, in the shares of SHARES."""
    splits: dict[str, str] = {}
    for stratum in sorted(set(strata)):
        members = [name for name, s in zip(names, strata, strict=True) if s == stratum]
        members.sort(key=lambda name: uniform(0, "digits", what, name))
        bounds = np.round(np.cumsum(list(SHARES.values())) * len(members))
        splits |= {
            name: list(SHARES)[int(np.searchsorted(bounds, i, "right"))]
            for i, name in enumerate(members)
        }
    return [splits[name] for name in names]


def _cut_families(families: list[str]) -> list[str]:
    """As `_cut`, for families of unequal size: a family goes where its middle clip falls."""
    order = sorted(set(families), key=lambda family: uniform(0, "digits", "voice", family))
    sizes = np.array([families.count(family) for family in order])
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    where = np.searchsorted(np.cumsum(list(SHARES.values())), middles, "right")
    splits = {family: list(SHARES)[int(i)] for family, i in zip(order, where, strict=True)}
    return [splits[family] for family in families]


def _keep_energy(images: np.ndarray, fit_on: np.ndarray, energy: float) -> np.ndarray:
    """(N, 8, 8) uint8: the fewest principal components of `images[fit_on]` that keep `energy` of
    the variance.
    """
    mean = images[fit_on].mean(0)
    _, scales, components = np.linalg.svd(images[fit_on] - mean, full_matrices=False)
    kept = np.cumsum(scales**2) / np.sum(scales**2)
    basis = components[: int(np.searchsorted(kept, min(energy, kept[-1]))) + 1]
    imperfect = (images - mean) @ basis.T @ basis + mean
    return np.round(imperfect.clip(0, 1) * 255).astype(np.uint8).reshape(-1, 8, 8)


def _decode(flac: bytes) -> np.ndarray:
    import soundfile

    with delay_stop_signals():
        return soundfile.read(io.BytesIO(flac), dtype="float32")[0]


_add_noise = functools.partial(add_noise, length=int(SECONDS * RATE))

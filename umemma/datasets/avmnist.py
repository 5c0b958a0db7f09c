"""`avmnist`: AV-MNIST in our own version, made anew from MNIST and the Free Spoken Digit Dataset
(FSDD).

The recipe is that of CentralNet (Vielzeuf et al., 2018, arXiv:1808.07275): images keep a quarter of
their energy and recordings lie in noise, so that both together are clearly better than each alone.
Neither the original files nor its TIDIGITS recordings are public, so numbers on other versions of
AV-MNIST don't compare with numbers on this one.

- Images: MNIST, 28 x 28. The fewest principal components that keep `image_energy` of the variance,
  mean added back; fitted on the 55,000 training images (4 components at 0.25). Validation is the
  last twelfth of MNIST's train, 5,000.
- Sounds: for each image a recording of its digit, drawn from the recordings of its split: FSDD's
  own test (index 0-4), ours for validation (5-9), the rest for training. Speakers are the same in
  all splits, as they are in FSDD. 0.8 s at 8 kHz, where 98 % of the recordings fit whole; the
  others are cut off there.
- Noise: white, or clips of ESC (Piczak, 2015), folds 1-3 for training, 4 for validation, 5 for
  test; clips of one source share a fold. ESC-50 has 2,000 clips (.wav); ESC-10 is its part of 10
  classes, 400 clips (.ogg), and serves as well, but makes another dataset, so the variant says
  which it was.

An image stands in one sample, a recording in many, which are therefore one group. (A grouping by
image would have a group per sample, all within groups of recordings, and so change nothing.)
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from umemma.datasets import _digits_av as parts
from umemma.errors import UserError
from umemma.system.seeds import derive, uniform
from umemma.types import DatasetSpec, Media, Plain, Record, Sound, Source

SPEC = DatasetSpec(
    name="avmnist",
    summary="written and spoken digits, both imperfect on purpose (MNIST + FSDD)",
    modalities=("audio", "image"),
    classes=tuple("0123456789"),
    licence=parts.LICENCE,
    citation="Vielzeuf et al., CentralNet, 2018, arXiv:1808.07275; "
    "LeCun et al., MNIST, 1998; Jackson et al., FSDD 1.0.10",
    expected={"train": 55_000, "val": 5_000, "test": 10_000},
    size=parts.SIZE,
    disk=60_000_000,
)
RATE = 8000  # Hz
LENGTH = 6400  # samples, 0.8 s
PEAK = 1 / 16  # noise doesn't compress: every doubling of its loudness costs a bit per sample
UNIT = 2**20  # the components are whole multiples of 1 / UNIT
ESC = re.compile(r"(?:.*/)?([1-5]-\d+-[A-Z](?:-\d+)?\.(?:wav|ogg))", re.ASCII)
FOLDS = {"train": "123", "val": "4", "test": "5"}
ESC_STEPS = """\
With preprocess.options.noise: esc, get ESC-50 (600 MB) from https://github.com/karolpiczak/ESC-50
and run: umemma download avmnist --from FOLDER
where FOLDER holds, at any depth, the clips {fold}-{clip}-{take}-{class}.wav of ESC-50, or
{fold}-{clip}-{take}.ogg of ESC-10, which makes another variant."""


class Options(Plain):
    """How imperfect each modality is. snr_db: -9.5 is noise three times as strong as the recording
    (its RMS).
    """

    image_energy: Annotated[float, Field(gt=0, le=1)] = 0.25  # 1 = the images as they are
    snr_db: float = -9.5
    noise: Literal["white", "esc"] = "white"


def sources(folder: Path, options: Options) -> Iterator[Source]:
    """MNIST and FSDD, and ESC-50 where its noise is asked for."""
    yield from parts.sources(media=False)
    if options.noise == "esc":
        url = "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip"
        yield Source("ESC-50-master.zip", (url,), unpack=place_noise, steps=ESC_STEPS)


def place_noise(member: str) -> str | None:
    """`ESC-50-master/audio/1-100032-A-0.wav` -> `esc/1-100032-A-0.wav`; None for what is no clip of
    ESC.
    """
    found = ESC.fullmatch(member)
    if found:
        return f"esc/{found[1]}"
    return None


def spec(folder: Path, options: Options) -> DatasetSpec:
    """The variant names the options, and which ESC the noise is of."""
    noise, size, disk = str(options.noise), SPEC.size, SPEC.disk
    if noise == "esc":
        kinds = {path.rsplit(".")[-1] for paths in _noise_clips(folder).values() for path in paths}
        noise = (
            "+".join(name for name, kind in (("esc10", "ogg"), ("esc50", "wav")) if kind in kinds)
            or "esc"
        )
        size, disk = size + 600_000_000, disk + 1_500_000_000
    variant = f"energy{options.image_energy:g}-{noise}{options.snr_db:+g}dB"
    return dataclasses.replace(SPEC, variant=variant, size=size, disk=disk)


def records(folder: Path, options: Options) -> Iterator[Record]:
    """The images in MNIST's order, which mixes the digits.

    Keys are the split and the number in MNIST's file.

    UserError where MNIST's files are damaged, or where a split has no recording of a digit or no
    noise.
    """
    spoken = _by_split_and_digit(parts.recordings(folder))
    clips = {}
    if options.noise == "esc":
        clips = _noise_clips(folder)
    for split in clips:
        if not clips[split]:
            raise UserError(f"no noise for {split}", str(folder / "esc"), ESC_STEPS)
    for part in ("train", "test"):
        digits = parts.labels(folder, part).tolist()
        for number, digit in enumerate(digits):
            split = part
            if part == "train" and number >= len(digits) - len(digits) // 12:
                split = "val"
            choices = spoken.get((split, digit))
            if not choices:
                where = str(folder / "recordings")
                raise UserError(
                    f"no recording of the digit {digit} for {split}", where, parts.AGAIN
                )
            key = f"{split}-{number:05d}"
            said = choices[int(uniform(0, SPEC.name, "pair", key) * len(choices))]
            noise = ""
            if clips:
                noise = clips[split][
                    int(uniform(0, SPEC.name, "noise clip", key) * len(clips[split]))
                ]
            media: dict[str, Media] = {
                "audio": functools.partial(_sound, folder, said, noise, options.snr_db, key),
                "image": functools.partial(_image, folder, part, options.image_energy, number),
            }
            yield Record(key, split, digit, media, group=said)


def _by_split_and_digit(recordings: list[parts.Recording]) -> dict[tuple[str, int], list[str]]:
    """{(split, digit): names of its recordings}."""
    found: dict[tuple[str, int], list[str]] = {}
    for one in recordings:
        split = "train"
        if one.take < 5:
            split = "test"
        elif one.take < 10:
            split = "val"
        found.setdefault((split, one.digit), []).append(one.name)
    return found


def _noise_clips(folder: Path) -> dict[str, list[str]]:
    """{split: paths of its clips in the raw folder}."""
    names = sorted(path.name for path in (folder / "esc").glob("*") if ESC.fullmatch(path.name))
    return {
        split: [f"esc/{name}" for name in names if name[0] in folds]
        for split, folds in FOLDS.items()
    }


# Called where a sample is packed; what several samples need is kept. ------------------------------


def _image(folder: Path, part: str, energy: float, number: int) -> np.ndarray:
    """(28, 28) uint8: what the components keep of an image.

    In whole numbers, so the same to the bit on any machine.
    """
    image = parts.images(folder, part)[number]
    if energy == 1:
        return image
    mean, basis = components(folder, energy)
    coefficients = np.rint(basis @ (image.reshape(-1) * np.int64(UNIT) - mean) / UNIT).astype(
        np.int64
    )
    pixels = np.rint((coefficients @ basis / UNIT + mean) / UNIT)
    return pixels.clip(0, 255).astype(np.uint8).reshape(image.shape)


@functools.cache
def components(folder: Path, energy: float) -> tuple[np.ndarray, np.ndarray]:
    """mean (784,) and basis (K, 784) of the training images as int64 in units of 1 / UNIT.

    The sums of products are whole numbers below 2**53, so float64 holds them exactly in whatever
    order BLAS adds them up with however many threads. What the eigenvectors differ in between
    machines (1e-15) is far below 1 / UNIT.
    """
    images = parts.images(folder, "train")
    images = images[: len(images) - len(images) // 12].reshape(-1, 784)
    products = np.zeros((784, 784))
    for start in range(0, len(images), 5000):
        chunk = images[start : start + 5000].astype(np.float64)
        products += chunk.T @ chunk
    total = images.sum(0, dtype=np.float64)
    count = len(images)
    variances, vectors = np.linalg.eigh((count * products - np.outer(total, total)) / count**2)
    kept = np.cumsum(variances[::-1]) / np.sum(variances)  # eigh sorts upwards
    basis = vectors.T[::-1][: int(np.searchsorted(kept, energy)) + 1]
    return np.rint(total / count * UNIT).astype(np.int64), np.rint(basis * UNIT).astype(np.int64)


def _sound(folder: Path, said: str, noise: str, snr_db: float, key: str) -> Sound:
    """The recording at a drawn place in 0.8 s of noise.

    ValueError, a fixed phrase, where one can't be read.
    """
    clip = _recording(folder / "recordings" / f"{said}.wav") / 32768
    if not clip.any():
        raise ValueError("a silent recording")
    stretch = None
    if noise:
        stretch = _noise(folder / noise)
    seed = derive(0, SPEC.name, "noise", key)
    return Sound(parts.add_noise(clip, snr_db, seed, length=LENGTH, noise=stretch, peak=PEAK), RATE)


@functools.cache
def _recording(path: Path) -> np.ndarray:
    """(T,) int16; squares of whole numbers add up exactly, so the noise has the same strength on
    any machine.
    """
    samples, rate = _read(path, "int16")
    if rate != RATE or samples.ndim != 1:
        raise ValueError("a recording that is not 8 kHz mono")
    return samples


@functools.lru_cache(maxsize=1024)
def _noise(path: Path) -> np.ndarray:
    """(T,) float64 at RATE: an ESC clip without the silence it is filled up with (10 ms more than
    40 dB below it).
    """
    samples, rate = _read(path, "float64")
    if samples.ndim != 1 or rate < RATE:
        raise ValueError("a noise clip that is not mono at 8 kHz or more")
    if not samples.any():
        raise ValueError("a silent noise clip")
    blocks = np.pad(samples, (0, -len(samples) % (rate // 100))).reshape(-1, rate // 100)
    power = np.mean(blocks**2, 1)
    loud = blocks[power > 1e-4 * np.mean(power)].reshape(-1)
    length = len(loud) * RATE // rate
    return np.fft.irfft(
        np.fft.rfft(loud)[: length // 2 + 1], length
    )  # resampled: the spectrum up to 4 kHz


def _read(path: Path, dtype: Literal["int16", "float64"]) -> tuple[np.ndarray, int]:
    import soundfile

    if not path.is_file():
        raise ValueError("file is missing")
    try:
        return soundfile.read(path, dtype=dtype)
    except soundfile.LibsndfileError as error:  # its text holds the path; error_string doesn't
        raise ValueError(f"not readable audio: {error.error_string}") from None

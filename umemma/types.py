"""The nouns that the rooms of the house hand to one another. Plain data, no torch at import.

Legend of shapes: B batch, N samples of a split, M modalities, D feature width, C classes, H W pixels, F mel bins,
T time steps or samples. Seconds are s, rates are Hz. A multi-modal thing is a dict keyed by modality in sorted order;
column i of a (B, M) array belongs to the i-th modality in sorted order. Booleans say what is there: True = present.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Plain(BaseModel):
    """Frozen data whose keys and types are checked, and which refuses keys it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# 1. Record: what a dataset says of one sample. ------------------------------------------------------------------------


@dataclass(frozen=True)
class Sound:
    """samples: (T,) mono, float32 in -1..1 or int16; rate: Hz."""

    samples: np.ndarray
    rate: int


@dataclass(frozen=True)
class Clip:
    """A stretch of a file with pictures, sound or both, from `start` s to `end` s; None = to the end of the file."""

    path: Path
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Unreadable:
    """Stands for a medium that the dataset itself knows can't be read. reason: one of few fixed phrases."""

    reason: str


class Span(NamedTuple):
    """A stretch of a file, in bytes: encoded media where they lie in a shard."""

    path: str
    offset: int
    size: int


# Encoded bytes, a file, a stretch of one, a text, a sound, an image as an (H, W[, 3]) uint8 array, encoded frames; or a
# function that gives one of these. It is called where the sample is packed and so has to be picklable: a
# `functools.partial` of a module's function.
Media: TypeAlias = "bytes | Path | Clip | Span | str | Sound | np.ndarray | list[bytes] | Unreadable | Callable[[], Media]"

# What becomes of a sample with a medium that can't be read: it lacks that modality, or it fails.
BrokenPolicy: TypeAlias = Literal["absent", "fail"]


@dataclass(frozen=True)
class Record:
    """One sample as a dataset lists it. A modality that `media` lacks is absent; nothing is decoded yet.

    key: unique in the dataset, no dots (WebDataset splits names there). label: a class number; a sorted tuple of them
    where the task is multilabel; None only with a problem. group: samples of one group (an image paired with several
    recordings, say) are not independent, so intervals are drawn over groups, and a group in two splits is a leak; several
    groupings have names: {"image": "0012", "voice": "af"}. An empty group is none.
    problem: why this sample can't be used (its id, its label, its split, its row), as one of few fixed phrases; it becomes
    a failure with a row. What is wrong with one medium is no problem of the sample: that medium is Unreadable, or packing
    finds out. left_out: why the settings leave the sample out, likewise; that is no failure.
    """

    key: str
    split: str
    label: int | tuple[int, ...] | None
    media: Mapping[str, Media]
    group: str | Mapping[str, str] = ""
    problem: str = ""
    left_out: str = ""

    @property
    def groups(self) -> dict[str, str]:
        """{grouping: group}; the name of an only one that has none is "group"."""
        named = {"group": self.group} if isinstance(self.group, str) else self.group
        return {name: group for name, group in sorted(named.items()) if group}


# 2. DatasetSpec: what is known of a dataset, and where its files come from. -------------------------------------------


@dataclass(frozen=True)
class DatasetSpec:
    """variant: which of several versions in use this is, "" for the only one; numbers of two variants never share a
    table. expected: {split: samples} of the official lists. size: bytes to download, disk: bytes needed at the most."""

    name: str
    summary: str
    modalities: tuple[str, ...]  # sorted
    classes: tuple[str, ...]
    licence: str
    citation: str
    splits: tuple[str, ...] = ("train", "val", "test")
    task: Literal["multiclass", "multilabel"] = "multiclass"
    variant: str = ""
    expected: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    disk: int = 0


@dataclass(frozen=True)
class Source:
    """A file that download puts into the raw folder of a dataset, or an archive that it unpacks there.

    path: its place in the raw folder; the last part is also the name that a mirror is searched for.
    urls: tried in order; `https://...`, `gdrive:ID` or `kaggle:OWNER/NAME`. size: bytes, 0 = unknown.
    checksum: "md5:..." or "sha256:..." of the file, "gunzip-md5:..." of what a .gz holds; "" = none is known.
    unpack: for an archive, from the name of a member (posix path) to its place in the raw folder, None for what isn't
    needed. The archive isn't kept. The same function places the files of a copy that is unpacked already.
    files: how many files the archive holds that are needed, 0 = unknown.
    media: records name its files one by one, so a change of one remakes only the shard that holds it.
    make: makes the file at a path from what is installed; then there is nothing to fetch.
    steps: what a person has to do where none of `urls` serves, and the tree that has to be there afterwards.
    """

    path: str
    urls: tuple[str, ...] = ()
    size: int = 0
    checksum: str = ""
    unpack: Callable[[str], str | None] | None = None
    files: int = 0
    media: bool = False
    make: Callable[[Path], None] | None = None
    steps: str = ""


class Packing(Plain):
    """What of the raw media goes into the shards; encoder-neutral, so larger than any encoder asks for."""

    side: Annotated[int, Field(gt=0)] = (
        256  # pixels: the shorter side of an image or frame is at most this
    )
    quality: Annotated[int, Field(ge=1, le=95)] = 90  # of the JPEGs that have to be encoded
    frames: Annotated[int, Field(gt=0)] = 8  # of a video, at most
    fps: Annotated[float, Field(gt=0)] | None = (
        None  # frames per second; null = `frames` spread evenly over the clip
    )
    sample_rate: Annotated[int, Field(gt=0)] = 16000  # Hz, at most
    crop: bool = True  # keep only the event of a clip, where the dataset says when it is
    silence: Annotated[float, Field(ge=0)] = (
        1e-4  # a sound whose RMS is below this counts as no sound
    )


# 3. InputSpec: what an encoder wants to see. Made by encoders, read by modalities, carried by the stages. -------------


PerChannel = (
    float | Annotated[tuple[float, ...], Field(strict=False)]
)  # one number for all channels, or one for each


class ImageInput(Plain):
    """(channels, size, size) float32, (pixel / 255 - mean) / std. crop: the middle square of a picture, else all of it,
    squeezed into one."""

    size: Annotated[int, Field(gt=0)] = 32
    channels: Literal[1, 3] = 3
    mean: PerChannel = 0.5
    std: PerChannel = 0.25
    crop: bool = False


class AudioInput(Plain):
    """(1, mels, T) float32 log-mel spectrogram of `seconds` s, T = seconds * sample_rate / hop + 1; times in samples."""

    sample_rate: int = 16000
    seconds: float = 3.0
    mels: int = 64
    window: int = 400
    hop: int = 160


class WaveInput(Plain):
    """(T,) float32 samples in -1..1, T = seconds * sample_rate; exact zeros at the end are padding."""

    sample_rate: Annotated[int, Field(gt=0)] = 16000
    seconds: Annotated[float, Field(gt=0)] = 3.0


class VideoInput(Plain):
    """(frames, channels, size, size) float32, each frame as an ImageInput's; black frames at the end are padding."""

    frames: Annotated[int, Field(gt=0)] = 8
    size: Annotated[int, Field(gt=0)] = 112
    channels: Literal[1, 3] = 3
    mean: PerChannel = 0.5
    std: PerChannel = 0.25
    crop: bool = False

    @property
    def picture(self) -> ImageInput:
        return ImageInput(**self.model_dump(exclude={"frames"}))


class TextInput(Plain):
    """(length,) int64 tokens, `padding` after the last one.

    tokenizer: "clip" (the 49,408 byte pairs that come with open_clip), "open_clip:MODEL" (that model's own) or
    "hf:NAME" (a tokenizer of transformers, by name or folder).
    """

    length: Annotated[int, Field(gt=1)] = 77
    tokenizer: str = "clip"
    padding: Annotated[int, Field(ge=0)] = 0


InputSpec = ImageInput | AudioInput | WaveInput | VideoInput | TextInput


# 4. Batch: what a model is fed. ---------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """inputs: {modality: (B, ...)}, an absent one filled with the blank input; present: (B, M) bool, always on the CPU, as
    it decides what enters an encoder; target: (B,) classes or (B, C) sets of labels; chance: (B,) uint64 numbers that
    belong to the seed, the epoch and the sample, for what training draws; None outside of it."""

    inputs: dict[str, Tensor]
    present: Tensor
    target: Tensor
    chance: np.ndarray | None = None


# 5. ResultRow: one number of an evaluation, with everything needed to know what it is. --------------------------------


class ResultRow(NamedTuple):
    """One metric on one setting.

    model: "ensemble", "unimodal", "average" (of the uni-modal models' logits) or "gap" (the ensemble less the best uni-modal
    model of what is left); missing: the modalities taken away, "" for none, "any" for the worst of all subsets, sample by
    sample; left: those that remain; ratio: the share of samples they are taken from; draw: the number of a seeded draw, -1
    for the expectation over all draws; value with its 95 % interval low..high, NaN where none is drawn; n: samples scored;
    refused: samples left out because nothing would have remained of them.
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


def alternatives(text: str) -> tuple[tuple[str, ...], ...]:
    """What is taken away, as it is written: "audio" (that one), "audio+image" (both), "audio|image" (one of the two, each
    as likely): the sets of which a sample loses one."""
    return tuple(
        sorted({tuple(sorted({m.strip() for m in one.split("+")})) for one in text.split("|")})
    )

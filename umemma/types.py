"""The nouns that the folders of the package share: plain data, without torch at import.

Letters of shapes: B batch, N samples of a split, M modalities, S patterns, D feature width, C
classes, H W pixels, F mel bins, T time steps or audio samples. Units: s seconds, Hz rates.

A multi-modal value is a dict keyed by modality in sorted order; column i of a (B, M) array belongs
to the i-th modality in sorted order. Booleans say what is there: True means present.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

OWN = "import:"  # how the name of an encoder or of a kind that the user wrote begins

# A modality's name is part of file names, of a tar's members and of patterns such as "audio+image".
MODALITY_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
# Names that mean something else: in shards, tables and results, and in torch's module dictionaries.
_RESERVED = """
any end group json key label probe self split start targets worst
T_destination add_module apply bfloat16 buffers call_super_init children clear compile copy cpu cuda
double dump_patches eval extra_repr float forward fromkeys get get_buffer get_extra_state
get_parameter get_submodule half ipu items keys load_state_dict modules mtia named_buffers
named_children named_modules named_parameters parameters pop popitem register_backward_hook
register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
register_full_backward_pre_hook register_load_state_dict_post_hook
register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule setdefault share_memory
state_dict to to_empty train training type update values xpu zero_grad
"""
RESERVED_NAMES = frozenset(_RESERVED.split())
MAX_MODALITIES = 8  # which have 255 subsets
NO_KINDS: Mapping[str, str] = MappingProxyType({})  # every modality is named like its kind

PositiveInt: TypeAlias = Annotated[int, Field(gt=0)]
PositiveFloat: TypeAlias = Annotated[float, Field(gt=0)]


class Plain(BaseModel):
    """Frozen data with validated keys and types. An unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# 1. Record: one sample, as a dataset lists it. ----------------------------------------------------


@dataclass(frozen=True)
class Sound:
    """A decoded sound.

    samples: (T,) mono, float32 in -1..1 or int16.
    rate: Hz.
    """

    samples: np.ndarray
    rate: int


@dataclass(frozen=True)
class Series:
    """Measurements over time, or the file that holds them.

    samples: (T, C) numbers, NaN where nothing was measured, or the path of a file.
    rate: Hz; None is unknown.
    """

    samples: np.ndarray | Path
    rate: float | None = None


@dataclass(frozen=True)
class Clip:
    """A part of a file with pictures, sound or both.

    start: s.
    end: s; None is the end of the file.
    """

    path: Path
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Unreadable:
    """A medium that the dataset itself knows cannot be read.

    reason: one of few fixed phrases.
    """

    reason: str


# What a dataset may give as the medium of a modality: encoded bytes, a file, a part of a file, a
# text, a sound, an image as an (H, W[, 3]) uint8 array, encoded frames, a vector as a (D,) array, a
# series, the cells of a table's row by their columns, or a function that returns one of these. The
# function is called where the sample is packed, so it has to be picklable: a `functools.partial` of
# a module's function.
Cell: TypeAlias = "str | float | None"
Media: TypeAlias = (
    "bytes | Path | Clip | str | Sound | Series | np.ndarray | list[bytes]"
    " | Mapping[str, Cell] | Unreadable | Callable[[], Media]"
)

# One of several classes, a set of labels, or one or more numbers.
Task: TypeAlias = Literal["multiclass", "multilabel", "regression"]

# What happens to a sample with a medium that cannot be read: it lacks that modality, or it fails.
BrokenPolicy: TypeAlias = Literal["absent", "fail"]


@dataclass(frozen=True)
class Record:
    """One sample, as a dataset lists it. Nothing is decoded yet.

    key: unique in the dataset, without dots (WebDataset splits names at dots).
    label: the number of the class; a sorted tuple of numbers where the task is multi-label, a float
        for each target in regression; None only with a problem.
    media: {modality: medium}. A modality without an entry is absent.
    group: samples of one group are not independent, such as an image that is paired with several
        recordings. So intervals are drawn over groups, and a group in two splits is a leak. Several
        groupings have names: {"image": "0012", "voice": "af"}. An empty group is none.
    problem: why this sample cannot be used (its id, its label, its split, its row), as one of few
        fixed phrases. It becomes a failure with a row. What is wrong with one medium is not a
        problem of the sample: that medium is Unreadable, or packing finds it.
    left_out: why the settings leave the sample out, as one of few fixed phrases. This is no
    failure.
    weight: how much the sample counts in the loss of a training, against the others; None for all
        alike.
    """

    key: str
    split: str
    label: int | tuple[int, ...] | tuple[float, ...] | None
    media: Mapping[str, Media]
    group: str | Mapping[str, str] = ""
    problem: str = ""
    left_out: str = ""
    weight: float | None = None

    @property
    def groups(self) -> dict[str, str]:
        """{grouping: group}, where the grouping of an unnamed group is "group"."""
        named = self.group
        if isinstance(named, str):
            named = {"group": named}
        return {name: group for name, group in sorted(named.items()) if group}


# 2. DatasetSpec: what is known of a dataset, and where its files come from. -----------------------


class Fold(Plain):
    """One of the folds that take turns as the test split.

    group: what is held out in a leave-one-group-out, "" otherwise.
    val: the folds that are the validation split while this one is tested; the rest is for training.
    """

    number: int
    group: str = ""
    val: Annotated[tuple[int, ...], Field(strict=False)]

    @property
    def split(self) -> str:
        """The name of its samples' split in records and in shards."""
        return f"fold-{self.number}"


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a dataset before any file is read.

    modalities: their names, sorted.
    kinds: {modality: its kind, such as "image"} of those that are not named like their kind.
    classes: the names of the classes; of the targets in regression.
    variant: which of several published versions this is, "" for the only one. Numbers of two
        variants never share a table.
    folds: of which `splits` then has the names, see `Fold`; empty where splits are fixed.
    expected: {split: samples} of the official lists.
    size: bytes to download.
    disk: bytes needed at most.
    """

    name: str
    summary: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    licence: str
    citation: str
    splits: tuple[str, ...] = ("train", "val", "test")
    task: Task = "multiclass"
    variant: str = ""
    expected: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    disk: int = 0
    kinds: Mapping[str, str] = field(default_factory=dict)
    folds: tuple[Fold, ...] = ()


@dataclass(frozen=True)
class Source:
    """A file that download writes to the raw folder of a dataset, or an archive that it unpacks
    there.

    path: the path in the raw folder. A mirror is searched for its last part.
    urls: tried in order; `https://...`, `gdrive:ID` or `kaggle:OWNER/NAME`.
    size: bytes, 0 = unknown.
    checksum: "md5:..." or "sha256:..." of the file, "gunzip-md5:..." of the content of a .gz file;
        "" = unknown.
    unpack: for an archive: the function from the name of a member (posix path) to its path in the
        raw folder, or None for a member that is not needed. The archive is not kept. The same
        function places the files of a copy that is already unpacked.
    files: how many needed files the archive holds, 0 = unknown.
    media: records name its files one by one, so a changed file rebuilds only the shard that holds
    it.
    make: a function that writes the file from installed packages; then nothing is downloaded.
    steps: what a person has to do where none of `urls` works, and the resulting files.
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
    """What of the raw media goes into the shards.

    Shards serve any encoder, so they hold more than most encoders ask for.

    side: pixels; the shorter side of an image or frame is at most this long.
    quality: of the JPEG images that have to be encoded.
    frames: of a video, at most.
    fps: frames per second; null spreads `frames` evenly over the clip.
    sample_rate: Hz, at most.
    crop: keep only the event of a clip, where the dataset says when it is.
    silence: a sound whose RMS amplitude is below this value counts as no sound.
    """

    side: PositiveInt = 256
    quality: Annotated[int, Field(ge=1, le=95)] = 90
    frames: PositiveInt = 8
    fps: PositiveFloat | None = None
    sample_rate: PositiveInt = 16000
    crop: bool = True
    silence: Annotated[float, Field(ge=0)] = 1e-4


# 3. InputSpec: the input of an encoder. Made by encoders, read by modalities, carried by the
# stages. --

# One number for all channels, or one for each.
PerChannel = float | Annotated[tuple[float, ...], Field(strict=False)]
PositivePerChannel = PositiveFloat | Annotated[tuple[PositiveFloat, ...], Field(strict=False)]


class ImageInput(Plain):
    """(channels, size, size) float32, (pixel / 255 - mean) / std.

    crop: take the middle square of the image; otherwise the whole image is squeezed into a square.
    """

    size: PositiveInt = 32
    channels: Literal[1, 3] = 3
    mean: PerChannel = 0.5
    std: PositivePerChannel = 0.25
    crop: bool = False


class AudioInput(Plain):
    """(1, mels, T) float32 log-mel spectrogram of `seconds` s, T = seconds * sample_rate / hop + 1.

    sample_rate: Hz.
    window, hop: audio samples.
    """

    sample_rate: PositiveInt = 16000
    seconds: PositiveFloat = 3.0
    mels: PositiveInt = 64
    window: PositiveInt = 400
    hop: PositiveInt = 160


class WaveInput(Plain):
    """(T,) float32 samples in -1..1, T = seconds * sample_rate.

    Exact zeros at the end are padding.
    """

    sample_rate: PositiveInt = 16000
    seconds: PositiveFloat = 3.0


class VideoInput(Plain):
    """(frames, channels, size, size) float32, each frame as in ImageInput.

    Black frames at the end are padding.
    """

    frames: PositiveInt = 8
    size: PositiveInt = 112
    channels: Literal[1, 3] = 3
    mean: PerChannel = 0.5
    std: PositivePerChannel = 0.25
    crop: bool = False

    @property
    def picture(self) -> ImageInput:
        """The input of one frame."""
        return ImageInput(**self.model_dump(exclude={"frames"}))


class TextInput(Plain):
    """(length,) int64 tokens, with `padding` after the last one.

    tokenizer: "clip" (the 49,408 byte pairs that come with open_clip), "open_clip:MODEL" (the
        tokenizer of that model) or "hf:NAME" (a tokenizer of transformers, by name or folder).
    """

    length: Annotated[int, Field(gt=1)] = 77
    tokenizer: str = "clip"
    padding: Annotated[int, Field(ge=0)] = 0


# One finite number for each of a vector's numbers or of a series' channels.
PerNumber = Annotated[tuple[float, ...], Field(strict=False)]
PositivePerNumber = Annotated[tuple[PositiveFloat, ...], Field(strict=False)]


class VectorInput(Plain):
    """(width,) float32, (number - mean) / std within -clip..clip, 0 for a number that is unknown.

    width, mean, std: found in the training samples by preprocess.
    """

    width: Annotated[int, Field(ge=0)] = 0
    mean: PerNumber = ()
    std: PositivePerNumber = ()
    clip: PositiveFloat = 10.0


class NumberColumn(Plain):
    """A column of numbers: its name, and mean and standard deviation in training."""

    name: str
    mean: float = 0.0
    std: PositiveFloat = 1.0


class CategoryColumn(Plain):
    """A column of names: its own name, and the names in training, sorted."""

    name: str
    values: Annotated[tuple[str, ...], Field(strict=False)] = ()


class TableInput(Plain):
    """(2 * N + K,) float32 of a row with N columns of numbers and K of categories.

    First the numbers, (number - mean) / std within -clip..clip, 0 for an empty cell; then for each
    of them 1 where the cell is empty, else 0; then the number of each category: 0 for an empty
    cell, 1 for a name that is not in `values`, 2 for the first of them.

    numbers, categories: found in the training samples by preprocess.
    """

    numbers: Annotated[tuple[NumberColumn, ...], Field(strict=False)] = ()
    categories: Annotated[tuple[CategoryColumn, ...], Field(strict=False)] = ()
    clip: PositiveFloat = 10.0

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        numbers = [column.name for column in self.numbers]
        return (*numbers, *(column.name for column in self.categories))


class SeriesInput(Plain):
    """(channels, steps) float32, (sample - mean) / std within -clip..clip.

    Steps whose channels are all exactly 0 are padding at the end.

    channels, mean, std: found in the training samples by preprocess, and so are rate and steps
        where no settings say them.
    rate: Hz; a series of another known rate is resampled. null: no series is.
    steps: the length of the window.
    fit: what becomes of a series of another length: `pad`, its middle is taken or zeros follow it;
        `stretch`, it is resampled to the length of the window.
    """

    channels: Annotated[int, Field(ge=0)] = 0
    mean: PerNumber = ()
    std: PositivePerNumber = ()
    rate: PositiveFloat | None = None
    steps: Annotated[int, Field(ge=0)] = 0
    fit: Literal["pad", "stretch"] = "pad"
    clip: PositiveFloat = 10.0


InputSpec = (
    ImageInput
    | AudioInput
    | WaveInput
    | VideoInput
    | TextInput
    | VectorInput
    | TableInput
    | SeriesInput
)


# 4. Batch: the input of a model. ------------------------------------------------------------------


class Batch(NamedTuple):
    """The input of a model.

    inputs: {modality: (B, ...)}; an absent input is filled with the blank input.
    present: (B, M) bool. It is always on the CPU, as it decides which rows enter an encoder.
    target: (B,) classes, (B, C) sets of labels, or (B, T) numbers, standardized.
    sample_seeds: (B,) uint64 numbers that belong to the seed, the epoch and the sample. Training
        draws from them. None outside of training.
    weight: (B,) of the samples in the loss of a training; None where all count the same.
    """

    inputs: dict[str, Tensor]
    present: Tensor
    target: Tensor
    sample_seeds: np.ndarray | None = None
    weight: Tensor | None = None


# 5. ResultRow: one number of an evaluation. -------------------------------------------------------


class ResultRow(NamedTuple):
    """One metric in one setting, with everything needed to interpret it.

    model: "ensemble", "unimodal", "average" (of the logits of the uni-modal models), "prior" (the
        shares of the classes in training, whatever the sample) or "gap" (the ensemble minus the
        best uni-modal model of the modalities that remain).
    missing: the removed modalities, "" for none, "any" for the worst of all subsets, sample by
    sample.
    left: the modalities that remain.
    ratio: the missing ratio, the share of samples that lose them.
    draw: the number of a seeded draw, -1 for the expectation over all draws.
    value: with its 95 % interval low..high, which is NaN where none is computed.
    n: samples scored.
    refused: samples left out because no modality would have remained.
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


# Regression. --------------------------------------------------------------------------------------


class TargetScale(Plain):
    """The mean and the standard deviation of a target over the training samples.

    Models learn (target - mean) / std.
    """

    mean: float
    std: PositiveFloat


def list_outputs(classes: Sequence[str], task: str) -> list[str]:
    """Return what the numbers of a head are of: the classes or, in regression, 2T parameters.

    Those are first `a`, then `b` of every target (see evaluation/regression/gaussian.py).
    """
    if task != "regression":
        return list(classes)
    return [f"{name} {parameter}" for parameter in ("a", "b") for name in classes]


# Text for sets of modalities. ---------------------------------------------------------------------


def format_pattern(modalities: Iterable[str]) -> str:
    """Return the name of a set of modalities, sorted: "audio+image"."""
    return "+".join(sorted(modalities))


def parse_alternatives(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the sets of modalities of which a sample loses one, each equally likely.

    "audio" removes that modality, "audio+image" both, "audio|image" one of the two.
    """
    sets = set()
    for part in text.split("|"):
        names = {name.strip() for name in part.split("+")}
        sets.add(tuple(sorted(names)))
    return tuple(sorted(sets))

"""Vectors: numbers that were computed elsewhere, such as embeddings; float32 .npy in the shards.

NaN is a number that is unknown. Also how arrays are read from files, and what the training samples
say about them, for series too.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from umemma.errors import UserError
from umemma.modalities.limits import MAX_BYTES, Packed, read_file
from umemma.modalities.sampling import SampleDraws, Share, sample_normal, sample_uniform
from umemma.system.seeds import mix
from umemma.types import Media, Packing, Plain, VectorInput

if TYPE_CHECKING:
    import torch

SUFFIXES = ("npy",)
DIGITS = 9  # of a statistic: as many as tell two float32 apart
CONSTANT = 1e-7  # a standard deviation below this share of the mean is rounding
# How a .mat file calls the types of numbers.
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
MAT_NUMBERS = {"double", "single", "logical", *INTEGERS}
DELIMITERS = ",;\t "  # of a text of numbers
NUMBERS = "fiub"  # the kinds of numpy's types that are real numbers


# Packing and decoding. ----------------------------------------------------------------------------


def pack(media: Media, packing: Packing) -> Packed | None:
    """Encode (D,) numbers, an array, a list or a .npy or .npz file of them; None if all are NaN.

    Axes of length 1 do not count. Raises ValueError for numbers that are infinite in float32.
    """
    if isinstance(media, Path):
        media = read_file(media)
    array = read_npy(media) if isinstance(media, bytes) else to_array(media)
    if array.size == max(array.shape, default=1):
        array = array.reshape(-1)
    if array.ndim != 1:
        raise ValueError("not a vector: an array with several dimensions")
    numbers = to_float32(array)
    if np.isnan(numbers).all():
        return None
    return Packed("npy", write_npy(numbers))


def decode(data: bytes, spec: VectorInput) -> torch.Tensor:
    """Return (width,) float32, NaN where a number is unknown."""
    import torch

    numbers = read_npy(data)
    if numbers.shape != (spec.width,):
        raise ValueError(f"a vector of {numbers.size} numbers, not {spec.width}")
    return torch.from_numpy(numbers)


def make_blank(spec: VectorInput) -> torch.Tensor:
    """Return a vector of which nothing is known; the encoder sees the mean of the training."""
    import torch

    return torch.full((spec.width,), torch.nan)


def finish(x: torch.Tensor, spec: VectorInput) -> torch.Tensor:
    """Return (B, width) float32, standardised."""
    return standardise(x, x.new_tensor(spec.mean), x.new_tensor(spec.std), spec.clip)


def standardise(
    x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return (x - mean) / std within -clip..clip, 0 where x is NaN."""
    return ((x - mean) / std).clamp(-clip, clip).nan_to_num(0.0)


# Augmentation. ------------------------------------------------------------------------------------


class Augment(Plain):
    """The augmentation of a vector in training, in this order. The defaults change nothing.

    noise: normal noise on each number, in standard deviations of the training. dropout: the
    probability that a number becomes unknown.
    """

    noise: Annotated[float, Field(ge=0)] = 0.0
    dropout: Share = 0.0


def check(options: Augment, spec: VectorInput) -> None:
    """Accept every option."""


def draw(options: Augment, numbers: np.ndarray, spec: VectorInput) -> SampleDraws:
    """Draw noise, (B,) seeds, and dropout, (B, width) in [0, 1)."""
    drawn: SampleDraws = {}
    if options.noise:
        drawn["noise"] = mix(numbers, 0, "noise")
    if options.dropout:
        drawn["dropout"] = sample_uniform(numbers, "dropout", spec.width)
    return drawn


def augment(
    x: torch.Tensor,
    spec: VectorInput,
    options: Augment,
    drawn: SampleDraws,
) -> torch.Tensor:
    """Augment (B, width) float32."""
    import torch

    if "noise" in drawn:
        noise = sample_normal(drawn["noise"], x)
        x = x + options.noise * x.new_tensor(spec.std) * noise
    if "dropout" in drawn:
        is_dropped = torch.from_numpy(drawn["dropout"]).to(x.device) < options.dropout
        x = x.masked_fill(is_dropped, torch.nan)
    return x


# What the training samples say. -------------------------------------------------------------------


class Moments:
    """Mean and standard deviation of C numbers, sample by sample, in float64. NaN does not count.

    Reference: Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances, 1979.
    """

    def __init__(self, width: int) -> None:
        self.count = np.zeros(width)
        self.mean = np.zeros(width)
        self.squares = np.zeros(width)  # the sum of the squared distances from the mean

    def add(self, rows: np.ndarray) -> None:
        """Add (n, C) rows."""
        known = ~np.isnan(rows)
        count = known.sum(0)
        total = self.count + count
        of_known = np.maximum(count, 1)
        values = np.where(known, rows, 0).astype(np.float64)
        mean = values.sum(0) / of_known
        distances = np.where(known, values - mean, 0)
        difference = mean - self.mean
        share = count / np.maximum(total, 1)
        self.squares += (distances**2).sum(0) + difference**2 * self.count * share
        self.mean += difference * share
        self.count = total

    def describe(self) -> dict[str, list[float]]:
        """Return {"mean": C numbers, "std": C numbers}; a constant number has the std 1."""
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        std[std <= CONSTANT * np.abs(self.mean)] = 1.0
        return {"mean": _round(self.mean), "std": _round(std)}


def _round(numbers: np.ndarray) -> list[float]:
    return [float(f"{number:.{DIGITS}g}") for number in numbers]


class Survey:
    """What the training samples say about a vector, and whether all samples have one width.

    name: of the modality.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.first_key = ""
        self.moments = Moments(0)
        self.unknown = 0

    def add(self, key: str, split: str, data: bytes) -> None:
        """Add the tar member of a sample. UserError for one of another width than the first."""
        numbers = read_npy(data)
        if not self.first_key:
            self.first_key = key
            self.moments = Moments(len(numbers))
        width = len(self.moments.count)
        if len(numbers) != width:
            raise refuse_shape(
                self.name, key, f"{len(numbers)} numbers", self.first_key, f"{width}"
            )
        if split == "train":
            self.moments.add(numbers[None])
            self.unknown += int(np.isnan(numbers).any())

    def find(self) -> dict[str, Any]:
        """Return fields of the VectorInput."""
        return {"width": len(self.moments.count), **self.moments.describe()}

    def summarize(self) -> list[str]:
        """Return lines about what was found, for the log."""
        lines = [f"vectors of {len(self.moments.count)} numbers"]
        if self.unknown:
            lines.append(
                f"{self.unknown} training samples have unknown numbers, which count as the mean"
            )
        return lines


def refuse_shape(name: str, key: str, shape: str, other_key: str, other_shape: str) -> UserError:
    """Return the error about two samples whose shapes differ."""
    return UserError(
        f"sample {key!r} has {shape}, sample {other_key!r} has {other_shape}",
        name,
        "All samples of a modality need the same. Correct the one that is wrong, or leave its cell "
        "empty, and run: umemma preprocess",
    )


# Arrays from files. -------------------------------------------------------------------------------


def read_npy(data: bytes) -> np.ndarray:
    """Return the array of a .npy file, or the only one of a .npz file. Nothing is unpickled.

    Raises ValueError, a fixed phrase, for anything else.
    """
    array, _ = read_first_npy(data)
    return array


def read_first_npy(data: bytes) -> tuple[np.ndarray, bytes]:
    """Return the array at the start of a file, and the bytes behind it."""
    if data[:2] == b"PK":
        return read_first_npy(_read_only_member(data))
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header: Callable[[Any], Any] = np.lib.format.read_array_header_1_0
        if version > (1, 0):
            read_header = np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    except (ValueError, EOFError, SyntaxError, TypeError, RecursionError, tokenize.TokenError):
        raise ValueError("not a readable .npy file") from None
    if dtype.hasobject:
        raise ValueError("a .npy file of Python objects, which is never opened")
    if math.prod(shape) * dtype.itemsize > len(data) - file.tell():
        raise ValueError("a .npy file that is cut off")
    file.seek(0)
    array: np.ndarray = np.load(file, allow_pickle=False)
    return array, data[file.tell() :]


def _read_only_member(data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) != 1:
                raise ValueError("a .npz file has to hold one array")
            if members[0].file_size > MAX_BYTES:
                raise ValueError("file over the size bound")
            with archive.open(members[0]) as file:
                return file.read(MAX_BYTES)
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        RuntimeError,
        UnicodeDecodeError,  # of a name that says it is UTF-8
        zlib.error,
    ):
        raise ValueError("not a readable .npz file") from None


def write_npy(array: np.ndarray) -> bytes:
    """Return the bytes of a .npy file, always the same of the same array."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array, order="C"), (1, 0), allow_pickle=False)
    return file.getvalue()


def to_array(media: Any) -> np.ndarray:
    """Return numbers that a dataset or a user gives as an array; None in a list is NaN.

    Raises ValueError, a fixed phrase, for anything else.
    """
    if isinstance(media, np.ndarray):
        return media
    if not isinstance(media, (list, tuple)):
        raise ValueError("not numbers")
    try:
        return np.array(media, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise ValueError("not a list of numbers of one length") from None


def to_float32(array: np.ndarray) -> np.ndarray:
    """Return an array of numbers as float32. Raises ValueError for what is none, or infinite."""
    if array.dtype.kind not in NUMBERS:
        raise ValueError("not an array of real numbers")
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    if np.isinf(numbers).any():
        raise ValueError("a number that is infinite, or too large for float32")
    return numbers


def read_array(data: bytes) -> np.ndarray:
    """Return the array of a .npy, .npz or .mat file, or of a text. ValueError likewise."""
    if data.startswith((b"\x93NUMPY", b"PK")):
        return read_npy(data)
    if data.startswith(b"MATLAB"):
        return _read_mat(data)
    return _read_csv(data)


def _read_mat(data: bytes) -> np.ndarray:
    """Return the only array of numbers of a .mat file; cells, structures and objects stay shut."""
    from scipy.io import loadmat, whosmat

    if not data.startswith(b"MATLAB 5.0"):
        raise ValueError("a .mat file of version 7.3: save it with -v7")
    with _as_unreadable_mat():
        found = whosmat(io.BytesIO(data))
    names = [name for name, _, kind in found if kind in MAT_NUMBERS]
    shapes = {name: shape for name, shape, _ in found}
    if len(names) != 1:
        raise ValueError("a .mat file has to hold one array of numbers")
    if 8 * math.prod(shapes[names[0]]) > MAX_BYTES:
        raise ValueError("array over the size bound")
    with _as_unreadable_mat():
        array = loadmat(io.BytesIO(data), variable_names=names)[names[0]]
    assert isinstance(array, np.ndarray)
    return array


@contextlib.contextmanager
def _as_unreadable_mat() -> Iterator[None]:
    """Turn what scipy raises for a damaged file into a ValueError with a fixed phrase.

    A MemoryError too: scipy believes the sizes in a file, which itself has at most MAX_BYTES.
    """
    from scipy.io.matlab import MatReadError

    try:
        yield
    except (
        MatReadError,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        RuntimeError,
        MemoryError,
        zlib.error,
        struct.error,
    ):
        raise ValueError("not a readable .mat file") from None


def _read_csv(data: bytes) -> np.ndarray:
    """Return the numbers of a text of rows, with or without a line of names above them.

    An empty cell is NaN.
    """
    import pyarrow as pa
    from pyarrow import csv

    first, _, _ = data.partition(b"\n")
    try:
        line = first.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("not a file of numbers: neither .npy, .mat nor text") from None
    delimiter = next((sign for sign in DELIMITERS if sign in line), ",")
    try:
        table = csv.read_csv(
            io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")),
            csv.ReadOptions(
                use_threads=False,
                skip_rows=int(not _is_numbers(line.split(delimiter))),
                autogenerate_column_names=True,
            ),
            csv.ParseOptions(delimiter=delimiter),
        )
        columns = [column.cast(pa.float64()).to_numpy() for column in table.columns]
    except (pa.ArrowException, ValueError):
        raise ValueError("a text with a cell that is not a number") from None
    return np.column_stack(columns)


def _is_numbers(cells: list[str]) -> bool:
    try:
        for cell in cells:
            float(cell or "nan")
    except ValueError:
        return False
    return True


# Preparing a vector without umemma. ---------------------------------------------------------------


def make_recipe(spec: VectorInput, packing: Packing) -> dict[str, Any]:
    """Describe how a vector becomes the input without umemma."""
    steps = [
        "Take the numbers as float32. Where all of them are NaN, the vector is absent.",
        "(number - mean) / std for each of them.",
        f"Bring what is below -{spec.clip:g} or above {spec.clip:g} to these bounds.",
        "NaN, a number that is unknown, becomes 0.",
    ]
    return {"steps": steps}

"""Arrays of numbers from files: .npy, .npz, .mat and text. Nothing is unpickled."""

from __future__ import annotations

import contextlib
import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from umemma.modalities.limits import MAX_BYTES

# How a .mat file calls the types of numbers.
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
MAT_NUMBERS = {"double", "single", "logical", *INTEGERS}
DELIMITERS = ",;\t "  # of a text of numbers
NUMBERS = "fiub"  # the kinds of numpy's types that are real numbers


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

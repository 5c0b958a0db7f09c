"""What a column of a stranger's table looks like: paths of media, arrays, texts, numbers, names."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from umemma.datasets import _table
from umemma.datasets._manifest import number_cells
from umemma.datasets._table import Problem
from umemma.errors import UserError, unknown_name

SUFFIXES = {
    "audio": ".aac .aif .aiff .au .flac .m4a .mp3 .oga .ogg .opus .wav",
    "image": ".avif .bmp .gif .jp2 .jpeg .jpg .png .ppm .tif .tiff .webp",
    "video": ".avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ts .webm .wmv",
    "array": ".npy .npz",
}
KIND_OF = {suffix: kind for kind, text in SUFFIXES.items() for suffix in text.split()}
PROBED = 50  # cells whose files are looked for
MOST = 0.9  # of the cells have to be paths of one kind
WORDS = 4  # from this many on a cell is a text, even where few texts are different
FEW_NAMES = 20  # different words that make a column of names, or ...
ROWS_PER_NAME = 10  # ... one for every so many rows
LEAST_FILLED = 0.1
SAME_ORDER = 0.999  # rank correlation of a number that is another one in other units


class Column(NamedTuple):
    """name; cells: the text of each row, "" for none."""

    name: str
    cells: list[str]

    @property
    def filled(self) -> list[str]:
        """The cells that hold something."""
        return [cell for cell in self.cells if cell]

    @property
    def distinct(self) -> set[str]:
        """The different texts."""
        return set(self.filled)

    @property
    def numbers(self) -> list[float] | None:
        """The numbers of the filled cells, None where one is no finite number."""
        numbers = [number_cells.read_target(cell) for cell in self.filled]
        if not all(map(math.isfinite, numbers)):
            return None
        return numbers


class Guess(NamedTuple):
    """kind: of the modality that a column may be, "" for none; note: why it is none."""

    kind: str
    note: str = ""


def read_columns(path: Path) -> list[Column]:
    """Read all columns of a table as texts. A row that can't be read is left out.

    Raises UserError for what is no table, is empty or damaged.
    """
    if path.suffix.lower() not in _table.READERS:
        raise unknown_name("kind of table", path.suffix or path.name, _table.READERS, str(path))
    if not path.is_file():
        raise UserError("no such file", str(path), "Name a table that is there.", usage=True)
    rows = [row for _, row in _table.read_raw(path, list) if isinstance(row, dict)]
    names = dict.fromkeys(name for row in rows for name in row)
    if len(names) < 2:
        hint = "A table has a header, and columns with commas, semicolons or tabs between them."
        raise UserError("fewer than two columns can be read in it", str(path), hint)
    return [Column(name, [_read_cell(row.get(name)) for row in rows]) for name in names]


def _read_cell(cell: Any) -> str:
    try:
        return _table.list_text(cell) if isinstance(cell, list) else _table.cell_text(cell)
    except Problem:
        return ""


def guess_kind(column: Column, folder: Path) -> Guess:
    """Say which kind of modality a column may be. folder: that of the table."""
    filled = column.filled
    if len(filled) < LEAST_FILLED * len(column.cells):
        return Guess("", "nearly empty")
    if len(column.distinct) < 2:
        return Guess("", "the same in every row")
    kinds = [KIND_OF.get(Path(cell).suffix.lower(), "") for cell in filled]
    kind = max(set(kinds), key=kinds.count)
    if kind and kinds.count(kind) >= MOST * len(filled):
        return _look_for_files(filled, kind, folder)
    if all(map(number_cells.is_list, filled)):
        is_nested = filled[0][1:].lstrip().startswith("[")
        return Guess("series" if is_nested else "vector")
    if column.numbers is not None:
        if _counts_rows(column.numbers):
            return Guess("", "counts the rows")
        if split_name(column.name)[-1:] == ("id",):
            return Guess("", "a number that is a name")
        return Guess("table")
    return _guess_words(column)


def _guess_words(column: Column) -> Guess:
    filled, different = column.filled, len(column.distinct)
    words = sum(len(cell.split()) for cell in filled) / len(filled)
    if words >= WORDS or (words >= 2 and 2 * different > len(filled)):
        return Guess("text")
    if different <= max(FEW_NAMES, len(filled) / ROWS_PER_NAME) and 2 * different <= len(filled):
        return Guess("table")
    return Guess("", "a name of its own in most rows")


def _look_for_files(cells: Sequence[str], kind: str, folder: Path) -> Guess:
    probed = spread(cells, PROBED)
    there = [folder / cell for cell in probed if os.path.isfile(folder / cell)]
    if 2 * len(there) < len(probed):
        lost = next(cell for cell in probed if folder / cell not in there)
        return Guess("", f"its files are not there, such as {folder / lost}")
    if kind != "array":
        return Guess(kind)
    return _guess_array(there[0])


def _guess_array(file: Path) -> Guess:
    """Tell a vector from a series by the shape of one array. Nothing is unpickled."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            with array:
                array = array[array.files[0]]
    except (OSError, ValueError, EOFError, IndexError):
        return Guess("", f"no array of numbers: {file}")
    kind = {1: "vector", 2: "series"}.get(array.ndim, "")
    return Guess(kind, "" if kind else f"arrays of {array.ndim} dimensions")


def _counts_rows(numbers: Sequence[float]) -> bool:
    steps = np.diff(numbers)
    return len(numbers) > 2 and bool((steps == 1).all())


def spread(items: Sequence[str], count: int) -> list[str]:
    """Return at most `count` items, from the first to the last."""
    step = max(1, math.ceil(len(items) / count))
    return list(items[::step])


def tells_label(column: Column, label: Column, task: str) -> bool:
    """Return whether a column says the label in other words, so that a model would copy it.

    Numbers do where they rise and fall with the label, names where each goes with one label alone.
    """
    pairs = [pair for pair in zip(column.cells, label.cells, strict=True) if all(pair)]
    if task == "regression":
        return _have_same_order(pairs)
    different = {cell for cell, _ in pairs}
    return 2 * len(different) <= len(pairs) and len(set(pairs)) == len(different)


def _have_same_order(pairs: Sequence[tuple[str, str]]) -> bool:
    """Return whether the two numbers of the pairs rise together, or one as the other falls."""
    from scipy.stats import spearmanr

    numbers = np.array([[number_cells.read_target(cell) for cell in pair] for pair in pairs])
    if not np.isfinite(numbers).all() or not np.ptp(numbers, 0).all():
        return False
    return bool(abs(spearmanr(numbers).statistic) > SAME_ORDER)


@functools.cache
def split_name(name: str) -> tuple[str, ...]:
    """Return the words of a column's name in small letters: ("speaker", "id") of "Speaker_ID"."""
    return tuple("".join(c if c.isalnum() else " " for c in name.lower()).split())

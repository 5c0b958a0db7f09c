"""Cells of a manifest's row that hold numbers: vectors, series, rows of a table, and targets.

A vector or a series is a file, a list in one cell (in CSV as JSON, "[1.5, 2]"), or one column per
number or channel. An empty cell of several is NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from umemma.datasets._table import Problem, Row
from umemma.errors import UserError
from umemma.types import Cell, Media, Series

ARRAYS = ("series", "vector")  # kinds whose cell may be a path or a list
KINDS = (*ARRAYS, "table")
MISSING_TARGET = "a target is missing"
NOT_A_NUMBER = "a target is not a finite number"
TARGET_ROLE = "targets"  # of the cells: "targets/0", "targets/1", ...
# Numbers as classes: from this many on they look like a measured quantity, if ...
MANY_NUMBERS = 20
# ... there is a fraction among them, or one for every so many rows.
ROWS_PER_NUMBER = 3


def is_list(cell: str) -> bool:
    """Whether a cell holds numbers, not the path of a file."""
    return cell.startswith("[")


def name_role(name: str, place: int) -> str:
    """What the column of a modality at this place is for; 0 is the list in its only column."""
    return f"{name}/{place}"


def move_lists(cells: dict[str, str], names: Sequence[str]) -> None:
    """Move a list in the only column of a modality to its own role, in place: it is no path."""
    for name in names:
        if is_list(cells.get(name, "")):
            cells[name_role(name, 0)] = cells.pop(name)


def name_rate_role(name: str) -> str:
    """What the column with the sampling rate of a series is for."""
    return f"rates/{name}"


def make_medium(
    name: str,
    kind: str,
    columns: Sequence[str],
    cells: Mapping[str, str],
    names: Collection[str] = (),
    rate: float | None = None,
) -> Media | None:
    """What a modality's cells of numbers are, None where all of these are empty.

    cells: those of a Row; names: the columns of a table whose numbers are names; rate: Hz, of a
    series. Problem for what is no number.
    """
    parts: dict[int, str] = {}
    for place in range(len(columns) + 1):
        role = name_role(name, place)
        if role in cells:
            parts[place] = cells[role]
    if is_list(cells.get(name, "")):
        parts[0] = cells[name]
    if not parts:
        return None
    if kind == "table":
        return make_row(columns, parts, names)
    if kind == "series":
        return make_series(columns, parts, rate)
    return make_vector(columns, parts)


def make_vector(columns: Sequence[str], cells: Mapping[int, str]) -> np.ndarray:
    """(D,) numbers. cells: {place: text}, 0 of a list in one cell, else those that aren't empty.

    Problem for what is no number.
    """
    if 0 in cells:
        return _parse_list(cells[0], columns[0])
    return np.array([_parse_number(cells.get(i), column) for i, column in _number(columns)])


def make_series(
    columns: Sequence[str],
    cells: Mapping[int, str],
    rate: float | None,
) -> Series:
    """(T, C) numbers of one list, or of one list per channel. Problem as `make_vector`."""
    if 0 in cells:
        return Series(_parse_list(cells[0], columns[0]), rate)
    channels = []
    for i, column in _number(columns):
        if i in cells:
            channel = _parse_list(cells[i], column)
            if channel.ndim != 1:
                raise Problem(f"column {column!r} is not a list of numbers")
            channels.append(channel)
        else:
            channels.append(np.empty(0))
    lengths = {len(channel) for channel in channels} - {0}
    if len(lengths) > 1:
        raise Problem("channels of different lengths")
    missing = np.full(max(lengths, default=0), np.nan)
    samples = [channel if len(channel) else missing for channel in channels]
    return Series(np.column_stack(samples), rate)


def make_row(
    columns: Sequence[str],
    cells: Mapping[int, str],
    names: Collection[str],
) -> dict[str, Cell]:
    """{column: its text, or the number that it is}.

    names: the columns whose numbers are names.
    """
    row: dict[str, Cell] = {}
    for i, column in _number(columns):
        text = cells.get(i)
        row[column] = text
        if text is not None and column not in names:
            number = _try_number(text)
            if number is not None:
                row[column] = number
    return row


def _number(columns: Sequence[str]) -> list[tuple[int, str]]:
    return list(enumerate(columns, 1))


def find_rate(
    name: str,
    cells: Mapping[str, str],
    rates: Mapping[str, float | str],
) -> float | None:
    """Hz, None where neither the options nor the row say it.

    rates: {series: Hz, or its column}. Problem for what is no positive number.
    """
    rate = rates.get(name)
    if not isinstance(rate, str):
        return rate
    text = cells.get(name_rate_role(name))
    if text is None:
        return None
    number = _try_number(text)
    if number is None or not 0 < number < math.inf:
        raise Problem("sampling rate unreadable")
    return number


def _parse_list(text: str, column: str) -> np.ndarray:
    try:
        values: Any = json.loads(text)
        numbers: np.ndarray = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise Problem(f"column {column!r} is not a list of numbers") from None
    return numbers


def _parse_number(text: str | None, column: str) -> float:
    if text is None:
        return math.nan
    number = _try_number(text)
    if number is None:
        raise Problem(f"column {column!r} is not a number")
    return number


def _try_number(text: str) -> float | None:
    """The number that a text is, infinite ones included; None for another text."""
    try:
        number = float(text)
    except ValueError:
        return None
    if "_" in text or math.isnan(number):
        return None
    return number


# Targets of a regression. -------------------------------------------------------------------------


def name_target_roles(columns: Sequence[str]) -> dict[str, str]:
    """Return {role: column} of the targets."""
    return {f"{TARGET_ROLE}/{i}": column for i, column in enumerate(columns)}


def parse_targets(row: Row, count: int) -> tuple[float, ...]:
    """Return the numbers of a row. Problem where one is missing or not a finite number."""
    if row.problem:
        raise Problem(row.problem)
    numbers = []
    for i in range(count):
        cell = row.cells.get(f"{TARGET_ROLE}/{i}")
        if cell is None:
            raise Problem(MISSING_TARGET)
        number = read_target(cell)
        if not math.isfinite(number):
            raise Problem(NOT_A_NUMBER)
        numbers.append(number)
    return tuple(numbers)


def read_target(cell: str) -> float:
    """Return a number, NaN for other text. Python's 1_000 is other text."""
    if "_" in cell:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return math.nan


def look_measured(labels: Collection[str], rows: int) -> bool:
    """Return whether the different labels of a table are numbers that are hardly classes."""
    if len(labels) < MANY_NUMBERS:
        return False
    numbers = [read_target(label) for label in labels]
    if not all(math.isfinite(number) for number in numbers):
        return False
    has_fraction = any(not number.is_integer() for number in numbers)
    return has_fraction or ROWS_PER_NUMBER * len(numbers) > rows


def refuse_numbers_as_classes(labels: Collection[str], rows: int, where: str) -> None:
    """UserError where the labels of a table are so many numbers that they are hardly classes."""
    if look_measured(labels, rows):
        raise UserError(
            f"the label column holds {len(labels)} different numbers in {rows} rows",
            where,
            "To predict the number: --set preprocess.options.task=regression. If the numbers are "
            "the names of classes, list them in preprocess.options.classes.",
        )

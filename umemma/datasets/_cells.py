"""Cells of a manifest's row that hold numbers: vectors, series and rows of a table.

A vector or a series is a file, a list in one cell (in CSV as JSON, "[1.5, 2]"), or one column per
number or channel. An empty cell of several is NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from umemma.datasets._table import Problem
from umemma.types import Cell, Media, Series

ARRAYS = ("series", "vector")  # kinds whose cell may be a path or a list
KINDS = (*ARRAYS, "table")


def is_list(cell: str) -> bool:
    """Whether a cell holds numbers, not the path of a file."""
    return cell.startswith("[")


def name_role(name: str, place: int) -> str:
    """What the column of a modality at this place is for; 0 is the list in its only column."""
    return f"{name}/{place}"


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


def parse_rate(text: str) -> float:
    """Hz. Problem for what is no positive number."""
    rate = _try_number(text)
    if rate is None or not 0 < rate < math.inf:
        raise Problem("sampling rate unreadable")
    return rate


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

"""The tables of `manifest`: rows of CSV, TSV (RFC 4180 quotes), Parquet and JSON lines as text
cells.

In UTF-8, a byte order mark or not. Cells are taken without the white space around them; all formats
give the same rows. The text of a CSV cell is what is written there. In JSON and Parquet a whole
number is 1, be it stored as 1, 1.0 or 1.00, true and false are these words, dates and times are ISO
8601 (2024-01-02T12:30:00), bytes are UTF-8.

A quote that isn't closed makes its physical line an unreadable row, and the lines after it are read
as if it weren't there. A CSV row may span MOST_LINES. A .csv whose header has no comma is
separated by its semicolons or tabs.
"""

from __future__ import annotations

import csv
import datetime
import functools
import json
import posixpath
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from umemma.errors import UserError, unknown_name
from umemma.system.seeds import derive

OTHER_DELIMITERS = ";\t"  # of a .csv; spreadsheets write the first where the comma is decimal
NOT_UTF8 = "unreadable row: not UTF-8"
NOT_PLAIN = "unreadable row: a cell is neither text nor number"
EMBEDDED = (
    "a cell holds a file itself (bytes and path, as Hugging Face stores them): write the files "
    "out first, see docs/own-data.md"
)
QUOTES = "unreadable row: quotes don't match or a cell is too long"
CELLS = "unreadable row: wrong number of cells"
LONG_TEXT = "unreadable row: a text of more than a mebibyte"
MOST_LINES = 1000
MOST_CHARACTERS = 2**26  # of a physical line; a longer one is read as several
BATCH = 256  # rows of Parquet at once: a text of MOST_BYTES may stand in each
MOST_BYTES = 2**20  # of a text in Parquet, which may name it once and mean it in every row

# A reader gives a row as {column: cell}, or the phrase that says why it is unreadable. It passes
# the names of the table's columns to the function, which gives those that are needed.
Columns = Callable[[Collection[str]], list[str]]
Reader = Callable[[Path, Columns], Iterator["dict[str, Any] | str"]]


class Problem(Exception):
    """Why a row can't be used, as a fixed phrase."""


class Row(NamedTuple):
    """number: from 1; cells: {what it is for: text}, without empty ones; problem: why it is
    unreadable.
    """

    number: int
    cells: dict[str, str]
    labels: list[str]
    problem: str

    @property
    def key(self) -> str:
        name = self.cells.get("key", f"row-{self.number:06d}")
        clean = re.sub(r"[^A-Za-z0-9_-]", "-", name)
        if clean == name:
            return clean
        return f"{clean}-{derive(0, 'manifest', 'key', name) % 2**32:08x}"

    def group(self, files: Sequence[str]) -> str:
        """The (first) group cell, else the first of `files`, since rows that share one are not
        independent; "" for neither.
        """
        paths = (posixpath.normpath(self.cells[name]) for name in files if name in self.cells)
        return self.cells.get("group") or next(paths, "")


def rows(
    path: Path,
    roles: Mapping[str, str],
    modalities: Collection[str],
    separator: str,
    lists: Collection[str] = (),
) -> Iterator[Row]:
    """The rows of a table in their order.

    roles: {"label", "key", a modality, ...: its column}; "group", "group/2", ... are columns of one
    option, and so are "specs/1", "specs/2" of a modality. lists: the columns whose cells may be
    lists of numbers, which become JSON.

    UserError where the table is damaged, has no rows, or lacks a column or has it twice.
    """

    def needed(header: Collection[str]) -> list[str]:
        for role, column in roles.items():
            if column not in header:
                option = role.partition("/")[0]
                if option in modalities:
                    option = f"columns.{option}"
                where = f"preprocess.options.{option}"
                raise unknown_name("column", column, header, where)
            if list(header).count(column) > 1:
                raise UserError(
                    f"column {column!r} stands there twice", str(path), "Rename one of them."
                )
        return sorted(set(roles.values()))

    for number, found in read_raw(path, needed):
        if isinstance(found, str):
            yield Row(number, {}, [], found)
        else:
            yield _row(number, found, roles, separator, lists)


def read_raw(path: Path, columns: Columns) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The number of each row, from 1, and what its reader gives.

    UserError where the table is damaged or has no rows.
    """
    number = 0
    try:
        for number, found in enumerate(READERS[path.suffix.lower()](path, columns), 1):
            yield number, found
    except (OSError, pa.ArrowException) as error:  # a damaged Parquet file raises either
        reason = str(
            error.strerror if isinstance(error, OSError) and error.strerror else error
        ).splitlines()[0]
        raise UserError(
            f"can't be read: {reason}", str(path), "Write the file anew, or let it be read."
        ) from None
    if not number:
        raise UserError("no rows in it", str(path), "A row is a sample.")


def _row(
    number: int,
    found: dict[str, Any],
    roles: Mapping[str, str],
    separator: str,
    lists: Collection[str],
) -> Row:
    try:
        texts = {}
        for role, column in roles.items():
            cell = found.get(column)
            if isinstance(cell, list) and column in lists:
                texts[role] = list_text(cell)
            elif role != "label":
                texts[role] = cell_text(cell)
        label = found.get(roles.get("label", ""))
        if isinstance(label, list):
            parts = label
        else:
            parts = cell_text(label).split(separator)
        labels = list(dict.fromkeys(map(cell_text, parts)))
    except Problem as problem:
        return Row(number, {}, [], str(problem))
    cells = {role: text for role, text in texts.items() if text}
    return Row(number, cells, [label for label in labels if label], "")


def list_text(cells: list[Any]) -> str:
    try:
        return json.dumps(cells, separators=(",", ":"))
    except (TypeError, ValueError):
        raise Problem(NOT_PLAIN) from None


def cell_text(cell: Any) -> str:
    if (
        cell is None or cell != cell
    ):  # NaN, which is what "nothing" looks like in a column of numbers
        return ""
    if isinstance(cell, bool):
        cell = str(cell).lower()
    elif isinstance(cell, (float, Decimal)) and -(2**53) < cell < 2**53 and cell == int(cell):
        cell = int(cell)
    elif isinstance(cell, Decimal):
        cell = f"{cell.normalize():f}"
    elif isinstance(cell, (datetime.date, datetime.time)):  # a datetime is a date
        cell = cell.isoformat()
    elif isinstance(cell, bytes):
        cell = cell.decode(errors="surrogateescape")
    if isinstance(cell, dict) and "bytes" in cell:
        raise Problem(EMBEDDED)
    if not isinstance(cell, (str, int, float)):
        raise Problem(NOT_PLAIN)
    text = str(cell).strip()
    try:
        text.encode()
    except (
        UnicodeEncodeError
    ):  # bytes that "surrogateescape" let through, or half a pair in a JSON escape
        raise Problem(NOT_UTF8) from None
    return text


# The formats. -------------------------------------------------------------------------------------


def _read_lines(file: TextIO) -> Iterator[str]:
    return iter(functools.partial(file.readline, MOST_CHARACTERS), "")


def _csv(path: Path, columns: Columns, delimiter: str = ",") -> Iterator[dict[str, Any] | str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        found = _cells(_read_lines(file), delimiter)
        header = next(found, [])
        if len(header) == 1 and isinstance(header, list):
            # One column can't be a table, so other programs' delimiters are tried.
            other = next((mark for mark in OTHER_DELIMITERS if mark in header[0]), delimiter)
            file.seek(0)
            found = _cells(_read_lines(file), other)
            header = next(found, [])
        try:
            "".join(header).encode()
        except UnicodeEncodeError:
            header = NOT_UTF8
        if isinstance(header, str):
            raise UserError("header line unreadable", str(path), "Save the table as UTF-8.")
        if not header:
            return
        names = [name.strip() for name in header]
        places = {name: names.index(name) for name in columns(names)}
        for cells in found:
            yield (
                cells
                if isinstance(cells, str)
                else {name: cells[place] for name, place in places.items()}
            )


def _cells(file: Iterator[str], delimiter: str) -> Iterator[list[str] | str]:
    """The header, which is the first line that isn't empty; then each row as cells or as why it is
    unreadable.
    """
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    width = 0
    while True:
        again = lines.start()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            problem = QUOTES
        else:
            if not cells or not (width or any(map(str.strip, cells))):  # an empty line is no row
                continue
            width = width or len(cells)
            problem = ""
            if len(cells) != width:
                problem = CELLS
            if again and not problem and sum(line.count('"') for line in lines.row) % 2:
                problem = QUOTES  # the end of a broken cell: read by itself it might pass for a row
        if problem:
            lines.back()
        yield problem or cells


class _Lines:
    """The physical lines of a file.

    Those of the row under way, but its first, can be given back and come again.
    """

    def __init__(self, file: Iterator[str]) -> None:
        self.file = file
        self.row: list[str] = []
        self.ahead: deque[str] = deque()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.row) == MOST_LINES:
            # csv.reader takes it for the end of the file, and can still be continued.
            raise StopIteration
        if self.ahead:
            line = self.ahead.popleft()
        else:
            line = next(self.file)
        self.row.append(line)
        return line

    def start(self) -> bool:
        """Begin a row. True if its lines come again."""
        self.row.clear()
        return bool(self.ahead)

    def back(self) -> None:
        self.ahead.extendleft(reversed(self.row[1:]))


def _jsonl(path: Path, columns: Columns) -> Iterator[dict[str, Any] | str]:
    keys: set[str] = set()
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for line in _read_lines(file):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                keys.update(row)
                yield row
            else:
                yield "unreadable row: not a JSON object"
    if keys:  # only now: a row may leave out what it lacks
        columns(keys)


def _parquet(path: Path, columns: Columns) -> Iterator[dict[str, Any] | str]:
    # Without a buffer, whole columns of a row group would be read ahead.
    with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        names = columns(file.schema_arrow.names)
        schema = pa.schema([file.schema_arrow.field(name) for name in names])
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        # A dictionary holds a text once, and the rows name it: gigabytes in a file of kilobytes.
        with pq.ParquetFile(path, read_dictionary=texts) as compact:
            for group in range(file.num_row_groups):
                if _has_long_texts(compact, group, names):
                    table = compact.read_row_group(group, columns=names).select(names)
                    for batch in table.to_batches():
                        yield from _short_rows(batch, schema)
                    continue
                for batch in file.iter_batches(BATCH, row_groups=[group], columns=names):
                    yield from _dicts(batch)


def _has_long_texts(compact: pq.ParquetFile, group: int, names: Sequence[str]) -> bool:
    """Return whether a row group has a text of more than MOST_BYTES in these columns."""
    row_group = compact.metadata.row_group(group)
    leaves = [row_group.column(i) for i in range(row_group.num_columns)]
    large = []  # the others can't hold one
    for leaf in leaves:
        if leaf.physical_type == "BYTE_ARRAY" and leaf.total_uncompressed_size > MOST_BYTES:
            large.append(f"{leaf.path_in_schema}.")
    for name in names:
        if not any(path.startswith(f"{name}.") for path in large):
            continue
        column = compact.read_row_group(group, columns=[name]).column(0)
        if any(_measure_texts(part).max(initial=0) > MOST_BYTES for part in column.chunks):
            return True
    return False


def _short_rows(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch whose texts are dictionaries; one by one, and without too long texts."""
    lengths = np.stack([_measure_texts(column) for column in batch.columns]).max(0)
    for n, length in enumerate(lengths):
        yield from [LONG_TEXT] if length > MOST_BYTES else _dicts(batch.slice(n, 1).cast(schema))


def _measure_texts(column: pa.Array) -> np.ndarray:
    """Return (N,), the bytes of the longest text in each cell; in a list, of all the lists."""
    if isinstance(column, pa.DictionaryArray):
        lengths = pc.binary_length(column.dictionary).take(column.indices)
        return np.asarray(pc.fill_null(lengths, 0))
    parts: list[pa.Array] = []
    if isinstance(column, pa.StructArray):
        parts = column.flatten()
    elif hasattr(column, "values") and isinstance(column.values, pa.Array):
        parts = [column.values]
    longest = max((_measure_texts(part).max(initial=0) for part in parts), default=0)
    return np.full(len(column), longest)


def _dicts(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    """The rows of a batch; where one can't be turned into Python's values, they are tried one by
    one.
    """
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:  # a date after the year 9999 overflows
        if len(batch) == 1:
            return [NOT_UTF8 if isinstance(error, UnicodeDecodeError) else NOT_PLAIN]
        return [row for n in range(len(batch)) for row in _dicts(batch.slice(n, 1))]


READERS: dict[str, Reader] = {
    ".csv": _csv,
    ".tsv": functools.partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}

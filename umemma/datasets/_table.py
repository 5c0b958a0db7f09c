"""The tables of `manifest`: rows of CSV, TSV (RFC 4180 quotes), Parquet and JSON lines as text cells.

In UTF-8, a byte order mark or not. Cells are taken without the white space around them; all formats give the same rows.
"""

from __future__ import annotations

import csv
import functools
import json
import posixpath
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from umemma.errors import UserError, unknown
from umemma.seeds import derive

NOT_UTF8 = "unreadable row: not UTF-8"
NOT_PLAIN = "unreadable row: a cell is neither text nor number"

# A reader gives a row as {column: cell}, or the phrase that says why it is unreadable. It passes the names of the
# table's columns to the function, which gives those that are needed.
Columns = Callable[[Collection[str]], list[str]]
Reader = Callable[[Path, Columns], Iterator["dict[str, Any] | str"]]


class Problem(Exception):
    """Why a row can't be used, as a fixed phrase."""


class Row(NamedTuple):
    """number: from 1; cells: {what it is for: text}, without empty ones; problem: why it is unreadable."""

    number: int
    cells: dict[str, str]
    labels: list[str]
    problem: str

    @property
    def key(self) -> str:
        name = self.cells.get("key", f"row-{self.number:06d}")
        clean = re.sub(r"[^A-Za-z0-9_-]", "-", name)
        return clean if clean == name else f"{clean}-{derive(0, 'manifest', 'key', name) % 2**32:08x}"

    def group(self, files: Sequence[str]) -> str:
        """The group cell, else the first of `files`, since rows that share one are not independent; "" for neither."""
        paths = (posixpath.normpath(self.cells[name]) for name in files if name in self.cells)
        return self.cells.get("group") or next(paths, "")


def rows(path: Path, roles: Mapping[str, str], modalities: Collection[str], separator: str) -> Iterator[Row]:
    """The rows of a table in their order. roles: {"label", "key", a modality, ...: its column}.

    UserError where the table is damaged, has no rows, or lacks a column or has it twice.
    """

    def needed(header: Collection[str]) -> list[str]:
        for role, column in roles.items():
            if column not in header:
                where = f"preprocess.options.{'columns.' if role in modalities else ''}{role}"
                raise unknown("column", column, header, where)
            if list(header).count(column) > 1:
                raise UserError(f"column {column!r} stands there twice", str(path), "Rename one of them.")
        return sorted(set(roles.values()))

    number = 0
    try:
        for number, found in enumerate(READERS[path.suffix.lower()](path, needed), 1):
            if isinstance(found, str):
                yield Row(number, {}, [], found)
            else:
                yield _row(number, found, roles, separator)
    except (OSError, pa.ArrowException) as error:  # a damaged Parquet file raises either
        reason = str(error.strerror if isinstance(error, OSError) and error.strerror else error).splitlines()[0]
        raise UserError(f"can't be read: {reason}", str(path), "Write the file anew, or let it be read.") from None
    if not number:
        raise UserError("no rows in it", str(path), "A row is a sample.")


def _row(number: int, found: dict[str, Any], roles: Mapping[str, str], separator: str) -> Row:
    try:
        texts = {role: _text(found.get(column)) for role, column in roles.items() if role != "label"}
        label = found.get(roles["label"])
        parts = label if isinstance(label, list) else _text(label).split(separator)
        labels = list(dict.fromkeys(map(_text, parts)))
    except Problem as problem:
        return Row(number, {}, [], str(problem))
    cells = {role: text for role, text in texts.items() if text}
    return Row(number, cells, [label for label in labels if label], "")


def _text(cell: Any) -> str:
    if cell is None or cell != cell:  # NaN, which is what "nothing" looks like in a column of numbers
        return ""
    if not isinstance(cell, (str, int, float)):
        raise Problem(NOT_PLAIN)
    text = str(cell).strip()
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that "surrogateescape" let through, or half a pair in a JSON escape
        raise Problem(NOT_UTF8) from None
    return text


# The formats. ---------------------------------------------------------------------------------------------------------


def _csv(path: Path, columns: Columns, delimiter: str = ",") -> Iterator[dict[str, Any] | str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(lines, [])]
            "".join(header).encode()
        except (csv.Error, UnicodeEncodeError):
            raise UserError("header line unreadable", str(path), "Save the table as UTF-8.") from None
        if not header:
            return
        places = {name: header.index(name) for name in columns(header)}
        while True:
            try:
                cells = next(lines)
            except StopIteration:
                return
            except csv.Error:
                yield "unreadable row: quotes don't match or a cell is too long"
                continue
            if len(cells) == len(header):
                yield {name: cells[place] for name, place in places.items()}
            elif cells:  # an empty line is no row
                yield "unreadable row: wrong number of cells"


def _jsonl(path: Path, columns: Columns) -> Iterator[dict[str, Any] | str]:
    keys: set[str] = set()
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for line in file:
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
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096, columns=columns(file.schema_arrow.names)):
            yield from _dicts(batch)


def _dicts(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    """The rows of a batch; where one can't be turned into Python's values, they are tried one by one."""
    try:
        return batch.to_pylist()
    except ValueError as error:
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

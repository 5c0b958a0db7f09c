"""The rows of Parquet files as the library `datasets` writes them.

A medium is a struct {bytes, path}. The names of classes stand in the metadata of the schema, and
cells hold their numbers.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from umemma.data.conversion.media_writer import Budget, MediaWriter
from umemma.datasets import _table
from umemma.errors import UserError

MOST_ROWS = 256  # read at a time, and fewer where media are large:
MEMORY = 2**27  # bytes; a row is never larger than its row group says
LONGEST_PATH = 4096  # bytes


def find_media_columns(path: Path) -> list[str]:
    """Return the columns that hold files. Raises UserError for what is no Parquet file."""
    return [field.name for field in _read_schema(path) if _is_medium(field.type)]


def read_rows(
    path: Path, media: MediaWriter, budget: Budget, left_out: Counter[str]
) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of a file, or why one is unreadable; its media are written.

    left_out: counts columns that are not read, by the reason. Raises UserError for a damaged or
    hostile file.
    """
    schema = _read_schema(path)
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise UserError(f"column {name!r} stands there twice", str(path), "Rename one of them.")
    files = find_media_columns(path)
    nested = [f.name for f in schema if f.name not in files and _holds_bytes(f.type)]
    left_out.update(f"column {name!r}, as files in lists are not read" for name in nested)
    plain = [name for name in schema.names if name not in files and name not in nested]
    classes = _read_class_names(schema)
    rows = _table.read_raw(path, lambda header: plain)
    if not files:
        yield from (_name_classes(row, classes) for _, row in rows)
        return
    for (_, row), cells in zip(rows, _read_media(path, files, budget), strict=True):
        if isinstance(row, dict):
            for name, cell in cells.items():
                row[name] = _write_cell(name, cell, media, budget)
        yield _name_classes(row, classes)


# Media. -------------------------------------------------------------------------------------------


def _read_media(
    path: Path, columns: list[str], budget: Budget
) -> Iterator[dict[str, pa.StructScalar]]:
    """Yield the cells of the columns that hold files, without taking them apart."""
    with _refuse_damage(path), pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            size = _measure(file.metadata.row_group(number), columns)
            if size > budget.bound:
                raise UserError(
                    f"hostile: it unpacks to more than {budget.bound:,} bytes", str(path)
                )
            rows = max(1, min(MOST_ROWS, MEMORY // max(size, 1)))
            for batch in file.iter_batches(rows, row_groups=[number], columns=columns):
                arrays = {name: batch.column(name) for name in columns}
                for place in range(len(batch)):
                    yield {name: array[place] for name, array in arrays.items()}


def _measure(group: pq.RowGroupMetaData, columns: Collection[str]) -> int:
    """Return the bytes of these columns in a row group, unpacked."""
    leaves = [group.column(number) for number in range(group.num_columns)]
    return sum(
        leaf.total_uncompressed_size
        for leaf in leaves
        if leaf.path_in_schema.rpartition(".")[0] in columns
    )


def _write_cell(name: str, cell: pa.StructScalar, media: MediaWriter, budget: Budget) -> str | None:
    """Return the path of the file that a cell holds.

    A cell without bytes that names a path names a file elsewhere, and stays as it is.
    """
    if not cell.is_valid:
        return None
    path = ""
    if "path" in cell and cell["path"].is_valid:
        buffer = cell["path"].as_buffer()
        if buffer.size <= LONGEST_PATH:
            path = buffer.to_pybytes().decode(errors="surrogateescape")
    if not cell["bytes"].is_valid:
        return path or None
    content = cell["bytes"].as_buffer()
    budget.spend(content.size)
    return media.write(name, pa.BufferReader(content), path)


# The schema. --------------------------------------------------------------------------------------


def _read_schema(path: Path) -> pa.Schema:
    with _refuse_damage(path), pq.ParquetFile(path) as file:
        return file.schema_arrow


@contextlib.contextmanager
def _refuse_damage(path: Path) -> Iterator[None]:
    """Raise UserError where reading a file inside the block finds it damaged."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:  # a damaged file raises either
        reason = str(error).splitlines()[0]
        raise UserError(f"can't be read: {reason}", str(path), "Download it again.") from None


def _is_medium(kind: pa.DataType) -> bool:
    """Return whether a column is a struct {bytes, path}."""
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    return _is_binary(kind.field("bytes").type) or pa.types.is_null(kind.field("bytes").type)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes below its surface, such as a list of files."""
    parts = [kind.field(number).type for number in range(kind.num_fields)]
    return any(_is_binary(part) or _holds_bytes(part) for part in parts)


def _read_class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return {column: the names of its classes}."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        features = dict(about["info"]["features"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    names = {column: _find_names(feature) for column, feature in features.items()}
    return {column: found for column, found in names.items() if found}


def _find_names(feature: Any) -> list[str]:
    """Return the names of a ClassLabel, or of a list of them."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    elif isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return []
    return names


def _name_classes(row: dict[str, Any] | str, classes: dict[str, list[str]]) -> dict[str, Any] | str:
    """Put the names of classes in place of their numbers; no name for -1, which means unknown."""
    if isinstance(row, str):
        return row
    for column, names in classes.items():
        cell = row.get(column)
        if isinstance(cell, list):
            row[column] = [_find_name(number, names) for number in cell]
        elif cell is not None:
            row[column] = _find_name(cell, names)
    return row


def _find_name(number: Any, names: list[str]) -> str | None:
    if isinstance(number, int) and 0 <= number < len(names):
        return names[number]
    return None

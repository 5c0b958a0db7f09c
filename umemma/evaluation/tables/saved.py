"""A Parquet file of columns, written and read in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma.evaluation.tables.mapped import STORED, count_rows, make_table, release
from umemma.system.files import new_file
from umemma.validation import fingerprint

# {name: N texts, or (N,) or (N, C) numbers}
Columns: TypeAlias = dict[str, list[str] | np.ndarray]


def write_columns(
    path: Path, blocks: Iterable[Columns], rows: int, metadata: Mapping[str, str]
) -> None:
    """Write consecutive blocks of `rows` rows, each as a row group."""
    with new_file(path) as aside:
        writer = None
        try:
            for block in blocks:
                table = pa.table({name: _make_column(values) for name, values in block.items()})
                if writer is None:
                    footer_hash = _hash_footer(table.schema, rows, metadata)
                    schema = table.schema.with_metadata({**metadata, "footer_hash": footer_hash})
                    writer = pq.ParquetWriter(aside, schema, write_page_checksum=True)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


def read_columns(path: Path, made_by: str) -> tuple[Columns, dict[str, str]] | None:
    """Return the columns and the metadata of a file; large tables are mapped, beside it.

    None where there is none, where it is damaged, and where others than `made_by` made it.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            metadata = _decode(schema.metadata or {})
            footer_hash = metadata.pop("footer_hash", "")
            is_whole = footer_hash == _hash_footer(schema, rows, metadata)
            if not is_whole or metadata["made_by"] != made_by:
                return None
            return _read_blocks(file, path.parent), metadata
    except (OSError, ValueError, pa.ArrowException):  # altered: pages have checksums
        return None


def _read_blocks(file: pq.ParquetFile, folder: Path) -> Columns:
    """Return the columns. ValueError where there are fewer or more rows than the footer says."""
    schema, rows = file.schema_arrow, file.metadata.num_rows
    columns: Columns = {field.name: _make_empty(field.type, rows, folder) for field in schema}
    widest = max(values.shape[-1] for values in columns.values() if isinstance(values, np.ndarray))
    first = 0
    for batch in file.iter_batches(count_rows(widest, STORED)):
        last = first + len(batch)
        for name, values in columns.items():
            column = batch.column(name)
            if isinstance(values, list):
                values += column.to_pylist()
            else:
                if values.ndim > 1:
                    column = column.flatten()
                values[first:last] = column.to_numpy().reshape(-1, *values.shape[1:])
                release(values)
        first = last
    if first != rows:
        raise ValueError("rows are missing")
    return columns


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file; {} where there is none, or nothing that can be read."""
    try:
        return _decode(pq.read_schema(path).metadata or {})
    except (OSError, ValueError, pa.ArrowException):
        return {}


def _decode(metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in metadata.items()}


def _hash_footer(schema: pa.Schema, rows: int, metadata: Mapping[str, str]) -> str:
    """Return the hash of what no checksum of a page covers: names, types and the metadata."""
    columns = []
    for column in schema:
        kind = str(column.type).replace("element:", "item:")  # as Parquet calls it
        columns.append(f"{column.name} {kind}")
    return fingerprint({"columns": columns, "rows": rows, "metadata": dict(metadata)})


def _make_column(values: list[str] | np.ndarray) -> pa.Array:
    if isinstance(values, list) or values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _make_empty(kind: pa.DataType, rows: int, folder: Path) -> list[str] | np.ndarray:
    """Return what the rows of a column of this type are read into."""
    if pa.types.is_string(kind):
        return []
    if pa.types.is_fixed_size_list(kind):
        return make_table((rows, kind.list_size), folder, kind.value_type.to_pandas_dtype())
    return np.empty(rows, kind.to_pandas_dtype())

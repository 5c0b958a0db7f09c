"""A table of new samples, and its columns of modalities -> samples as predict_many takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from umemma.datasets import _table
from umemma.datasets._table import Row
from umemma.errors import UserError, unknown_name
from umemma.models.predict_inputs import Failure

KEY = "key"


@dataclass(frozen=True)
class TableSamples:
    """The rows of a table. Each process that iterates over them reads the table by itself.

    columns: {modality or "key": column}. texts: the modalities whose cells are the texts
    themselves; the cells of the others are paths.
    """

    path: Path
    columns: Mapping[str, str]
    texts: Collection[str]

    def rows(self) -> Iterator[Row]:
        # `_table.rows` requires a label column. Prediction ignores it, so any column will do.
        label = next(iter(self.columns.values()))
        return _table.rows(self.path, {"label": label, **self.columns}, (), "|")

    def __iter__(self) -> Iterator[Mapping[str, Any] | Failure]:
        for row in self.rows():
            if row.problem:
                yield Failure(row.problem)
                continue
            sample: dict[str, str | Path] = {}
            for m in self.columns:
                if m != KEY and m in row.cells:
                    sample[m] = self._parse_cell(m, row.cells[m])
            yield sample

    def _parse_cell(self, modality: str, cell: str) -> str | Path:
        if modality in self.texts:
            return cell
        return self.path.parent / cell


def open_table(
    path: Path,
    columns: Sequence[str],
    text_files: bool,
    kinds: Mapping[str, str],
) -> TableSamples:
    """Find the columns of a model's modalities in a table.

    columns: "image=COLUMN"; without any, the columns that are named like the modalities. kinds:
    {modality: its kind}. text_files: whether the cells of texts are paths too. UserError
    for a column that the table lacks, and where no column is one of the modalities.
    """
    header = _read_header(path)
    modalities = sorted(kinds)
    roles: dict[str, str] = {}
    if columns:
        for column in columns:
            modality, name = _parse_column(column, header, modalities)
            roles[modality] = name
    else:
        # Where the header can't be read, reading the rows gives the error.
        roles = {m: m for m in modalities if m in header or not header}
    if not roles:
        what = f"no column is named {' or '.join(modalities)}"
        names = ", ".join(header)
        hint = f"The table has {names}. Name the column: --columns {modalities[0]}=COLUMN."
        raise UserError(what, f"--manifest {path}", hint, usage=True)
    if KEY in header:
        roles[KEY] = KEY
    texts = [m for m in modalities if kinds[m] == "text" and not text_files]
    return TableSamples(path, roles, texts)


def _parse_column(text: str, header: Sequence[str], modalities: Sequence[str]) -> tuple[str, str]:
    modality, equals, column = text.partition("=")
    if not equals:
        hint = "Write it as --columns image=COLUMN."
        raise UserError(f"can't read {text!r}", "--columns", hint, usage=True)
    if modality not in modalities:
        raise unknown_name("modality", modality, modalities, "--columns")
    if header and column not in header:
        raise unknown_name("column", column, header, f"--columns {modality}")
    return modality, column


def _read_header(path: Path) -> list[str]:
    """Return the names of the columns; none where the table can't be read."""
    header: list[str] = []

    def note_header(names: Collection[str]) -> list[str]:
        header.extend(names)
        return list(names)

    read = _table.READERS[path.suffix.lower()]
    with contextlib.suppress(OSError, pa.ArrowException):
        for _ in read(path, note_header):
            # The columns of JSON lines are known only at the end, since a row may omit some.
            if header:
                break
    return header


def estimate_rows(path: Path) -> int:
    """Return about how many rows a table has, for the progress bar: of a text, its lines."""
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_metadata(path).num_rows
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except (OSError, pa.ArrowException):  # reading the rows gives the error
        return 0

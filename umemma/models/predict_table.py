"""A table of new samples, and its columns of modalities -> samples as predict_many takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from umemma.datasets import _table
from umemma.datasets._manifest import number_cells
from umemma.datasets._table import Problem, Row
from umemma.errors import UserError, unknown_name
from umemma.models.predict_inputs import NUMERIC, Failure
from umemma.system.cores import count_cores
from umemma.types import InputSpec, Series, TableInput, Unreadable

KEY = "key"
RATE = ".rate"  # behind the name of a series: --columns accel.rate=hz
# From this number of rows on, decoding in several processes is faster: one takes seconds to start.
MIN_ROWS_FOR_WORKERS = 1_000
MIN_ROWS_OF_NUMBERS = 10_000  # which take little to decode
NO_SPECS: Mapping[str, InputSpec] = {}


@dataclass(frozen=True)
class TableSamples:
    """The rows of a table. Each process that iterates over them reads the table by itself.

    columns: {modality or "key": its columns}, several only of modalities that hold numbers. kinds:
    {modality: its kind}. names: the columns of tables that hold names, whatever they look like.
    text_files: whether the cells of texts are paths, as those of other media are. rates: {series:
    the column of its sampling rate}.
    """

    path: Path
    columns: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, str]
    names: Collection[str] = ()
    text_files: bool = False
    rates: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> Iterator[Row]:
        roles: dict[str, str] = {}
        lists: set[str] = set()
        for m, columns in self.columns.items():
            kind = self.kinds.get(m, KEY)
            if kind == "table" or len(columns) > 1:
                roles |= {number_cells.name_role(m, i): name for i, name in enumerate(columns, 1)}
            else:
                roles[m] = columns[0]
            if kind in number_cells.ARRAYS:
                lists.update(columns)
        for m, column in self.rates.items():
            roles[number_cells.name_rate_role(m)] = column
        return _table.rows(self.path, roles, (), "|", lists)

    def __iter__(self) -> Iterator[Mapping[str, Any] | Failure]:
        for row in self.rows():
            if row.problem:
                yield Failure(row.problem)
                continue
            sample: dict[str, Any] = {}
            for m in self.columns:
                if m != KEY:
                    sample[m] = self._make_medium(m, row)
            yield sample

    def _make_medium(self, modality: str, row: Row) -> Any:
        """Return the medium in the cells of a modality, None where they are empty."""
        kind = self.kinds[modality]
        rate = None
        if kind in number_cells.KINDS:
            columns = self.columns[modality]
            try:
                rate = number_cells.find_rate(modality, row.cells, self.rates)
                numbers = number_cells.make_medium(
                    modality, kind, columns, row.cells, self.names, rate
                )
            except Problem as problem:
                return Unreadable(str(problem))
            if numbers is not None:
                return numbers
        cell = row.cells.get(modality)
        if cell is None or (kind == "text" and not self.text_files):
            return cell
        path = self.path.parent / cell
        if kind == "series" and modality in self.rates:
            return Series(path, rate)
        return path


def open_table(
    path: Path,
    columns: Sequence[str],
    text_files: bool,
    kinds: Mapping[str, str],
    specs: Mapping[str, InputSpec] = NO_SPECS,
) -> TableSamples:
    """Find the columns of a model's modalities in a table.

    columns: "image=COLUMN", several of one modality if it holds numbers, "key=COLUMN", and of a
    series "accel.rate=COLUMN" with its sampling rates in Hz; without any of a modality, the columns
    that are named like the modalities, and those of the rows that the model was trained on. kinds:
    {modality: its kind}. specs: {modality: its input}. text_files: whether the cells of texts are
    paths too. UserError for a column that the table lacks, and where no column is one of the
    modalities.
    """
    header = _read_header(path)
    modalities = sorted(kinds)
    tables = {m: spec for m, spec in specs.items() if isinstance(spec, TableInput)}
    roles: dict[str, tuple[str, ...]] = {}
    rates: dict[str, str] = {}
    rated = [f"{m}{RATE}" for m in modalities if kinds[m] == "series"]
    for column in columns:
        modality, name = _parse_column(column, header, [*modalities, KEY, *rated])
        if modality in rated:
            rates[modality.removesuffix(RATE)] = name
            continue
        roles[modality] = (*roles.get(modality, ()), name)
        if len(roles[modality]) > 1 and kinds.get(modality) not in number_cells.KINDS:
            raise UserError(f"{modality} has one column", "--columns", usage=True)
    for m in modalities if not roles.keys() - {KEY} else ():
        # Where the header can't be read, reading the rows gives the error.
        wanted = tables[m].columns if m in tables else (m,)
        found = tuple(name for name in wanted if name in header or not header)
        if found:
            roles[m] = found
    if not roles.keys() - {KEY}:
        what = f"no column is named {' or '.join(modalities)}"
        names = ", ".join(header)
        hint = f"The table has {names}. Name the column: --columns {modalities[0]}=COLUMN."
        raise UserError(what, f"--manifest {path}", hint, usage=True)
    if KEY in header:
        roles.setdefault(KEY, (KEY,))
    columns_of_names = {column.name for spec in tables.values() for column in spec.categories}
    return TableSamples(path, roles, kinds, columns_of_names, text_files, rates)


def list_columns(path: Path, options: Mapping[str, Any], kinds: Mapping[str, str]) -> list[str]:
    """Return the columns of a table that the settings name, as `open_table` takes them.

    A column that is named like a modality comes first. options: preprocess.options of the dataset
    manifest; kinds: {modality: its kind}.
    """
    header = _read_header(path)
    found: list[str] = []
    named = options.get("columns", {})
    for m in kinds:
        wanted = named.get(m, [])
        if isinstance(wanted, str):
            wanted = [wanted]
        if m in header and kinds[m] != "table":
            wanted = [m]
        found.extend(f"{m}={name}" for name in wanted if name in header)
    if not found:
        return []
    if options.get("key") in header:
        found.append(f"{KEY}={options['key']}")
    for m, rate in options.get("rates", {}).items():
        if kinds.get(m) == "series" and rate in header:
            found.append(f"{m}{RATE}={rate}")
    return found


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


def choose_workers(rows: int, kinds: Mapping[str, str]) -> int:
    """Return how many processes decode a table. kinds: {modality: its kind}."""
    cores = count_cores()
    fewest = MIN_ROWS_FOR_WORKERS
    if set(kinds.values()) <= set(NUMERIC):
        fewest = MIN_ROWS_OF_NUMBERS
    if rows < fewest or cores == 1:
        return 0
    return cores

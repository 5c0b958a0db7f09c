"""The table of `manifest`: its rows, their labels, and the split or fold of each.

Rows wait for their turn in the mixed order in a temporary file, as a table may be larger than
memory.
"""

from __future__ import annotations

import array
import functools
import json
import os
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from umemma.datasets import _table
from umemma.datasets._manifest import folds, number_cells
from umemma.datasets._manifest.folds import FoldGroup, FoldPlan
from umemma.datasets._manifest.options import SPLITS, Options
from umemma.datasets._table import Problem, Row
from umemma.errors import UserError
from umemma.system.seeds import uniform

WEIGHT = "weight/"  # the role of a column; no modality has such a name
FOLD = "folds/cell"  # the role of the column of the folds
ORDER = tuple(dict.fromkeys(SPLITS.values()))  # train, val, test
MANY = "a list of labels in a single-label task"
STEPS = """\
Run: umemma download manifest --from FOLDER, where FOLDER holds the table and the media that it
names:
  FOLDER/{table}
  FOLDER/<the paths in the table>
or put the same into the raw folder, data/raw/<name>/. The option root leaves the media where they
are."""


class _StoredRows:
    """Rows in a temporary file without a name, of which memory holds 8 bytes each."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self.file.close)
        self.ends = array.array("Q", [0])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: int) -> Row:
        start, end = self.ends[number], self.ends[number + 1]
        return Row(*json.loads(os.pread(self.file.fileno(), end - start, start)))

    def store(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows, each once it is stored. All are there once the last has been taken."""
        for row in rows:
            line = json.dumps(row).encode()
            self.file.write(line)
            self.ends.append(self.ends[-1] + len(line))
            yield row
        self.file.flush()


class Table:
    """The rows of a table, with what can be said only once all of them are known.

    classes: the names of its labels or targets; splits: those that have rows, or one for each fold.
    Raises UserError as `read_rows`, where no row has a label, and for folds that can't be made.
    """

    def __init__(self, folder: Path, options: Options) -> None:
        self.options = options
        self.rows = _StoredRows()
        labels: set[str] = set()
        marks: set[str] = set()
        unlabelled: Counter[str] = Counter()
        for row in self.rows.store(read_rows(folder, options)):
            marks.add(row.cells.get("split", ""))
            problem = _find_label_problem(row, options)
            if not problem:
                labels |= set(options.target_columns or row.labels)
            if not labels:
                unlabelled[problem] += 1
        if not labels and not options.classes:
            hint = "The option label names the column that holds them."
            (problem, count), *_ = unlabelled.most_common(1)
            what = f"no label in any row ({count} of {len(self.rows)}: {problem})"
            raise UserError(what, str(folder / options.table), hint)
        if options.chosen_task == "multiclass" and not options.classes:
            where = str(folder / options.table)
            number_cells.refuse_numbers_as_classes(labels, len(self.rows), where)
        self.classes = options.classes or options.target_columns or tuple(sorted(labels))
        self.marked = {_mark(mark) for mark in marks} - {""}
        self.folds = self._plan_folds()
        self.unplaced = "unknown split"
        if self.folds.folds:
            self.unplaced = "no fold"
            self.splits = tuple(fold.split for fold in self.folds.folds)
            return
        self.homes: dict[str, str] = {}  # the side of a group of which only some rows are marked
        if self.marked and "" in marks:
            for row in self:
                group = row.group(options.files)
                mark = _mark(row.cells.get("split", ""))
                if group and mark:
                    self.homes.setdefault(group, mark)
        used = {self.split(row) for row in self if not row.problem}
        self.splits = tuple(name for name in ORDER if name in used) or ("train",)

    def _plan_folds(self) -> FoldPlan:
        """Return the folds, none without the option. Raises UserError where they can't be made."""
        options = self.options.folds
        if options is None:
            return FoldPlan((), {})
        groups: dict[str, FoldGroup] = {}
        for row in self:
            if row.problem:
                continue
            group = groups.setdefault(self._name_group(row), FoldGroup())
            if self.options.target_columns:
                if not _find_label_problem(row, self.options):
                    group.add(())
            elif row.labels and set(row.labels) <= set(self.classes):
                group.add(row.labels)
            cell = row.cells.get(FOLD, "")
            if cell and options.column:
                cell = folds.check_number(cell, row.number, options.column)
            if cell:
                group.cells.setdefault(cell, row.number)
        return folds.plan_folds(groups, options)

    def _name_group(self, row: Row) -> str:
        """Return the group whose rows stay together, or the key of the row."""
        return row.group(self.options.files) or row.key

    def __iter__(self) -> Iterator[Row]:
        return (self.rows[n] for n in range(len(self.rows)))

    def mix(self) -> Iterator[Row]:
        """Yield the rows in the order of the hashes of their keys."""
        hashes = (uniform(0, "order", row.key) for row in self)
        order = np.argsort(np.fromiter(hashes, float, len(self.rows)), kind="stable")
        return (self.rows[n] for n in order)

    def split(self, row: Row) -> str:
        """Return train, val, test or a fold; "" where the row names another split or no fold."""
        if self.folds.folds:
            fold = self.folds.fold_of.get(self._name_group(row))
            if fold is None:
                return ""
            return fold.split
        group, shares = row.group(self.options.files), self.options.shares
        if "split" in row.cells:
            mark = _mark(row.cells["split"])
        else:
            mark = self.homes.get(group, "any")
        bound = {"any": 1.0, "train": shares.train + shares.val}.get(mark)
        if bound is None or (mark == "train" and "val" in self.marked):
            return mark
        where = bound * uniform(0, "manifest", "split", group or row.key)
        if where < shares.train:
            return "train"
        if where < shares.train + shares.val:
            return "val"
        return "test"


def _find_label_problem(row: Row, options: Options) -> str:
    """Return why a row has no label, "" for one that has."""
    if options.target_columns:
        try:
            number_cells.parse_targets(row, len(options.target_columns))
        except Problem as problem:
            return str(problem)
        return ""
    if not row.labels:
        return row.problem or "no label"
    if len(row.labels) > 1 and options.chosen_task == "multiclass":
        return MANY
    return ""


def read_table(folder: Path, options: Options) -> Table:
    """Return the table. It is read once for all calls, and anew when its file changes."""
    path = folder / options.table
    if not path.is_file():
        return Table(folder, options)  # which says what is missing
    file = path.stat()
    version = (file.st_size, file.st_mtime_ns, file.st_ino)
    return _read_version(folder, options.model_dump_json(), version)


@functools.lru_cache(maxsize=1)
def _read_version(folder: Path, options: str, version: tuple[int, int, int]) -> Table:
    return Table(folder, Options.model_validate_json(options))


def _mark(cell: str) -> str:
    return SPLITS.get(cell.lower(), "")


def read_rows(folder: Path, options: Options) -> Iterator[Row]:
    """Yield the rows in their order.

    Raises UserError where the table is missing or damaged, has no rows or lacks a column.
    """
    path = folder / options.table
    if not options.columns:
        raise UserError(
            "names no column",
            "preprocess.options.columns",
            "Name one: {image: COLUMN}.",
            usage=True,
        )
    if not path.is_file():
        raise UserError("no such file", str(path), STEPS.format(table=options.table))
    roles = number_cells.name_target_roles(options.target_columns)
    if options.targets:
        roles["label"] = options.targets[0]  # a table has to have one
    else:
        roles["label"] = options.label
    roles |= options.roles
    for name in ("key", "split", "start", "end"):
        column = getattr(options, name)
        if column:
            roles[name] = column
    if options.weight:
        roles[WEIGHT] = options.weight
    roles |= options.groupings
    if options.folds and options.split:
        raise UserError(
            "folds can't be had together with a column of splits",
            "preprocess.options.folds",
            "Set either folds or split to null.",
            usage=True,
        )
    if options.folds and options.folds.named:
        roles[FOLD] = options.folds.named
    arrays = options.arrays
    for row in _table.rows(path, roles, options.columns, options.separator, options.lists):
        number_cells.move_lists(row.cells, arrays)
        yield row

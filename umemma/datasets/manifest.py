"""`manifest`: your own table as a dataset.

A row is a sample; a column per modality holds a path or a text.

    file,caption,label,group
    clips/a.mp4,two dogs,dog,farm
    clips/b.mp4,,cat,

The table is .csv, .tsv (RFC 4180 quotes), .parquet, .jsonl or .ndjson, in UTF-8, a byte order mark
or not. An empty cell is an absent modality. Cells are taken without the white space around them;
all three formats give the same records, where whole numbers of JSON and Parquet count as 1 (not
1.0), their booleans as true and false, dates as ISO 8601 text. A quote that isn't closed in a CSV
costs its own line, not those after it.

Paths are relative to the table, in data/raw/manifest/; with `root` the media stay where they are.
Samples of one group stay on one side when splits are drawn; where no group is given, rows that name
the same file are a group. With several columns for `group` (scene and speaker, say) splits are
drawn by the first: those of the others may stand on both sides, which `umemma doctor` tells.
Splits: a row is on the side that its split cell names. An empty cell takes the side of its group's
other rows; where there are none, a hash of the group draws it in `shares`. If no row is marked val,
those marked train are drawn into train and val in the ratio of these two shares, again by group;
test stays as it is. With `folds` the splits are folds, see _manifest/folds.py.

A row that can't be used becomes a Record with a problem. A path that leads elsewhere and an event
whose times make no sense are media that can't be read. Rows wait for their turn in the mixed order
in a temporary file.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from umemma.datasets._manifest import number_cells
from umemma.datasets._manifest.options import Options
from umemma.datasets._manifest.table import MANY, STEPS, WEIGHT, read_rows, read_table
from umemma.datasets._table import Problem, Row
from umemma.errors import UserError
from umemma.types import Clip, DatasetSpec, Media, Record, Series, Source, Unreadable

USABLE = "The paths of a table are relative to it, or to the folder preprocess.options.root."
SPEC = DatasetSpec(
    name="manifest",
    summary="your own table: CSV, Parquet or JSON lines, a column per modality",
    modalities=("audio", "image", "series", "table", "text", "vector", "video"),
    classes=(),
    licence="your own",
    citation="your own",
)
ADDRESS = re.compile(r"(?i)[a-z][a-z0-9+.-]*://")


# The interface of a dataset. ----------------------------------------------------------------------


def sources(folder: Path, options: Options) -> Iterator[Source]:
    """The table, and then the media it names, unless they stay in a `root`."""
    steps = STEPS.format(table=options.table)
    yield Source(options.table, steps=steps)
    if options.root is None and options.files:
        named: dict[str, str] = {}
        unusable: dict[str, str] = {}  # {why a cell can't be used: the first such cell}
        for row in read_rows(folder, options):
            for name in options.files:
                cell = row.cells.get(name, "")
                path = _relative(cell)
                if ADDRESS.match(cell) or cell.startswith("/"):
                    unusable.setdefault(_describe_outside(cell, options), cell)
                elif name in row.cells and path:
                    named[path] = path
        if unusable and not named:
            (reason, cell), *_ = unusable.items()
            where = str(folder / options.table)
            raise UserError(f"no medium can be taken: {cell!r}: {reason}", where, USABLE)
        if named:
            yield Source("media", unpack=named.get, files=len(named), media=True, steps=steps)


def spec(folder: Path, options: Options) -> DatasetSpec:
    """Modalities, classes, task and splits of this table. UserError as `records`."""
    table = read_table(folder, options)
    return dataclasses.replace(
        SPEC,
        modalities=tuple(sorted(options.columns)),
        kinds={m: options.kind(m) for m in sorted(options.columns) if options.kind(m) != m},
        classes=table.classes,
        splits=table.splits,
        folds=table.folds.folds,
        task=options.chosen_task,
    )


def records(folder: Path, options: Options) -> Iterator[Record]:
    """A Record per row, in the order of their keys' hashes.

    UserError for a table without rows, labels or columns.
    """
    table = read_table(folder, options)
    place = functools.partial(_place, folder=folder, root=_root(options))
    numbers = {name: number for number, name in enumerate(table.classes)}
    for row in table.mix():
        split, group = table.split(row), _group(row, options)
        side = split
        if split not in table.splits:
            side = table.splits[0]  # a failure has to stand somewhere
        try:
            media = _media(row, place, options)
            label = _label(row, numbers, options)
            if not split:
                raise Problem(table.unplaced)
            weight = _weight(row.cells, options)
            yield Record(row.key, side, label, media, group, weight=weight)
        except Problem as problem:
            yield Record(row.key, side, None, {}, group, problem=str(problem))


# A row. -------------------------------------------------------------------------------------------


def _group(row: Row, options: Options) -> str | dict[str, str]:
    """As a Record has it: by the columns' names where there is a list of them."""
    first = row.group(options.files)
    if not isinstance(options.group, tuple):
        return first
    return {
        column: row.cells.get(role, first if role == "group" else "")
        for role, column in options.groupings.items()
    }


def _media(row: Row, place: Callable[[str], Path | None], options: Options) -> dict[str, Media]:
    if row.problem:
        raise Problem(row.problem)
    media: dict[str, Media] = {}
    for name in sorted(options.columns):
        try:
            if name in row.cells and name not in options.files:
                media[name] = row.cells[name]
            elif name in row.cells:
                media[name] = _file(name, row.cells, place, options)
            elif options.kind(name) in number_cells.KINDS:
                numbers = _numbers(name, row.cells, options)
                if numbers is not None:
                    media[name] = numbers
        except Problem as problem:
            media[name] = Unreadable(str(problem))
    if not media:
        raise Problem("no modality at all")
    return media


def _numbers(name: str, cells: dict[str, str], options: Options) -> Media | None:
    """The numbers that the cells of a modality hold, None where all of these are empty."""
    columns = options.list_columns(name)
    rate = number_cells.find_rate(name, cells, options.rates)
    kind = options.kind(name)
    return number_cells.make_medium(name, kind, columns, cells, options.categories, rate)


def _file(
    name: str,
    cells: dict[str, str],
    place: Callable[[str], Path | None],
    options: Options,
) -> Path | Clip | Series:
    """The file of a modality, or the event in it.

    Problem for a path outside, and for times that make no sense.
    """
    path = place(cells[name])
    if path is None:
        raise Problem(_describe_outside(cells[name], options))
    kind = options.kind(name)
    if kind in ("audio", "video"):
        return Clip(path, *_times(cells))
    if kind == "series":
        return Series(path, number_cells.find_rate(name, cells, options.rates))
    return path


def _times(cells: dict[str, str]) -> tuple[float, float | None]:
    """start and end in s."""
    try:
        start, end = float(cells.get("start", 0)), float(cells.get("end", "inf"))
    except ValueError:
        raise Problem("event times unreadable") from None
    if not 0 <= start < math.inf or not end >= 0 or (end == math.inf and "end" in cells):
        raise Problem("event times unreadable")
    if end <= start:
        raise Problem("zero-length event")
    return start, end if "end" in cells else None


def _label(
    row: Row, numbers: dict[str, int], options: Options
) -> int | tuple[int, ...] | tuple[float, ...]:
    if options.target_columns:
        return number_cells.parse_targets(row, len(options.target_columns))
    labels = row.labels
    is_set = options.chosen_task == "multilabel"
    if not labels:
        raise Problem("no label")
    if len(labels) > 1 and not is_set:
        raise Problem(MANY)
    if not all(label in numbers for label in labels):
        raise Problem("unknown label")
    found = tuple(sorted(numbers[label] for label in labels))
    if is_set:
        return found
    return found[0]


def _weight(cells: dict[str, str], options: Options) -> float | None:
    if options.weight is None:
        return None
    try:
        weight = float(cells[WEIGHT])
    except (KeyError, ValueError):
        raise Problem("no weight, or one that is no number") from None
    if not 0 <= weight < math.inf:
        raise Problem("a weight below 0, or one that is not finite")
    return weight


def _root(options: Options) -> str | None:
    """The real path of `root`. UserError where it is no folder."""
    if options.root is None:
        return None
    if not os.path.isdir(options.root):
        raise UserError(
            "no such folder",
            "preprocess.options.root",
            f"{options.root!r} has to be one.",
            usage=True,
        )
    return os.path.realpath(options.root)


def _relative(cell: str) -> str | None:
    """A path without needless parts; None for one that is absolute or climbs."""
    wrong = cell.startswith("/") or ".." in cell.split("/") or "\0" in cell
    if wrong:
        return None
    return posixpath.normpath(cell)


def _describe_outside(cell: str, options: Options) -> str:
    """Return why the path of a cell can't be used, as a fixed phrase."""
    if options.root is None and ADDRESS.match(cell):
        return "a web address: download the file, and name it by its path"
    if options.root is None and cell.startswith("/"):
        return "absolute path: preprocess.options.root has to name a folder above it"
    return "path outside of root"


def _place(cell: str, folder: Path, root: str | None) -> Path | None:
    """Where the file of a cell is; None where that is outside of the raw folder, or of `root` once
    links are followed.
    """
    if root is None:
        path = _relative(cell)
        if path is None or ADDRESS.match(cell):
            return None
        return folder / path
    if "\0" in cell:
        return None
    real = os.path.realpath(os.path.join(root, cell))
    if real.startswith(os.path.join(root, "")):
        return Path(real)
    return None

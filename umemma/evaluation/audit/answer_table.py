"""The file of a table of answers: its columns as text and numbers, checked one by one.

A row is the answer to one sample under one subset of the modalities; docs/audit.md lists the
columns. `alignment` makes Predictions of them. R is the number of rows. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from umemma.errors import UserError
from umemma.system.files import check_regular

KEY, SUBSET, TARGET, PRESENT, GROUP = "key", "subset", "target", "present", "group"
FORMAT = "docs/audit.md says which columns a table of answers has."
# {list column: the beginning of the columns that have one number each}
NUMBERS = {"probabilities": "probability_", "logits": "logit_"}
TARGETS = "target_"  # the beginning of the columns of a set of labels
SHOWN = 300  # characters of a reader's reason
INTEGER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class AnswerTable:
    """The columns of a table.

    path: where errors are; keys, subsets: (R,) text; targets: (R,) text, or (R, C) of 0 and 1 for
    sets of labels; numbers: (R, C) float64, NaN where a cell is empty; are_logits: whether they are
    logits, not probabilities; classes: C names; present: (R,) text, None without that column;
    groups: {grouping: (R,) text}.
    """

    path: str
    keys: np.ndarray
    subsets: np.ndarray
    targets: np.ndarray
    numbers: np.ndarray
    are_logits: bool
    classes: list[str]
    present: np.ndarray | None
    groups: dict[str, np.ndarray]


def read_answers(path: Path, classes: Sequence[str] = ()) -> AnswerTable:
    """Read a .parquet, .csv or .jsonl file.

    classes: their names in the order of the numbers; () = those of the columns, or 0, 1, 2 and so
    on. UserError for a file or a column that is missing or can't be read.
    """
    return take_columns(read_table(path, FORMAT), str(path), classes)


def take_columns(table: pa.Table, path: str, classes: Sequence[str] = ()) -> AnswerTable:
    """Return the columns of a table in memory. path: what errors call it."""
    for name in (KEY, SUBSET):
        if name not in table.column_names:
            raise UserError(f"no column {name!r}", path, FORMAT)
    if not len(table):
        raise UserError("no rows", path, FORMAT)
    numbers, are_logits, names = _take_numbers(table, path)
    if classes and len(classes) != numbers.shape[1]:
        problem = f"{len(classes)} classes are named, but a row has {numbers.shape[1]} numbers"
        raise UserError(problem, path, "Name each class once, in the order of the numbers.")
    if classes and names and set(classes) != set(names):
        raise UserError("the columns are of other classes", path, f"Known: {', '.join(names)}.")
    if classes and names:
        numbers = numbers[:, [names.index(name) for name in classes]]
    names = list(classes) or names or [str(number) for number in range(numbers.shape[1])]
    if len(set(names)) < len(names):
        raise UserError("a class is named twice", path, "Name each class once.")
    present = None
    if PRESENT in table.column_names:
        present = _take_text(table, PRESENT, path)
    groups = {}
    for name in table.column_names:
        if name == GROUP or name.startswith(f"{GROUP}_"):
            groups[name.removeprefix(f"{GROUP}_")] = _take_text(table, name, path)
    return AnswerTable(
        path,
        _take_text(table, KEY, path),
        _take_text(table, SUBSET, path),
        _take_targets(table, names, path),
        numbers,
        are_logits,
        names,
        present,
        groups,
    )


def read_table(path: Path, hint: str) -> pa.Table:
    """Read a .parquet, .csv or .jsonl file; in a .csv the columns named above are text.

    hint: what a UserError says to do.
    """
    if path.suffix not in (".parquet", ".csv", ".jsonl"):
        raise UserError("not .parquet, .csv or .jsonl", str(path), hint, usage=True)
    if not path.is_file():
        raise UserError("no such file", str(path), hint, usage=True)
    check_regular(path)
    try:
        table = _read_file(path)
        table.validate(full=True)  # its texts are UTF-8
        names = table.column_names  # so are these
    except (pa.ArrowException, ValueError) as error:
        reason = " ".join(str(error).split())[:SHOWN]
        raise UserError(f"not readable as {path.suffix}: {reason}", str(path), hint) from None
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"the column {twice[0]!r} is there twice", str(path), hint)
    return table


def _read_file(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.ParquetFile(path).read()
    if path.suffix == ".jsonl":
        return pyarrow.json.read_json(path)
    as_text = dict.fromkeys((KEY, SUBSET, TARGET, PRESENT, GROUP), pa.string())
    options = pyarrow.csv.ConvertOptions(column_types=as_text)
    return pyarrow.csv.read_csv(path, convert_options=options)


def _take_text(table: pa.Table, name: str, path: str) -> np.ndarray:
    """Return (R,) text. A number that is whole is written without a point."""
    column = table[name].combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    empty = np.flatnonzero(pc.is_null(column).to_numpy(zero_copy_only=False))
    if len(empty):
        raise UserError(f"row {empty[0] + 1} has no {name}", path, FORMAT)
    if pa.types.is_boolean(column.type):
        return np.array([str(value) for value in column.to_pylist()])  # as Python writes it
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        return np.array([f"{value:.0f}" if value.is_integer() else str(value) for value in values])
    try:
        return column.cast(pa.string()).to_numpy(zero_copy_only=False).astype(str)
    except pa.ArrowException:
        raise UserError(f"the column {name!r} is no text", path, FORMAT) from None


def _take_numbers(table: pa.Table, path: str) -> tuple[np.ndarray, bool, list[str]]:
    """Return the (R, C) numbers, whether they are logits, and the names of their columns."""
    found: list[tuple[np.ndarray, bool, list[str]]] = []
    for name, prefix in NUMBERS.items():
        columns = [column for column in table.column_names if column.startswith(prefix)]
        if name in table.column_names:
            found.append((_take_lists(table, name, path), name == "logits", []))
        if columns:
            names = [column.removeprefix(prefix) for column in columns]
            found.append((_stack_columns(table, columns, path), name == "logits", names))
    if len(found) != 1:
        problem = "has to have one of probabilities, probability_<class>, logits, logit_<class>"
        raise UserError(problem, path, FORMAT)
    if found[0][0].shape[1] < 2:
        raise UserError("an answer has to have a number for each of two classes or more", path)
    return found[0]


def _take_lists(table: pa.Table, name: str, path: str) -> np.ndarray:
    """Return (R, C) numbers of a column of lists, NaN where a cell is empty."""
    column = table[name].combine_chunks()
    if not hasattr(column.type, "value_field"):
        start = NUMBERS.get(name, TARGETS)
        hint = f"Write lists of numbers, or a column per class ({start}<class>)."
        raise UserError(f"the column {name!r} has no lists", path, hint)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.float64)
    filled = np.flatnonzero(~np.isnan(lengths))
    if not len(filled):
        raise UserError(f"the column {name!r} is empty", path, FORMAT)
    width = int(lengths[filled[0]])
    if width == 0:
        raise UserError(f"the lists of the column {name!r} are empty", path, FORMAT)
    other = filled[lengths[filled] != width]
    if len(other):
        problem = (
            f"row {other[0] + 1} has {lengths[other[0]]:.0f} {name}, "
            f"row {filled[0] + 1} has {width}"
        )
        raise UserError(problem, path, "Give each row a number for every class.")
    numbers = np.full((len(column), width), np.nan)
    flat = pc.list_flatten(column.drop_null())
    numbers[filled] = _to_floats(flat, name, path).reshape(-1, width)
    return numbers


def _stack_columns(table: pa.Table, names: Sequence[str], path: str) -> np.ndarray:
    """Return the (R, C) numbers of C columns."""
    return np.stack([_to_floats(table[name].combine_chunks(), name, path) for name in names], 1)


def _to_floats(column: pa.Array, name: str, path: str) -> np.ndarray:
    try:
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        raise UserError(f"the column {name!r} is no numbers", path, FORMAT) from None


def _take_targets(table: pa.Table, classes: Sequence[str], path: str) -> np.ndarray:
    """Return (R,) text, or (R, C) of 0 and 1."""
    columns = [f"{TARGETS}{name}" for name in classes]
    if TARGET not in table.column_names and set(columns) <= set(table.column_names):
        labels = _stack_columns(table, columns, path)
    elif TARGET not in table.column_names:
        raise UserError(f"no column {TARGET!r}", path, FORMAT)
    elif not pa.types.is_nested(table[TARGET].type):
        return _take_text(table, TARGET, path)
    else:
        labels = _take_lists(table, TARGET, path)
    wrong = np.flatnonzero(~np.isin(labels, (0, 1)).all(1))
    if len(wrong) or labels.shape[1] != len(classes):
        row = wrong[0] + 1 if len(wrong) else 1
        problem = f"the target of row {row} is not {len(classes)} numbers that are 0 or 1"
        raise UserError(problem, path, FORMAT)
    return labels


def number_targets(table: AnswerTable) -> np.ndarray:
    """Return the (R,) number of each target's class, or the (R, C) sets of labels in float32.

    A target is the name of a class. Where no class is called by a number it may be its number.
    """
    if table.targets.ndim == 2:
        return table.targets.astype(np.float32)
    names, place = np.unique(table.targets, return_inverse=True)
    numbers = {name: number for number, name in enumerate(table.classes)}
    has_number_names = any(INTEGER.fullmatch(name) for name in table.classes)
    if not has_number_names and all(INTEGER.fullmatch(name) for name in names):
        numbers = {str(number): number for number in range(len(table.classes))}
    for name in names.tolist():
        if name not in numbers:
            hint = f"Known: {', '.join(numbers)}. Others are named by --classes, in their order."
            raise UserError(f"the target {name!r} is none of the classes", table.path, hint)
    return np.array([numbers[name] for name in names.tolist()])[place]

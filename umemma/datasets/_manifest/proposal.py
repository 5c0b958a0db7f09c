"""What each column of a stranger's table may be for: the options of `manifest` that fit it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umemma.datasets._manifest import number_cells
from umemma.datasets._manifest.columns import (
    Column,
    Guess,
    guess_kind,
    split_name,
    tells_label,
)
from umemma.datasets._manifest.options import SPLITS
from umemma.errors import UserError, unknown_name
from umemma.types import MODALITY_NAME, RESERVED_NAMES

# Names of columns, the likeliest first.
LABELS = (
    "label",
    "labels",
    "class",
    "classes",
    "target",
    "targets",
    "category",
    "categories",
    "y",
    "diagnosis",
    "emotion",
    "sentiment",
    "species",
    "genre",
    "genres",
)
KEYS = {"id", "key", "uid", "uuid", "index", "sample id", "row id"}
GROUPS = {
    *("group", "subject", "patient", "participant", "person", "speaker", "singer", "actor"),
    *("author", "writer", "user", "session", "recording", "scene", "video", "site", "family"),
}
CODES = {"zip", "zipcode", "postcode", "postal", "code"}  # of numbers that are names
SEPARATORS = ("|", ";", ",")
FEW_GROUPS = 20  # fewer are dealt into folds, as drawn splits might get none of them
FOLDS = 5


@dataclass
class Proposal:
    """options: of `manifest`; kinds: {modality: kind}; uses: {column: what it is for}.

    columns: those of the table; splits: what the column of splits marks, empty without one.
    """

    columns: dict[str, Column]
    options: dict[str, Any]
    kinds: dict[str, str] = field(default_factory=dict)
    uses: dict[str, str] = field(default_factory=dict)
    splits: set[str] = field(default_factory=set)

    def use(self, option: str, column: Column, note: str = "") -> None:
        """Set an option of one column."""
        self.options[option] = column.name
        self.uses[column.name] = note or option

    @property
    def free(self) -> list[Column]:
        """The columns that are for nothing yet."""
        return [column for name, column in self.columns.items() if name not in self.uses]


def find_label(columns: Sequence[Column]) -> str:
    """Return the column whose name says that it is the label, "" where none does."""
    names = {" ".join(split_name(column.name)): column.name for column in columns}
    return next((names[name] for name in LABELS if name in names), "")


def propose(table: Path, columns: Sequence[Column], label: str, task: str = "") -> Proposal:
    """Propose what the columns of a table are for. task: "" = the one that the labels look like.

    Raises UserError where `label` can't be one, and where no column can be a modality.
    """
    by_name = {column.name: column for column in columns}
    if label not in by_name:
        raise unknown_name("column", label, by_name, "--label")
    proposal = Proposal(by_name, {"table": table.name, "columns": {}})
    _use_label(proposal, by_name[label], task, table)
    _use_split(proposal)
    for column in proposal.free:
        is_whole = len(column.distinct) == len(column.cells)
        if is_whole and "key" not in proposal.options and _spell(column) in KEYS:
            proposal.use("key", column)
    _use_group(proposal, table.parent)
    _use_modalities(proposal, table.parent)
    if not proposal.kinds:
        notes = [f"{name}: {use}" for name, use in proposal.uses.items() if name != label]
        raise UserError(
            "no column can be a modality", str(table), "\n".join(notes) or "It has a label alone."
        )
    return proposal


def _spell(column: Column) -> str:
    return " ".join(split_name(column.name))


# The label. ---------------------------------------------------------------------------------------


def _use_label(proposal: Proposal, label: Column, task: str, table: Path) -> None:
    rows, different = len(label.filled), label.distinct
    separator = _find_separator(label)
    chosen = task
    if not chosen and number_cells.look_measured(different, rows):
        chosen = "regression"
    elif not chosen:
        chosen = "multilabel" if separator else "multiclass"
    where = f"{table}, column {label.name}"
    if len(different) < 2:
        hint = "Name another column with --label."
        raise UserError("can't be the label, as it is the same in every row", where, hint)
    if chosen == "regression" and label.numbers is None:
        raise UserError("holds other than numbers", where, "Leave --task regression out.")
    if chosen == "multiclass" and 2 * len(different) > rows:
        raise UserError(
            f"can't be the label: {len(different)} different ones in {rows} rows",
            where,
            "Name another column with --label, or say --task regression or multilabel.",
        )
    proposal.use("label", label, f"label, {_describe_label(different, chosen)}")
    proposal.options["task"] = chosen
    if chosen == "multilabel" and separator not in ("", "list"):
        proposal.options["separator"] = separator


def _describe_label(different: Collection[str], task: str) -> str:
    if task == "multiclass":
        return f"one of {len(different)} classes"
    return {"multilabel": "several in a cell", "regression": "a number"}[task]


def _find_separator(label: Column) -> str:
    """Return what stands between several labels in a cell, "list" of lists, "" for one label.

    A mark separates labels where its parts come again: fewer of them are different than of cells.
    """
    if all(map(number_cells.is_list, label.filled)) and label.filled:
        return "list"
    for mark in SEPARATORS:
        parts = {part.strip() for cell in label.distinct for part in cell.split(mark)}
        if any(mark in cell for cell in label.distinct) and len(parts) < len(label.distinct):
            return mark
    return ""


# Splits, folds and groups. ------------------------------------------------------------------------


def _use_split(proposal: Proposal) -> None:
    for column in proposal.free:
        marks = {SPLITS.get(cell.lower(), "") for cell in column.distinct}
        if "train" in marks and len(marks) > 1 and "" not in marks:
            proposal.use("split", column, f"split: {', '.join(sorted(column.distinct))}")
            proposal.splits = marks
            return


def _use_group(proposal: Proposal, folder: Path) -> None:
    for column in proposal.free:
        words = split_name(column.name) or ("",)
        if words[-1] in ("id", "name", "number"):
            words = words[:-1] or words
        if "fold" in words and not proposal.splits and _are_folds(column):
            proposal.options["folds"] = {"column": column.name}
            proposal.uses[column.name] = "fold; number 0 is tested first"
        elif words[-1] in GROUPS and "group" not in proposal.options:
            is_group = 2 < len(column.distinct) < len(column.filled)
            if is_group and guess_kind(column, folder).kind in ("", "table", "text"):
                _take_group(proposal, column)


def _take_group(proposal: Proposal, column: Column) -> None:
    groups = len(column.distinct)
    proposal.use("group", column, f"group: {groups} that splits keep whole")
    if groups < FEW_GROUPS and not proposal.splits and "folds" not in proposal.options:
        proposal.options["folds"] = min(FOLDS, groups)
        proposal.uses[column.name] += ", in folds as they are few"


def _are_folds(column: Column) -> bool:
    numbers = sorted(set(column.numbers or []))
    first = numbers[0] if numbers else -1
    whole = [first + i for i in range(len(numbers))]
    return first in (0, 1) and numbers == whole and 3 <= len(numbers) <= FEW_GROUPS


# Modalities. --------------------------------------------------------------------------------------


def _use_modalities(proposal: Proposal, folder: Path) -> None:
    label = proposal.columns[proposal.options["label"]]
    guesses: dict[str, Guess] = {}
    for column in proposal.free:
        guess = guess_kind(column, folder)
        tells = guess.kind == "table" and tells_label(column, label, proposal.options["task"])
        if not column.name:
            guess = Guess("", "a column without a name")
        elif tells or (guess.kind == "table" and _names_label(column, label)):
            guess = Guess("", f"may say {label.name} in other words")
        guesses[column.name] = guess
        proposal.uses[column.name] = guess.kind or f"left out: {guess.note}"
    cells = [name for name, guess in guesses.items() if guess.kind == "table"]
    if cells:
        _add_modality(proposal, "table", cells)
        proposal.options["categories"] = [name for name in cells if _is_code(proposal, name)]
    kinds = [guess.kind for guess in guesses.values()]
    for column_name, guess in guesses.items():
        if guess.kind and guess.kind != "table":
            name = guess.kind if kinds.count(guess.kind) == 1 else column_name
            _add_modality(proposal, guess.kind, column_name, name)
    proposal.options["root"] = _find_root(proposal, guesses)


def _add_modality(proposal: Proposal, kind: str, columns: Any, name: str = "") -> None:
    name = re.sub(r"\W+", "_", name or kind, flags=re.ASCII)
    if not MODALITY_NAME.fullmatch(name) or name in RESERVED_NAMES:
        name = f"{kind}_{name}".rstrip("_")
    while name in proposal.kinds:
        name += "_2"
    proposal.kinds[name] = kind
    proposal.options["columns"][name] = columns


def _names_label(column: Column, label: Column) -> bool:
    """Return whether a column is called like the label: "sublabel" is, "city" is not like "y"."""
    return len(label.name) > 3 and _spell(column).endswith(_spell(label))


def _is_code(proposal: Proposal, name: str) -> bool:
    column = proposal.columns[name]
    return bool(CODES & set(split_name(name))) and column.numbers is not None


def _find_root(proposal: Proposal, guesses: dict[str, Guess]) -> str | None:
    """Return the folder that holds the media of absolute paths, None where all are relative."""
    paths: list[str] = []
    for name, guess in guesses.items():
        if guess.kind in ("audio", "image", "video", "vector", "series"):
            paths += [cell for cell in proposal.columns[name].filled if os.path.isabs(cell)]
    if not paths:
        return None
    return os.path.commonpath([os.path.dirname(path) for path in paths])

"""The folds of `manifest`: which groups are tested together, and which validate meanwhile.

k-fold: groups are dealt out, the largest first and equally large ones in the order of a hash of
their names. Each goes to the fold in which its labels, and samples, are the fewest so far: the one
that raises the sum of squares of the folds' shares of every class, and of all samples, least. So
classes are nearly as frequent in each fold, whatever the order of the rows. The idea is that of
scikit-learn's StratifiedGroupKFold.

Leave-one-group-out and folds of a column take each group where its rows say.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from umemma.errors import UserError
from umemma.system.seeds import uniform
from umemma.types import Fold, Plain

WHERE = "preprocess.options.folds"
FEWEST = 3  # one fold is tested, one validates, one is for training
SHOWN = 5  # folds that an error names
VAL = 0.2  # share of the other groups
ALL = ""  # stands for all samples among the labels of a group; no label is empty


class Folds(Plain):
    """How folds are made, by one of the first three; a plain number stands for `count`.

    count: so many folds of whole groups, alike in their classes.
    by: leave-one-group-out: each value of this column is a fold.
    column: the column that holds the number of the fold.
    val: with `by`, the share of the other groups that validates; null = 0.2. Otherwise the next
        fold validates.
    """

    model_config = ConfigDict(json_schema_extra={"type": ["integer", "object"], "minimum": FEWEST})

    count: Annotated[int, Field(ge=FEWEST)] | None = None
    by: Annotated[str, Field(min_length=1)] | None = None
    column: Annotated[str, Field(min_length=1)] | None = None
    val: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, int):
            return {"count": value}
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Folds:
        ways = [way for way in (self.count, self.by, self.column) if way is not None]
        if len(ways) != 1:
            raise ValueError("folds: write a number, {by: COLUMN} or {column: COLUMN}")
        if self.val is not None and self.by is None:
            raise ValueError("folds.val: only {by: COLUMN} has it; else the next fold validates")
        return self

    @property
    def named(self) -> str | None:
        """The column that decides, None where groups are dealt out."""
        return self.by or self.column


@dataclass
class FoldGroup:
    """What is known of a group of rows.

    labels: {label: how many usable rows have it}, with all of them under `ALL`; cells: {cell of the
    column that decides: the first row that has it}.
    """

    labels: Counter[str] = field(default_factory=Counter)
    cells: dict[str, int] = field(default_factory=dict)

    def add(self, labels: Iterable[str]) -> None:
        """Count a usable row."""
        self.labels.update([*labels, ALL])


class FoldPlan(NamedTuple):
    """folds: in order; fold_of: {group: the fold that its rows are in}."""

    folds: tuple[Fold, ...]
    fold_of: Mapping[str, Fold]


def plan_folds(groups: Mapping[str, FoldGroup], options: Folds) -> FoldPlan:
    """Return the folds. UserError where they can't be made."""
    if options.count is not None:
        numbers = deal_groups(groups, options.count)
        folds = _make_cycle(range(options.count))
    elif options.by is not None:
        cells = _find_cells(groups, options.by)
        held_out = sorted(set(cells.values()), key=_natural_order)
        folds = _hold_out(held_out, options)
        numbers = {group: held_out.index(cell) for group, cell in cells.items()}
    else:
        assert options.column is not None
        cells = _find_cells(groups, options.column)
        numbers = {group: int(cell) for group, cell in cells.items()}
        folds = _make_cycle(_number_folds(set(numbers.values()), options.column))
    by_number = {fold.number: fold for fold in folds}
    return FoldPlan(folds, {group: by_number[number] for group, number in numbers.items()})


def deal_groups(groups: Mapping[str, FoldGroup], count: int) -> dict[str, int]:
    """Return {group: its fold, 0 to count - 1}. UserError for fewer groups than folds."""
    usable = sum(group.labels[ALL] > 0 for group in groups.values())
    if usable < count:
        raise UserError(
            f"{count} folds, but only {usable} groups",
            WHERE,
            "A group stays in one fold: ask for fewer folds, or name another column as group.",
            usage=True,
        )
    totals: Counter[str] = Counter()
    for group in groups.values():
        totals.update(group.labels)
    held = {label: np.zeros(count) for label in [*totals, ALL]}

    def place(name: str) -> tuple[int, float]:
        return -groups[name].labels[ALL], uniform(0, "manifest", "fold", name)

    folds = {}
    for name in sorted(groups, key=place):
        labels = groups[name].labels
        cost = np.zeros(count)
        for label, number in labels.items():
            cost += held[label] * number / totals[label] ** 2
        # Ties: the fold with the fewest samples, then the first one.
        fold = int(np.lexsort((held[ALL], np.round(cost, 12)))[0])
        folds[name] = fold
        for label, number in labels.items():
            held[label][fold] += number
    return folds


def _make_cycle(numbers: Sequence[int]) -> tuple[Fold, ...]:
    """Return the folds, of which the next one validates, after the last one the first."""
    following = [*numbers[1:], numbers[0]]
    return tuple(Fold(number=n, val=(after,)) for n, after in zip(numbers, following, strict=True))


def _hold_out(held_out: Sequence[str], options: Folds) -> tuple[Fold, ...]:
    """Return a fold per group. The groups that validate are those with the lowest hashes."""
    _check_enough(len(held_out), f"values in the column {options.by!r}")
    count = math.floor((options.val or VAL) * (len(held_out) - 1) + 0.5)
    count = min(max(count, 1), len(held_out) - 2)
    folds = []
    for number, group in enumerate(held_out):
        others = [other for other in range(len(held_out)) if other != number]
        others.sort(key=lambda other: uniform(0, "manifest", "val", group, held_out[other]))
        folds.append(Fold(number=number, group=group, val=tuple(sorted(others[:count]))))
    return tuple(folds)


def _number_folds(numbers: set[int], column: str) -> Sequence[int]:
    """Return the numbers of the folds, from 0 or 1. UserError for a number without a row."""
    _check_enough(len(numbers), f"folds in the column {column!r}")
    expected = range(min(min(numbers), 1), max(numbers) + 1)
    empty = itertools.islice((n for n in expected if n not in numbers), SHOWN)
    names = ", ".join(map(str, empty))
    if names:
        raise UserError(
            f"no row in fold {names}, where the column {column!r} goes to {max(numbers)}",
            WHERE,
            "Number the folds from 0 or 1, without a gap.",
            usage=True,
        )
    return expected


def _check_enough(count: int, what: str) -> None:
    if count < FEWEST:
        raise UserError(
            f"{count} {what}, and folds need at least {FEWEST}",
            WHERE,
            "One is tested, one validates, the others are for training.",
            usage=True,
        )


def _find_cells(groups: Mapping[str, FoldGroup], column: str) -> dict[str, str]:
    """Return {group: its cell}, without groups that have none. UserError for a group with two."""
    cells = {}
    for name, group in groups.items():
        if len(group.cells) > 1:
            (first, row), (second, other_row), *_ = group.cells.items()
            raise UserError(
                f"the group {name!r} is in two folds: {first!r} in row {row}, {second!r} in row "
                f"{other_row} of the column {column!r}",
                WHERE,
                "A group stays in one fold: correct the column, or name another one as group.",
                usage=True,
            )
        if group.cells:
            (cells[name],) = group.cells
    return cells


def check_number(cell: str, row: int, column: str) -> str:
    """Return the number of a fold as its shortest text. UserError for a cell that is none."""
    if not re.fullmatch(r"\d{1,9}", cell, re.ASCII):
        raise UserError(
            f"{cell!r} in row {row} of the column {column!r} is not the number of a fold",
            WHERE,
            "Write 0, 1, 2 and so on.",
            usage=True,
        )
    return str(int(cell))


def _natural_order(cell: str) -> tuple[float, str]:
    """Sort numbers by their value, before all other texts."""
    if re.fullmatch(r"\d{1,15}", cell, re.ASCII):
        return float(cell), cell
    return math.inf, cell

"""The targets of a table in regression: cells as numbers, and labels that ought to be targets."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from umemma.datasets._table import Problem, Row
from umemma.errors import UserError

MISSING = "a target is missing"
NOT_A_NUMBER = "a target is not a finite number"
ROLE = "targets"  # of the cells: "targets/0", "targets/1", ...
# Numbers as classes: from this many on they look like a measured quantity, if ...
MANY_NUMBERS = 20
# ... there is a fraction among them, or one for every so many rows.
ROWS_PER_NUMBER = 3


def name_roles(columns: Sequence[str]) -> dict[str, str]:
    """Return {role: column} of the targets."""
    return {f"{ROLE}/{i}": column for i, column in enumerate(columns)}


def parse_targets(row: Row, count: int) -> tuple[float, ...]:
    """Return the numbers of a row. Problem where one is missing or not a finite number."""
    if row.problem:
        raise Problem(row.problem)
    numbers = []
    for i in range(count):
        cell = row.cells.get(f"{ROLE}/{i}")
        if cell is None:
            raise Problem(MISSING)
        number = _parse_number(cell)
        if not math.isfinite(number):
            raise Problem(NOT_A_NUMBER)
        numbers.append(number)
    return tuple(numbers)


def _parse_number(cell: str) -> float:
    """Return a number, NaN for other text. Python's 1_000 is other text."""
    if "_" in cell:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return math.nan


def refuse_numbers_as_classes(labels: Collection[str], rows: int, where: str) -> None:
    """UserError where the labels of a table are so many numbers that they are hardly classes."""
    if len(labels) < MANY_NUMBERS:
        return
    numbers = [_parse_number(label) for label in labels]
    if not all(math.isfinite(number) for number in numbers):
        return
    has_fraction = any(not number.is_integer() for number in numbers)
    if has_fraction or ROWS_PER_NUMBER * len(numbers) > rows:
        raise UserError(
            f"the label column holds {len(numbers)} different numbers in {rows} rows",
            where,
            "To predict the number: --set preprocess.options.task=regression. If the numbers are "
            "the names of classes, list them in preprocess.options.classes.",
        )

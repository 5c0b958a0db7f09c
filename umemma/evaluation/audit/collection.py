"""The answers of a function, called once for every subset of the modalities, as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from umemma.errors import UserError
from umemma.missing import list_patterns
from umemma.types import format_pattern

BATCH_SIZE = 256  # samples that the function gets at a time
WHERE = "umemma.audit"

# ({modality: values of B samples}, the modalities that are there) -> (B, C)
Predict: TypeAlias = Callable[[dict[str, Any], tuple[str, ...]], Any]


def collect_answers(
    predict: Predict,
    inputs: Mapping[str, Sequence[Any]],
    target: Sequence[Any],
    keys: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    logits: bool = False,
) -> pa.Table:
    """Return the table of a function's answers to N samples.

    predict: gets the inputs of up to `BATCH_SIZE` samples, of the modalities of a subset and no
    others, and these modalities; returns (B, C) probabilities, or logits where `logits` says so;
    inputs: {modality: N values}, None where a sample really lacks it; target, keys: N each; groups:
    N names, or {grouping: N names}. UserError where sizes don't fit.
    """
    if keys is None:
        keys = [str(number) for number in range(len(target))]
    if groups is None:
        groups = {}
    elif not isinstance(groups, Mapping):
        groups = {"group": groups}
    columns: dict[str, Sequence[Any]] = {"key": keys, "target": target}
    for name, values in groups.items():
        columns[name if name == "group" else f"group_{name}"] = values
    for name, values in {**columns, **inputs}.items():
        if len(values) != len(keys):
            raise UserError(f"{name}: {len(values)} values of {len(keys)} samples", WHERE)
    names = sorted(inputs)
    has = {name: np.array([value is not None for value in inputs[name]]) for name in names}
    present = ["+".join(name for name in names if has[name][row]) for row in range(len(keys))]
    columns["present"] = present
    rows: list[int] = []
    subsets: list[str] = []
    answers: list[np.ndarray] = []
    for pattern in list_patterns(names):
        some = np.flatnonzero(np.logical_or.reduce([has[name] for name in pattern]))
        for start in range(0, len(some), BATCH_SIZE):
            batch = some[start : start + BATCH_SIZE]
            answers.append(_ask(predict, inputs, pattern, batch))
            rows += batch.tolist()
            subsets += [format_pattern(pattern)] * len(batch)
    table = {name: [_to_plain(values[row]) for row in rows] for name, values in columns.items()}
    table["subset"] = subsets
    table["logits" if logits else "probabilities"] = [row for part in answers for row in part]
    return pa.table(table)


def _ask(
    predict: Predict,
    inputs: Mapping[str, Sequence[Any]],
    pattern: tuple[str, ...],
    rows: np.ndarray,
) -> np.ndarray:
    """Return the (B, C) answers to some samples under a subset."""
    batch: dict[str, Any] = {}
    for name in pattern:
        values = inputs[name]
        if isinstance(values, np.ndarray):
            batch[name] = values[rows]
        else:
            batch[name] = [values[row] for row in rows.tolist()]
    numbers = np.asarray(predict(batch, pattern), np.float64)
    if numbers.ndim != 2 or len(numbers) != len(rows):
        problem = f"predict returned {numbers.shape} numbers for {len(rows)} samples"
        raise UserError(problem, WHERE, "Return a row of numbers per sample: (B, C).")
    return numbers


def _to_plain(value: Any) -> Any:
    """Return a value of Arrow's for one of NumPy's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value

"""The table of folds: how many samples, of which classes. `doctor` and `preprocess` print it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

CLASS_COLUMNS = 8  # more classes have one column, of the rarest


def make_fold_table(
    held_out: Mapping[str, str],
    samples: Mapping[str, int],
    classes: Mapping[str, Mapping[str, int]],
) -> Table:
    """Return a row for each fold.

    held_out: {split of a fold: the group that it leaves out, "" for none}; samples: {split: usable
    samples}; classes: {class: {split: usable samples}}.
    """
    table = Table()
    table.add_column("fold")
    with_groups = any(held_out.values())
    if with_groups:
        table.add_column("held out")
    table.add_column("samples", justify="right")
    shown: Sequence[str] = ()
    if len(classes) <= CLASS_COLUMNS:
        shown = list(classes)
    for name in shown:
        table.add_column(Text(name), justify="right")
    if classes and not shown:
        table.add_column("rarest class", justify="right")
    for split, group in held_out.items():
        cells = [Text(split)]
        if with_groups:
            cells.append(Text(group))
        cells.append(Text(f"{samples[split]:,}"))
        cells.extend(Text(f"{classes[name].get(split, 0):,}") for name in shown)
        if classes and not shown:
            cells.append(Text(_name_rarest(split, classes)))
        table.add_row(*cells)
    return table


def _name_rarest(split: str, classes: Mapping[str, Mapping[str, int]]) -> str:
    """Return the class with the fewest samples in a fold, and their number."""
    name = min(classes, key=lambda one: classes[one].get(split, 0), default="")
    if not name:
        return ""
    return f"{name} {classes[name].get(split, 0):,}"

"""Results of several folders in one page and in Markdown: a table for each set of samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from umemma.errors import UserError
from umemma.evaluation.comparison import LESSER, WORST
from umemma.evaluation.metrics import USUAL, Metric, get
from umemma.missing import list_shown_patterns
from umemma.reports.html import Block, Cell, Section, SortedTable, Text
from umemma.reports.published.section import make_section
from umemma.types import format_pattern

TITLE = "Leaderboard"
NOT_STATED = "not stated"
NONE = "–"
ABOUT = (
    "A value is of the ensemble with these modalities present; ± is the standard deviation over "
    f"seeds. {LESSER.capitalize()}: the mean over all subsets but the complete one; {WORST}: each "
    "sample under the subset that is worst for it. Encoders and training may differ from row to "
    "row: the folder says which settings a row belongs to. A difference here is not tested; "
    "umemma compare and umemma audit --against do that."
)
APART = (
    "There are several tables here because their rows are not of the same samples, modalities, "
    "metric or absences in training, so they can't be ranked together: {reasons}."
)


class Score(NamedTuple):
    """A value, and its standard deviation over seeds (NaN where there is none)."""

    value: float
    std: float = math.nan


@dataclass(frozen=True)
class Entry:
    """A method in a folder of results.

    dataset: "" of an audit whose samples no other folder has; protocol: what training misses;
    samples: their number; digest: of their keys and targets, "" where the folder does not say;
    scores: {column: score}; worst_metric: the metric of the column `WORST`; seeds: how many
    trainings, 0 where that is unknown; source: the name of the folder.
    """

    dataset: str
    variant: str
    split: str
    protocol: str
    modalities: tuple[str, ...]
    metric: Metric
    worst_metric: Metric
    samples: int
    digest: str
    method: str
    scores: Mapping[str, Score]
    seeds: int
    source: str

    @property
    def data(self) -> tuple[str, str, str]:
        """What a section is about. An audit of unknown data has one for its samples."""
        return self.dataset or self.digest or self.source, self.variant, self.split

    def show(self, column: str) -> str:
        """Return the score of a column as it is printed."""
        score = self.scores.get(column)
        if score is None or math.isnan(score.value):
            return NONE
        metric = self.metric
        if column == WORST:
            metric = self.worst_metric
        shown = metric.shown(score.value)
        if math.isnan(score.std):
            return shown
        if metric.percent:
            return f"{100 * score.value:.1f} ± {100 * score.std:.1f} %"
        return f"{shown} ± {metric.shown(score.std)}"


def find_metric(name: str) -> Metric | None:
    """Return the metric of this name, whatever its task; None if no task has it."""
    for task in USUAL:
        try:
            return get(name, task, 10**9)
        except UserError:
            continue
    return None


def make_sections(entries: Sequence[Entry]) -> Iterator[Section]:
    """Yield a section per dataset, variant and split, with a table per set of comparable rows."""
    by_data: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        by_data.setdefault(entry.data, []).append(entry)
    for rows in by_data.values():
        tables = _group(rows)
        blocks: list[Block] = []
        if len(tables) > 1:
            reasons = "; ".join(_describe(group[0]) for group in tables)
            blocks.append(Text(APART.format(reasons=reasons)))
        blocks.extend(_make_table(group) for group in tables)
        first = rows[0]
        protocols = [row.protocol for row in rows]
        for section in make_section(first.dataset, first.variant, first.split, protocols):
            blocks.append(Text(f"{section.title}, which need not be of the same samples."))
            blocks.extend(section.blocks)
        yield Section(_name_section(first), blocks)
    yield Section("How to read it", [Text(ABOUT)])


def _name_section(entry: Entry) -> str:
    if not entry.dataset:
        return f"audited: {entry.source}"
    name = entry.dataset
    if entry.variant:
        name += f" ({entry.variant})"
    return f"{name} {entry.split}"


def _group(rows: Iterable[Entry]) -> list[list[Entry]]:
    """Return the rows in groups that may stand in one table.

    Two folders that both name their samples have to name the same ones.
    """
    groups: dict[tuple[object, ...], list[list[Entry]]] = {}
    for row in rows:
        key = (row.protocol, row.modalities, row.metric.name, row.worst_metric.name, row.samples)
        for group in groups.setdefault(key, []):
            if {one.digest for one in group} - {""} <= {row.digest} or not row.digest:
                group.append(row)
                break
        else:
            groups[key].append([row])
    return [group for same in groups.values() for group in same]


def _describe(entry: Entry) -> str:
    training = f"training misses {entry.protocol}"
    if entry.protocol == NOT_STATED:
        training = "training not stated"
    elif entry.protocol == "complete":
        training = "trained on complete samples"
    modalities = "+".join(entry.modalities)
    return f"{entry.metric.label} of {entry.samples:,} samples with {modalities}, {training}"


def _make_table(group: Sequence[Entry]) -> SortedTable:
    """Return the table of a group, sorted by each of its columns; by the complete set first."""
    first = group[0]
    shown = [format_pattern(pattern) for pattern in list_shown_patterns(first.modalities)]
    columns = [name for name in (*shown, LESSER, WORST) if any(name in row.scores for row in group)]
    orders: dict[str, list[list[Cell]]] = {}
    for column in columns:
        orders[column] = _list_rows(_sort(group, column), columns)
    orders["method"] = _list_rows(sorted(group, key=lambda row: (row.method, row.source)), columns)
    headings = ["method", *columns, "seeds", "folder"]
    return SortedTable(_describe(first), headings, orders)


def _sort(group: Sequence[Entry], column: str) -> list[Entry]:
    """Return the rows with the best value of a column first, and those without one last."""

    def rank(row: Entry) -> tuple[float, str, str]:
        value = row.scores.get(column, Score(math.nan)).value
        metric = row.metric
        if column == WORST:
            metric = row.worst_metric
        if math.isnan(value):
            value = math.inf
        elif metric.higher:
            value = -value
        return value, row.method, row.source

    return sorted(group, key=rank)


def _list_rows(rows: Sequence[Entry], columns: Sequence[str]) -> list[list[Cell]]:
    cells: list[list[Cell]] = []
    for row in rows:
        seeds = NONE
        if row.seeds:
            seeds = str(row.seeds)
        cells.append([row.method, *(row.show(column) for column in columns), seeds, row.source])
    return cells

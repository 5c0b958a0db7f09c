"""The section of a report that prints the published numbers that fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from umemma.evaluation.metrics import get
from umemma.reports.html import Section, Table, Text
from umemma.reports.published.rows import list_tasks, read_rows, select_rows

TITLE = "Published beside these"
ABOUT = (
    "The same dataset, variant and missing ratios of training. Encoders, preprocessing and the "
    "rest of a protocol may differ, so a difference is not one of methods alone."
)
HEADINGS = ["method", "trained", "modalities", "metric", "source", "kind of source", "value"]
CHECK = "check the paper before a claim"


def make_section(
    dataset: str, variant: str, split: str, protocols: Iterable[str]
) -> Iterator[Section]:
    """Yield the section of the rows that fit; nothing where none does, or off the test split."""
    rows = select_rows(read_rows(), dataset, variant, protocols)
    if split != "test" or not rows:
        return
    cells = []
    for row in rows:
        metric = get(row.metric, list_tasks(row.metric)[0], 0).label
        kind: str = row.kind
        if kind == "notes on the paper":
            kind = f"{kind}: {CHECK}"
        value = f"{row.value:.2f}"
        cells.append([row.method, row.protocol, row.subset, metric, row.source, kind, value])
    caption = "Published numbers, in %; trained: what training misses"
    yield Section(TITLE, [Text(ABOUT), Table(caption, HEADINGS, cells, names=6)])

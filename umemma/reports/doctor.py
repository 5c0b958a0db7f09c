"""What the doctor found, and how people read it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from umemma.system.log import output
from umemma.types import DatasetSpec

SHOWN = 5  # examples of each kind


@dataclass
class Some:
    """A count, and the first few of what was counted."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < SHOWN:
            self.examples.append(example)

    def __str__(self) -> str:
        return ", ".join(self.examples) + (", ..." if self.count > len(self.examples) else "")


@dataclass
class Split:
    """Samples. expected: by the official lists, None where they don't say; unusable: they will fail in preprocess."""

    expected: int | None = None
    listed: int = 0
    left_out: int = 0
    unusable: int = 0
    usable: int = 0


@dataclass
class Report:
    """What was found; --json prints it as it stands.

    to_get: sources that aren't in place. classes: {class: {split: [samples listed, usable]}}; a sample of several classes
    counts in each. unusable, left_out: samples by reason; broken: likewise, usable samples with a medium that can't be
    read. absent: {modality: {why: {split: usable samples without it}}}. soundless_files: files whose sound was asked for and
    which have none; not_looked_into: usable samples with media that a function makes. leaks: {"train and test": groups in
    both}, of several groupings {"train and test (voice)": ...}. same_content: sets of media files with the same bytes;
    across_splits: those whose samples are of different splits. notes: what is worth knowing; needs: what the user has to
    do, in order.
    """

    dataset: str
    variant: str
    licence: str
    citation: str
    folder: str
    described: bool = False  # by a download.json
    files: int = 0
    size: int = 0  # bytes
    missing: Some = field(default_factory=Some)
    altered: Some = field(default_factory=Some)
    to_get: list[dict[str, Any]] = field(default_factory=list)
    splits: dict[str, Split] = field(default_factory=dict)
    classes: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    unusable: dict[str, Some] = field(default_factory=dict)
    broken: dict[str, Some] = field(default_factory=dict)
    left_out: dict[str, Some] = field(default_factory=dict)
    duplicate_ids: Some = field(default_factory=Some)
    absent: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    soundless_files: int = 0
    not_looked_into: int = 0
    leaks: dict[str, Some] = field(default_factory=dict)
    same_content: Some = field(default_factory=Some)
    across_splits: Some = field(default_factory=Some)
    notes: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)


def show(report: Report, spec: DatasetSpec) -> None:
    """The report on stdout."""
    _say(f"{report.dataset}: {spec.summary}", "bold")
    for name in ("variant", "licence", "citation"):
        if text := getattr(report, name):
            _say(f"  {name:<10}{text}")
    state = "no download.json describes them"
    if report.described:
        state = f"{decimal(report.size)}, {report.missing.count:,} gone, {report.altered.count:,} altered"
        state = state.replace(", 0 gone, 0 altered", ", all as download.json says")
    _say(f"  {'raw files':<10}{report.folder}: {report.files:,} files, {state}")
    _show_to_get(report, spec)
    if report.splits:
        _show_samples(report)
    if report.notes:
        _say("\nWorth knowing", "bold")
        for note in report.notes:
            _say(f"  - {note}")
    if not report.needs:
        _say("\nNothing needs you.", "bold green")
        return
    count = len(report.needs)
    _say("\n1 thing needs you:" if count == 1 else f"\n{count} things need you:", "bold red")
    for number, need in enumerate(report.needs, 1):
        _say(f"  {number}. " + need.replace("\n", "\n     "))


def _show_to_get(report: Report, spec: DatasetSpec) -> None:
    if not report.to_get:
        return
    sizes = (
        f" (in all {decimal(spec.size)} to download, at the most {decimal(spec.disk)} of disk)"
        if spec.size
        else ""
    )
    _say(f"\nNot in place{sizes}", "bold")
    for source in report.to_get[: 2 * SHOWN]:
        size = f", {decimal(source['size'])}" if source["size"] else ""
        where = (
            "made by umemma download"
            if source["made"]
            else " or ".join(source["urls"]) or "see the steps"
        )
        _say(f"  {source['path']}{size}: {where}")
    if (more := len(report.to_get) - 2 * SHOWN) > 0:
        _say(f"  ... and {more:,} more")
    for steps in dict.fromkeys(source["steps"] for source in report.to_get if source["steps"]):
        _say("\nSteps", "bold")
        _say(textwrap.indent(steps, "  "))


def _show_samples(report: Report) -> None:
    rows = []
    for name, split in report.splits.items():
        expected = "-" if split.expected is None else f"{split.expected:,}"
        rows.append(
            (name, expected, *_counts(split.listed, split.left_out, split.unusable, split.usable))
        )
    _show_table("Samples", ("split", "expected", "listed", "left out", "unusable", "usable"), rows)
    rows = []
    for name, splits in report.classes.items():
        cells = (
            f"{usable:,}" if usable == listed else f"{usable:,} of {listed:,}"
            for listed, usable in splits.values()
        )
        rows.append((name, *cells))
    _show_table("Usable samples of each class", ("class", *report.splits), rows)
    rows = [
        (f"{modality}: {why}", *_counts(*splits.values()))
        for modality, reasons in report.absent.items()
        for why, splits in reasons.items()
    ]
    _show_table("Usable samples that lack a modality", ("modality", *report.splits), rows)
    for title, found in (
        ("Unusable samples", report.unusable),
        ("Usable samples with a medium that can't be read", report.broken),
        ("Left out by the settings", report.left_out),
    ):
        if found:
            _say(f"\n{title}", "bold")
        for reason, some in sorted(found.items(), key=lambda item: -item[1].count):
            _say(f"  {some.count:,} x {reason}")
            _say(f"      {some}", "dim")


def _counts(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{number:,}" for number in numbers)


def _show_table(title: str, headings: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for name, *cells in rows:
        table.add_row(Text(name), *cells)
    _say(f"\n{title}", "bold")
    output.print(table)


def _say(text: str, style: str = "") -> None:
    """Lines as they are: names and ids may hold brackets, which mean something to rich."""
    output.print(Text(text, style=style), soft_wrap=True)

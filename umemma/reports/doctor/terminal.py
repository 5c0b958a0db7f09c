"""The doctor's report on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from umemma.reports.doctor.folds import make_fold_table
from umemma.reports.doctor.report import EXAMPLES, DoctorReport, Examples, MissingSource
from umemma.system.log import output
from umemma.types import DatasetSpec

SOURCES_SHOWN = 2 * EXAMPLES


def print_report(report: DoctorReport, spec: DatasetSpec) -> None:
    """Print the report on stdout."""
    _print_dataset(report, spec)
    _print_sources(report, spec)
    if report.splits:
        _print_splits(report)
        _print_classes(report)
        _print_absent(report)
        _print_reasons("Unusable samples", report.unusable)
        _print_reasons("Usable samples with a medium that cannot be read", report.broken)
        _print_reasons("Left out by the settings", report.left_out)
    if report.notes:
        _print("\nNotes", "bold")
        for note in report.notes:
            _print("  - " + note.replace("\n", "\n    "))
    _print_needs(report.needs)


def _print_dataset(report: DoctorReport, spec: DatasetSpec) -> None:
    _print(f"{report.dataset}: {spec.summary}", "bold")
    for label, text in (
        ("variant", report.variant),
        ("licence", report.licence),
        ("citation", report.citation),
    ):
        if text:
            _print(f"  {label:<10}{text}")
    label = "raw files"
    _print(f"  {label:<10}{report.folder}: {report.files:,} files, {_describe_files(report)}")


def _describe_files(report: DoctorReport) -> str:
    if not report.described:
        return "not verified yet (no download.json)"
    missing = report.missing.count
    altered = report.altered.count
    if missing or altered:
        return f"{decimal(report.size)}, {missing:,} missing, {altered:,} altered"
    return f"{decimal(report.size)}, as listed in download.json"


def _print_sources(report: DoctorReport, spec: DatasetSpec) -> None:
    if not report.to_get:
        return
    heading = "\nMissing raw files"
    if spec.size:
        download = decimal(spec.size)
        disk = decimal(spec.disk)
        heading += f" ({download} to download in all, at most {disk} of disk)"
    _print(heading, "bold")
    for source in report.to_get[:SOURCES_SHOWN]:
        _print(f"  {source.path}{_format_size(source)}: {_origin(source)}")
    more = len(report.to_get) - SOURCES_SHOWN
    if more > 0:
        _print(f"  and {more:,} more")
    all_steps = [source.steps for source in report.to_get if source.steps]
    for steps in dict.fromkeys(all_steps):
        _print("\nSteps", "bold")
        _print(textwrap.indent(steps, "  "))


def _format_size(source: MissingSource) -> str:
    if source.size:
        return f", {decimal(source.size)}"
    return ""


def _origin(source: MissingSource) -> str:
    if source.made:
        return "written by umemma download"
    return " or ".join(source.urls) or "see the steps"


def _print_splits(report: DoctorReport) -> None:
    headings = ["split", "expected", "listed", "left out", "unusable", "usable"]
    rows = []
    for name, split in report.splits.items():
        expected = "-"
        if split.expected is not None:
            expected = f"{split.expected:,}"
        counts = (split.listed, split.left_out, split.unusable, split.usable)
        rows.append([name, expected, *_format_counts(counts)])
    if all(split.expected is None for split in report.splits.values()):
        headings.remove("expected")
        for row in rows:
            del row[1]
    _print_table("Samples", headings, rows)


def _print_classes(report: DoctorReport) -> None:
    if report.folds:
        classes = {}
        for name, splits in report.classes.items():
            classes[name] = {split: usable for split, (_, usable) in splits.items()}
        samples = {name: split.usable for name, split in report.splits.items()}
        _print("\nUsable samples of each fold", "bold")
        output.print(make_fold_table(report.folds, samples, classes))
        return
    rows = []
    for name, splits in report.classes.items():
        row = [name]
        for listed, usable in splits.values():
            cell = f"{usable:,}"
            if usable < listed:
                cell = f"{usable:,} of {listed:,}"
            row.append(cell)
        rows.append(row)
    _print_table("Usable samples of each class", ["class", *report.splits], rows)


def _print_absent(report: DoctorReport) -> None:
    rows = []
    for modality, reasons in report.absent.items():
        for reason, splits in reasons.items():
            counts = list(splits.values())
            rows.append([f"{modality}: {reason}", *_format_counts(counts)])
    _print_table("Usable samples that lack a modality", ["modality", *report.splits], rows)


def _print_reasons(title: str, reasons: Mapping[str, Examples]) -> None:
    """Print the reasons, the most frequent first."""
    if not reasons:
        return
    _print(f"\n{title}", "bold")
    by_count = sorted(reasons.items(), key=lambda item: -item[1].count)
    for reason, examples in by_count:
        _print(f"  {examples.count:,} x {reason}")
        _print(f"      {examples}", "dim")


def _print_needs(needs: Sequence[str]) -> None:
    if not needs:
        _print("\nNo problem found.", "bold green")
        return
    heading = "\n1 problem to correct:"
    if len(needs) > 1:
        heading = f"\n{len(needs)} problems to correct:"
    _print(heading, "bold red")
    for number, need in enumerate(needs, 1):
        _print(f"  {number}. " + need.replace("\n", "\n     "))


def _format_counts(numbers: Sequence[int]) -> list[str]:
    return [f"{number:,}" for number in numbers]


def _print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is text and whose others are numbers."""
    if not rows:
        return
    table = Table()
    first, *others = headings
    table.add_column(first, justify="left")
    for heading in others:
        table.add_column(heading, justify="right")
    for name, *cells in rows:
        table.add_row(Text(name), *cells)
    _print(f"\n{title}", "bold")
    output.print(table)


def _print(text: str, style: str = "") -> None:
    """Print text literally: names and ids may contain brackets, which rich would interpret."""
    output.print(Text(text, style=style), soft_wrap=True)

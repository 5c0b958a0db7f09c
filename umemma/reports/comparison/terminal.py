"""A comparison in the terminal: the result in a sentence, then tables that fit its width."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from umemma.reports.comparison.report import (
    OVER_FOLDS,
    ComparisonReport,
    describe_tests,
    describe_training,
    format_difference,
    format_headline,
    format_metric,
    format_score,
    format_test_interval,
    is_significant,
    list_tested_columns,
)

WIDTH = 80  # characters of the narrowest terminal
FRAME = 3  # characters of a column's padding and border
METHOD_MARK = "> "
NARROWEST = 7  # characters of a column, so that "seed 0" is not broken
LEGEND = "> marks the compared method; the best value of each column is bold."


def format_terminal(report: ComparisonReport, width: int = WIDTH) -> Iterator[Text | Table]:
    """Yield the headline, and the tables of the leading metric for each `train`.

    First the scores, then the differences and the learning rates. A table of more columns than fit
    into `width` characters is split.
    """
    yield Text(format_headline(report))
    for train in report.columns:
        yield from _score_tables(report, train, width)
        if report.over_folds:
            about = OVER_FOLDS.format(folds=len(report.folds))
            yield from _score_tables(report.over_folds, train, width, about)
        if report.differences_of(train):
            yield from _difference_tables(report, train, width)
        rates = list(report.rate_rows(train))
        if rates:
            headings = list(report.list_runs().values())
            rows = [[Text(word) for word in row] for row in rates]
            title = "learning rate that validation chose"
            yield from _split_table(title, headings, rows, width)


def _score_tables(
    report: ComparisonReport, train: str, width: int, about: str = ""
) -> Iterator[Text | Table]:
    metric = report.metrics[0]
    columns = report.columns_of(train, metric)
    best = {column: report.best_of(train, metric, column) for column in columns}
    rows = []
    for name, scores in report.scores_of(train, metric).items():
        row = [_format_method(name, report.method)]
        for column in columns:
            text = Text(format_score(scores.get(column), metric, separator="±"))
            if name in best[column]:
                text.stylize("bold")
            row.append(text)
        rows.append(row)
    title = f"{report.title}: {format_metric(metric)}, {describe_training(train)}"
    if about:
        title = f"{format_metric(metric)}: {about}, {describe_training(train)}"
    yield from _split_table(title, columns, rows, width)
    yield Text(LEGEND, style="dim")


def _format_method(name: str, method: str) -> Text:
    if name == method:
        return Text(f"{METHOD_MARK}{name}", style="bold")
    return Text(f"{' ' * len(METHOD_MARK)}{name}")


def _difference_tables(report: ComparisonReport, train: str, width: int) -> Iterator[Text | Table]:
    """The interval stands below its difference, so that more columns fit."""
    tests = report.differences_of(train)
    rows = []
    for baseline, differences in tests.items():
        points = []
        intervals = []
        for test in differences:
            text = Text(format_difference(test))
            if is_significant(test):
                text.stylize("bold")
            points.append(text)
            intervals.append(Text(format_test_interval(test), style="dim"))
        rows.append([Text(baseline), *points])
        rows.append([Text(""), *intervals])
    yield from _split_table(describe_tests(report), list_tested_columns(tests), rows, width)


def _split_table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[Text]],
    width: int,
) -> Iterator[Text | Table]:
    """Yield a title and tables of at most `width` characters, each with the names of the rows.

    headings: of all columns but the first, which holds the names.
    """
    yield Text(f"\n{title}", style="italic")
    widths = _measure_columns(headings, rows)
    name_width = max((row[0].cell_len for row in rows), default=0)
    space = width - 1 - (name_width + FRAME)
    chunks = _chunk(widths, space, most=len(headings))
    even = math.ceil(len(headings) / max(len(chunks), 1))
    for chunk in _chunk(widths, space, even):
        table = Table()
        table.add_column("", no_wrap=True, overflow="fold")
        for column in chunk:
            heading = _wrap_heading(headings[column], widths[column])
            table.add_column(heading, justify="right", no_wrap=True, overflow="fold")
        for row in rows:
            cells = [row[1 + column] for column in chunk]
            table.add_row(row[0], *cells)
        yield table


def _measure_columns(
    headings: Sequence[str],
    rows: Sequence[Sequence[Text]],
) -> list[int]:
    """Return the characters that each column but the first needs, with its heading wrapped."""
    widths = []
    for column, heading in enumerate(headings):
        longest_word = max(map(len, _split_heading(heading)), default=0)
        longest_cell = max((row[1 + column].cell_len for row in rows), default=0)
        widths.append(max(longest_word, longest_cell, NARROWEST))
    return widths


def _chunk(
    widths: Sequence[int],
    space: int,
    most: int,
) -> list[list[int]]:
    """Return the columns of each table: as many as fit into `space` characters, `most` at most."""
    chunks: list[list[int]] = []
    used = 0
    for column, column_width in enumerate(widths):
        needed = column_width + FRAME
        if not chunks or used + needed > space or len(chunks[-1]) == most:
            chunks.append([])
            used = 0
        chunks[-1].append(column)
        used += needed
    return chunks


def _split_heading(heading: str) -> list[str]:
    """Return the parts that a heading may be broken into: "audio+", "image", "missing", "50 %"."""
    return re.findall(r"[^\s+|]+(?: %|[+|])?", heading)


def _wrap_heading(heading: str, width: int) -> str:
    """Break a heading into lines of at most `width` characters, after blanks, + and |."""
    lines = [""]
    for part in _split_heading(heading):
        line = lines[-1]
        if line and not line.endswith(("+", "|")):
            line += " "
        if lines[-1] and len(line) + len(part) > width:
            lines.append(part)
        else:
            lines[-1] = line + part
    return "\n".join(lines)

"""What `umemma evaluate` prints: the verdict, tables that fit 80 columns, advice, the next step."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from umemma.evaluation.information_report import describe_threshold
from umemma.evaluation.metrics import Metric
from umemma.evaluation.results import (
    Outcome,
    find_ceiling,
    group_by_condition,
    list_fold_rows,
    mean_and_std,
)
from umemma.reports.evaluation import NOTHING_TO_ADVISE
from umemma.reports.verdict import KeyNumber, give_verdict, judge_subset
from umemma.reports.wording import (
    ARROWS,
    NO_BREAK_SPACE,
    Tone,
    describe_absence,
    describe_listed_subsets,
    describe_rule,
    describe_worst_case,
    format_gap,
    format_interval,
    format_points_range,
    keep_together,
    with_interval,
)
from umemma.system import log
from umemma.types import ResultRow

STYLES: dict[Tone, str] = {"better": "green", "worse": "bold red", "unclear": ""}
NARROWEST = 40  # characters of a line
FRAME = 3  # characters of a column's padding and border
FOLD_COLUMNS = 5  # subsets that the table of folds has room for
NARROWEST_NAMES = 8  # characters of the column of the modalities present
LABELS, ALSO = "f1_samples", ("f1_macro", "map")  # where the first leads, the others are shown too


def print_evaluation(console: Console, outcome: Outcome) -> None:
    """Print the verdict, the subsets, how to read them, and the advice."""
    metric = outcome.metrics[0].label
    print_paragraph(console, f"{outcome.title}: {metric}; {outcome.trained}", "bold")
    verdict = give_verdict(outcome)
    console.print(make_number_table(verdict.numbers))
    for finding in verdict.findings:
        text = f"{ARROWS[finding.tone]}{finding.text}"
        print_paragraph(console, text, STYLES[finding.tone])
    print_paragraph(console, describe_worst_case(outcome))
    console.print()
    if outcome.sizes():
        console.print(make_size_table(outcome))
    console.print(make_subset_table(outcome, console.width))
    also = [metric for metric in outcome.metrics[1:] if metric.name in ALSO]
    if outcome.metrics[0].name == LABELS and also:
        console.print(make_label_table(outcome, also))
    for note in list_notes(outcome):
        print_paragraph(console, note)
    if not outcome.information:
        return
    console.print()
    print_paragraph(console, "Advice", "bold")
    print_paragraph(console, describe_threshold(outcome.information))
    for advice in outcome.information.advice or [NOTHING_TO_ADVISE]:
        print_paragraph(console, advice, bullet="- ")


def print_answer(console: Console, outcome: Outcome) -> None:
    """Print the answer to one question: what goes missing at each ratio, then the subsets."""
    for table in make_ratio_tables(outcome):
        console.print(table)
    console.print(make_subset_table(outcome, console.width))
    for note in list_notes(outcome):
        print_paragraph(console, note)
    print_paragraph(console, describe_worst_case(outcome))


def print_files(console: Console, results: Path) -> None:
    """Print the files to read. results: the folder."""
    page = results / "report.html"
    console.print()
    for name, path in (
        ("page", page),
        ("report", results / "report.md"),
        ("figure", results / "robustness.png"),
    ):
        console.print(f"{name}: {path}", soft_wrap=True, highlight=False, markup=False)


def print_next_step(console: Console, results: Path, options: str = "") -> None:
    """Print the files to read, and what to do next.

    results: the folder; options: what the commands need besides their names, say " --params FILE".
    """
    print_files(console, results)
    steps = [
        f"open {results / 'report.html'} in a browser: curves, classes, confusions",
        f"umemma compare{options}: is the method better than its baselines?",
        f"umemma predict --manifest TABLE{options}: answers for new samples",
    ]
    print_paragraph(console, "Next:")
    for step in steps:
        print_paragraph(console, step, bullet="- ")


def print_paragraph(console: Console, text: str, style: str = "", bullet: str = "") -> None:
    """Print a paragraph whose lines end at the console's width, but never within an interval."""
    lines = textwrap.fill(
        keep_together(text),
        max(console.width, NARROWEST),
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_on_hyphens=False,
        break_long_words=False,
    )
    lines = lines.replace(NO_BREAK_SPACE, " ")
    console.print(Text(log.make_printable(lines), style=style), soft_wrap=True)


def make_number_table(numbers: Sequence[KeyNumber]) -> Table:
    """Return the key numbers of the verdict, a line each."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for number in numbers:
        interval = ""
        if number.interval:
            interval = f"({number.interval})"
        value = Text(number.value, style=STYLES[number.tone] or "bold")
        table.add_row(number.label, value, interval, Text(number.name))
    return table


def make_subset_table(outcome: Outcome, width: int = 80) -> Table:
    """Return the leading metric per modality subset, beside the uni-modal ceiling.

    width: characters of the terminal. Names of subsets are broken after "+" to fit.
    """
    metric = outcome.metrics[0]
    gaps = outcome.lead("gap")
    unimodal = outcome.unimodal_values()
    headings = ["present", metric.label.replace(" ", "\n"), "95 %\ninterval"]
    if unimodal:
        headings += ["uni-modal\nceiling", "gap\n(95 % interval)"]
    rows = []
    for left, row in outcome.listed().items():
        cells = [Text(metric.shown(row.value)), Text(format_interval(row, metric.percent))]
        if unimodal:
            gap = gaps[left]
            tone = judge_subset(outcome, left)
            points = with_interval(f"{ARROWS[tone]}{format_gap(gap)}", format_points_range(gap))
            cells.append(Text(metric.shown(find_ceiling(left, unimodal))))
            cells.append(Text(points, style=STYLES[tone]))
        rows.append((left, cells))

    names_width = width - 1 - FRAME
    for number, heading in enumerate(headings[1:]):
        widths = [cells[number].cell_len for _, cells in rows]
        widths += [len(line) for line in heading.split("\n")]
        names_width -= max(widths) + FRAME
    names_width = max(names_width, NARROWEST_NAMES)

    table = Table(title=f"{metric.label} per modality subset", title_justify="left")
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for left, cells in rows:
        table.add_row(Text(wrap_names(left, names_width)), *cells)
    return table


def make_label_table(outcome: Outcome, metrics: Sequence[Metric]) -> Table:
    """Return what a multi-label task is judged by besides F1 of the samples, per subset.

    Frequent labels alone can make that one high; in these each label counts the same.
    """
    table = Table(title="every label counts the same", title_justify="left")
    table.add_column("present", overflow="fold")
    values: dict[tuple[str, str, str], float] = {}
    for row in outcome.subsets:
        if row.missing != "any":
            values[row.model, row.left, row.metric] = row.value
    rows = [("ensemble", left, Text(left)) for left in outcome.lead()]
    rows += [("prior", left, Text("class prior")) for left in outcome.lead("prior")]
    for metric in metrics:
        table.add_column(metric.label, justify="right")
    for model, left, name in rows:
        table.add_row(name, *(metric.shown(values[model, left, metric.name]) for metric in metrics))
    return table


def make_size_table(outcome: Outcome) -> Table:
    """Return the leading metric by how many modalities are present."""
    metric = outcome.metrics[0]
    rows = []
    for summary in outcome.sizes():
        values = (summary.mean, summary.lowest.value, summary.highest.value)
        shown = [metric.shown(value) for value in values]
        rows.append([str(summary.size), str(summary.subsets), *shown])
    title = f"{metric.label} by how many modalities are present"
    return log.make_table(title, ["present", "subsets", "mean", "lowest", "highest"], rows)


def make_fold_table(outcome: Outcome) -> Table:
    """Return the leading metric of the complete set and of the worst subsets in every fold."""
    metric = outcome.metrics[0]
    shown = outcome.shown[:FOLD_COLUMNS]
    table = Table(title=f"{metric.label} over folds", title_justify="left")
    table.add_column("fold")
    for left in shown:
        table.add_column(Text(wrap_names(left, NARROWEST_NAMES)), justify="right")
    for name, values in list_fold_rows(outcome, shown):
        table.add_row(name, *(metric.shown(value) for value in values))
    return table


def wrap_names(names: str, width: int) -> str:
    """Break a set of modalities into lines of at most `width` characters, after "+" and "|"."""
    lines = [""]
    for part in re.findall(r"[^+|]+[+|]?", names):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append(part)
        else:
            lines[-1] += part
    return "\n".join(lines)


def make_ratio_tables(outcome: Outcome) -> Iterator[Table]:
    """Yield a table for each missing set, with a line per metric and ratio."""
    metrics = {metric.name: metric for metric in outcome.metrics}
    tables: dict[str, Table] = {}
    for row, draws in group_by_condition(outcome.ratios):
        metric = metrics[row.metric]
        if row.missing not in tables:
            tables[row.missing] = _make_ratio_table(outcome, row.missing)
        tables[row.missing].add_row(
            metric.label,
            f"{row.ratio:g}",
            metric.shown(row.value),
            format_interval(row, metric.percent),
            _format_draws(metric, draws),
            str(row.n),
        )
    yield from tables.values()


def _make_ratio_table(outcome: Outcome, missing: str) -> Table:
    """Return a table without rows."""
    title = Text(f"{outcome.title}: {describe_absence(missing)}", style="table.title")
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    headings = ["ratio", "value", "95 %\ninterval", "seeded\ndraws", "samples"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _format_draws(metric: Metric, draws: Sequence[ResultRow]) -> str:
    """Return mean ± standard deviation over the seeded draws, "-" where there are none."""
    if not draws:
        return "-"
    mean, std = mean_and_std([row.value for row in draws])
    if metric.percent:
        return f"{metric.shown(mean)} ± {100 * std:.1f}"
    return f"{mean:.3f} ± {std:.3f}"


def list_notes(outcome: Outcome) -> Iterator[str]:
    """Yield how to read the table: what the ceiling, the gap and absence are."""
    if outcome.unimodal_values():
        yield (
            "ceiling: the best uni-modal model of what is present; of several, the best is chosen "
            "on these same numbers"
        )
        yield (
            "gap: the ensemble minus the ceiling, in points; ▲ better or ▼ worse where the "
            "interval excludes 0 and no sample lacks the modality of the ceiling"
        )
    omitted = describe_listed_subsets(outcome)
    if omitted:
        yield omitted
    yield f"absence: {describe_rule(outcome)}"

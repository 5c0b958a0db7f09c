"""The commands on results that are already there: audit, of anybody's model, and leaderboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from umemma.cli.options import AsJson, Sets, take_turns

AUDITS = Path("results/audit")

Table = Annotated[
    Path,
    typer.Argument(
        metavar="TABLE",
        help="The answers: .parquet, .csv or .jsonl, a row per sample and subset (docs/audit.md).",
    ),
]
Out = Annotated[
    str,
    typer.Option(
        metavar="FOLDER",
        help="The folder for the report. By default results/audit/ and the table's name.",
        show_default=False,
    ),
]
Against = Annotated[
    str,
    typer.Option(
        metavar="TABLE",
        help="Test the differences to another model's answers to the same samples.",
        show_default=False,
    ),
]
Modalities = Annotated[
    str,
    typer.Option(
        metavar="A,B",
        help="The modalities. By default those that the subsets of the table name.",
        show_default=False,
    ),
]
Classes = Annotated[
    str,
    typer.Option(
        metavar="X,Y",
        help="The classes in the order of the numbers. By default those of the columns.",
        show_default=False,
    ),
]


Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="FOLDER...",
        help="Folders of results, each with a metrics.json or a compare.json.",
        show_default=False,
    ),
]
Page = Annotated[
    Path,
    typer.Option(metavar="FILE", help="The page; the same as Markdown is written beside it."),
]


def audit(
    table: Table,
    out: Out = "",
    against: Against = "",
    modalities: Modalities = "",
    classes: Classes = "",
    as_json: AsJson = False,
    set_: Sets = None,
) -> None:
    """Measure anybody's model with modalities missing, from a table of its answers.

    The table has a row per sample and modality subset: key, subset, target, and probabilities or
    logits. The report is that of `umemma evaluate`. --set takes seed, evaluate.metrics,
    evaluate.ratios, evaluate.draws, evaluate.bootstrap and evaluate.smallest_effect.

    Creates: results/audit/<table>/ report.html, report.md, metrics.json, information.json,
    grid.parquet, predictions.parquet, information.csv, robustness.csv, robustness.png,
    per_class.csv, confusion.csv; with --against differences.csv.
    """
    from umemma.reports import terminal
    from umemma.stages import audit as stage
    from umemma.system import log

    log.start_logging("audit")
    folder = AUDITS / table.stem
    if out:
        folder = Path(out)
    other = None
    if against:
        other = Path(against)
    with take_turns(folder):
        done = stage.run(table, folder, set_ or [], other, _split(modalities), _split(classes))
    if as_json:
        print(json.dumps(stage.as_json(done), indent=2, sort_keys=True, allow_nan=False))
        return
    terminal.print_evaluation(log.output, done.outcome)
    if done.differences:
        log.output.print(log.make_table(*stage.make_test_table(done)))
    terminal.print_files(log.output, folder)


def leaderboard(folders: Folders, out: Page = Path("leaderboard.html")) -> None:
    """Put the results of several folders into one page and into Markdown.

    It takes results of evaluate, audit and compare, also those of other people. Each dataset, split
    and protocol of training has a table, which only has rows of equally many samples; published
    numbers that fit stand below it. The page has no script, and sorts by any column.

    Creates: leaderboard.html, leaderboard.md.
    """
    from umemma.stages.share import leaderboard as stage
    from umemma.system import log

    log.start_logging("leaderboard")
    written = stage.run(folders, out)
    print(f"{written.rows} rows: {written.page}, {written.markdown}")


def _split(names: str) -> list[str]:
    """Return the names of "a,b"; [] of nothing."""
    return [name.strip() for name in names.split(",") if name.strip()]

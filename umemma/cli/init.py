"""The command that starts a project: init."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from umemma.errors import UserError

if TYPE_CHECKING:
    from umemma.datasets._manifest.columns import Column
    from umemma.datasets._manifest.proposal import Proposal

TASKS = ("multiclass", "multilabel", "regression")

TableOrRecipe = Annotated[
    str,
    typer.Argument(
        metavar="TABLE_OR_RECIPE",
        help=(
            "A table of your own (.csv, .tsv, .parquet, .jsonl), a folder of Hugging Face Parquet "
            "files or of WebDataset shards, or a recipe such as avmnist."
        ),
    ),
]
Label = Annotated[
    str,
    typer.Option(
        metavar="COLUMN",
        help="The column to predict. By default the one that is called label, class or alike.",
        show_default=False,
    ),
]
Task = Annotated[
    str,
    typer.Option(
        help=f"What the label is: {', '.join(TASKS)}. By default what its cells look like.",
        show_default=False,
    ),
]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Write the files without asking."),
]


def init(
    table_or_recipe: TableOrRecipe,
    label: Label = "",
    task: Task = "",
    yes: Yes = False,
) -> None:
    """Start a project in the current folder, from a table of your own or a recipe.

    Of a table the command shows what it takes each column for (modalities and their kinds, label,
    split, group), and asks before it writes. An existing file is never overwritten. Then correct
    params.yaml where it is wrong, and run `dvc init --no-scm && dvc repro`.

    Creates: params.yaml, dvc.yaml, .dvcignore, .gitignore.
    """
    from umemma.datasets._table import READERS
    from umemma.stages import init as stage

    if task and task not in TASKS:
        raise UserError(f"{task!r} is no task", "--task", f"Known: {', '.join(TASKS)}.", usage=True)
    folder = Path()
    stage.check_free(folder)
    table = Path(table_or_recipe)
    is_table = table.exists() or table.suffix.lower() in READERS or len(table.parts) > 1
    converted = is_table and stage.is_converted(table)
    if converted:
        with stage.convert_table(table) as written:
            params = _propose(written, label, task, table)
        source: str | None = str(table)
    elif is_table:
        params = _propose(table, label, task, table)
        source = str(table.parent)
    else:
        if label or task:
            raise UserError("are for a table", "--label, --task", "Leave them out.", usage=True)
        params = stage.find_recipe(table_or_recipe).read_text(encoding="utf-8")
        source = None
    if not yes and not _ask(f"Write {', '.join(stage.FILES)}?"):
        print("Nothing was written.")
        return
    stage.write_project(folder, params, source, converted=converted)
    print(f"Wrote {', '.join(stage.FILES)}")
    print("Next: look through params.yaml, then: dvc init --no-scm && dvc repro")


def _propose(table: Path, label: str, task: str, shown: Path) -> str:
    """Return the text of params.yaml for a table, after showing what its columns are for.

    shown: what the user named.
    """
    from umemma.datasets._manifest.columns import read_columns
    from umemma.datasets._manifest.proposal import find_label
    from umemma.stages import init as stage

    columns = read_columns(table)
    label = label or find_label(columns) or _ask_for_label(shown, columns)
    proposal, params = stage.propose_settings(table, columns, label, task)
    _print_proposal(shown, proposal)
    return params


def _ask_for_label(table: Path, columns: list[Column]) -> str:
    names = ", ".join(column.name for column in columns)
    if not sys.stdin.isatty():
        raise UserError(
            "no column is called like a label",
            str(table),
            f"Say which one to predict: --label COLUMN. Its columns: {names}",
            usage=True,
        )
    print(f"The columns of {table}: {names}")
    return str(typer.prompt("Which one is to be predicted?"))


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError(
            "nobody can be asked, so nothing was written",
            "umemma init",
            "Add --yes to write the files.",
            usage=True,
        )
    return typer.confirm(question, default=True)


def _print_proposal(table: Path, proposal: Proposal) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    from umemma.system.log import make_printable, output

    shown = Table(
        Column("column", no_wrap=True, max_width=24),
        Column("an example", no_wrap=True, max_width=24),
        "what it is for",
        title=make_printable(str(table)),
    )
    for name, column in proposal.columns.items():
        example = next(iter(column.filled), "")
        cells = (name, example[:40], proposal.uses.get(name, ""))
        shown.add_row(*(Text(make_printable(cell)) for cell in cells))
    output.print(shown)

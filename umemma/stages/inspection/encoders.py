"""encoders: print a table of the encoders that settings can name under `encoders`."""

from __future__ import annotations

from rich.table import Column, Table

from umemma.encoders.catalogue import list_encoders
from umemma.system.log import output


def run(pattern: str = "", modality: str = "") -> None:
    """Print the encoders whose names match `pattern`, such as `timm:resnet*`.

    UserError where none does.
    """
    rows, notes = list_encoders(pattern, modality)
    if rows:
        table = Table(
            Column("name", no_wrap=True),
            "modalities",
            Column("D", justify="right"),
            "input",
            "weights",
        )
        for row in rows:
            width = str(row.width or "input's")
            table.add_row(row.name, row.modalities, width, row.input, row.weights)
        output.print(table)
    for note in notes:
        output.print(note, markup=False, highlight=False)

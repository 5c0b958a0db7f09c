"""The command that asks what is left under a protocol of missingness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from umemma.cli.options import PARAMS, AsJson, ParamsFile, Sets, start
from umemma.errors import UserError

ProtocolFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="The protocol, in YAML (docs/evaluation.md).",
        show_default=False,
    ),
]
Ratios = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A=RATIO",
        help="How often modality A is missing, by itself. Repeatable.",
        show_default=False,
    ),
]
MaskTable = Annotated[
    str,
    typer.Option(
        metavar="TABLE",
        help="What each sample keeps: columns key and present, such as audio+image.",
        show_default=False,
    ),
]
WriteMasks = Annotated[
    str,
    typer.Option(
        metavar="FILE.csv",
        help="Write the masks of a seeded draw, to be used with --masks.",
        show_default=False,
    ),
]
Draw = Annotated[int, typer.Option(min=0, help="The number of the draw of --write-masks.")]
Kept = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="predictions.parquet of an evaluation or an audit. By default the last evaluation's.",
        show_default=False,
    ),
]


def protocol(
    file: ProtocolFile = "",
    ratio: Ratios = None,
    masks: MaskTable = "",
    write_masks: WriteMasks = "",
    draw: Draw = 0,
    predictions: Kept = "",
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Measure what is left when modalities go missing in your own way.

    How often each is missing may be different (--ratio audio=0.3 --ratio image=0.1), and depend on
    the label, a group, a column, or on another modality (FILE). A table of masks (--masks) repeats
    another one's test. The answer comes from the predictions that umemma evaluate or umemma audit
    kept.

    Creates: with --write-masks the table of masks.
    """
    if bool(file) + bool(ratio) + bool(masks) != 1:
        hint = "Give one of the three: a protocol's FILE, --ratio or --masks."
        raise UserError("no protocol, or more than one", "umemma protocol", hint, usage=True)
    if predictions:
        from umemma.config import default_params
        from umemma.system import log

        log.start_logging("protocol")
        settings = default_params("protocol", set_ or [])
    else:
        settings = start("protocol", params, set_)
    from umemma.reports.missingness import protocol as report
    from umemma.reports.terminal import print_paragraph
    from umemma.stages import protocol as stage
    from umemma.system.log import output

    outcome = stage.run(
        settings,
        _as_path(predictions),
        _as_path(file),
        stage.parse_ratios(ratio or []),
        _as_path(masks),
        _as_path(write_masks),
        draw,
    )
    counts = (outcome.samples, outcome.refused, outcome.lost)
    if as_json:
        answer = report.to_json(outcome.name, outcome.scores, *counts)
        print(json.dumps(answer, indent=2, sort_keys=True, allow_nan=False))
        return
    output.print(report.make_table(outcome.name, outcome.scores))
    for note in report.list_notes(*counts):
        print_paragraph(output, note)


def _as_path(text: str) -> Path | None:
    return Path(text) if text else None

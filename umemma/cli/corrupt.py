"""The command that measures what noise, blur, cover and gaps in a medium cost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from umemma.cli.options import PARAMS, AsJson, ParamsFile, Sets, start, take_turns

Modalities = Annotated[
    list[str] | None,
    typer.Option(
        "--modality",
        metavar="NAME",
        help="Corrupt this modality. Repeatable; by default each in turn.",
        show_default=False,
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="CORRUPTION",
        help="noise, blur, occlusion, burst, freeze or drop. Repeatable; by default all that fit.",
        show_default=False,
    ),
]
Severities = Annotated[
    list[int] | None,
    typer.Option(
        "--severity",
        metavar="1..5",
        help="Only this severity. Repeatable.",
        show_default=False,
    ),
]


def evaluate_corrupted(
    modality: Modalities = None,
    kind: Kinds = None,
    severity: Severities = None,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Measure accuracy with a modality corrupted, in five severities.

    One modality at a time gets noise, a blur, a cover, a gap or loses words, in evaluate.split
    only. Beside it stand the modality intact (severity 0) and absent, and the average of the
    uni-modal models. The data and the results of umemma evaluate stay as they are.

    Creates: results/<dataset>/corruption/ corruption.csv, corruption.json, corruption.png.
    """
    settings = start("evaluate-corrupted", params, set_)
    from umemma.reports.missingness import corruption as report
    from umemma.reports.terminal import print_paragraph
    from umemma.stages import corrupt as stage
    from umemma.system.log import output

    folder = settings.paths.results / report.FOLDER
    with take_turns(folder):
        outcome = stage.run(settings, modality or [], kind or [], severity or [])
    if outcome is None:  # of several processes, one has it
        return
    if as_json:
        answer = report.to_json(outcome.scores, outcome.settings, outcome.kinds)
        print(json.dumps(answer, indent=2, sort_keys=True, allow_nan=False))
        return
    for table in report.make_tables(outcome.scores, outcome.metric, outcome.kinds):
        output.print(table)
    print_paragraph(output, report.NOTE)
    print(f"results: {folder}")

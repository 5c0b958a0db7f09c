"""The commands that look at umemma itself: schema, check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def print_schema(
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Write the schema to this file instead.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Print a JSON Schema of params.yaml, with which an editor completes and checks settings.

    Write it with --out params.schema.json, and make this the first line of params.yaml:

    # yaml-language-server: $schema=params.schema.json

    Creates: with --out the file.
    """
    from umemma import datasets, modalities
    from umemma.config.schema import make_schema
    from umemma.system.files import new_file

    options = {name: datasets.get_module(name).Options for name in datasets.NAMES}
    augmentations = {kind: modalities.get_module(kind).Augment for kind in modalities.KINDS}
    text = json.dumps(make_schema(options, augmentations), indent=2)
    if not out:
        print(text)
        return
    with new_file(Path(out)) as aside:
        aside.write_text(f"{text}\n", encoding="utf-8")
    print(f"The schema is in {out}")


def check() -> None:
    """Try the whole pipeline on made samples, and say what works on this machine.

    Runs download, preprocess, both trainings, evaluate and predict, each in a process of its own,
    in a temporary folder that is removed at the end. The report has the versions of the libraries,
    the cores, the GPU, the codecs that can be decoded, and the extras with the commands that
    install those that are not there. Changes nothing. It takes less than a minute.

    Exit status 1 where a stage fails, with its message.
    """
    from umemma.stages.inspection import check as stage

    stage.run()

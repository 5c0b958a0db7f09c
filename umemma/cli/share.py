"""The commands that give a model away: card, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from umemma.cli.options import PARAMS, ParamsFile, Sets, start

Model = Annotated[
    Path,
    typer.Argument(help="The folder of a trained model.", show_default=False),
]


def write_card(
    model: Model,
    results: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="The folder of its evaluation. By default the results of params.yaml.",
            show_default=False,
        ),
    ] = "",
    repo: Annotated[
        str,
        typer.Option(metavar="OWNER/NAME", help="Where it will be published.", show_default=False),
    ] = "",
    licence: Annotated[
        str,
        typer.Option("--license", help="The licence of the model, by its name on the hub."),
    ] = "other",
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The card. By default card/README.md beside the model.",
            show_default=False,
        ),
    ] = "",
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Write the model card of a trained and evaluated model, in the format of Hugging Face.

    It has the results per modality subset with the uni-modal ceiling, what each modality adds, the
    limits, how to load the model, and its settings. Its numbers are those of metrics.json.

    Creates: models/<dataset>/card/README.md.
    """
    from umemma.system import log

    if results:
        log.start_logging("card")
        folder = Path(results)
    else:
        folder = start("card", params, set_).paths.results
    from umemma.stages.share import card as stage

    target = Path(out) if out else None
    print(f"model card: {stage.run(model, folder, repo, licence, target)}")


def push(
    model: Model,
    repo: Annotated[
        str,
        typer.Argument(metavar="OWNER/NAME", help="The repository.", show_default=False),
    ],
    private: Annotated[
        bool,
        typer.Option("--private", help="Make the repository private, if it is new."),
    ] = False,
    card: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The card. By default card/README.md beside the model.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Upload a trained model with its card to the Hugging Face hub.

    Others load it as hf://OWNER/NAME. You need a login (hf auth login) or HF_TOKEN.

    Creates: one commit of the repository, which is made if there is none.
    """
    from umemma.system import log

    log.start_logging("push")
    from umemma.stages.share import card as card_stage
    from umemma.stages.share import push as stage

    path = Path(card) if card else card_stage.locate_card(model)
    commit = stage.run(model, repo, path, private)
    print(f"pushed: hf://{repo}@{commit}")

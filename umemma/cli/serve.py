"""The command that answers over HTTP: serve."""

from __future__ import annotations

from typing import Annotated

import typer

from umemma.cli.options import PARAMS, Broken, ParamsFile, Sets, Trust, start_with_model


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="The folder of a trained model. By default the ensemble of params.yaml.",
            show_default=False,
        ),
    ] = "",
    host: Annotated[
        str,
        typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="The port to listen on; 0 is any free one."),
    ] = 8000,
    max_bytes: Annotated[
        int,
        typer.Option(min=1, help="Refuse a request that is larger."),
    ] = 2**26,
    max_requests: Annotated[
        int,
        typer.Option(min=1, help="Refuse further requests while so many are being answered."),
    ] = 16,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many requests are answered at one time. By default one per core, at most 4.",
            show_default=False,
        ),
    ] = None,
    broken: Broken = "absent",
    trust: Trust = False,
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Answer predictions over HTTP, and show a page to try the model by hand.

    POST /predict takes JSON or a form with files, GET /model says what it takes. It needs the extra
    `serve`: pip install 'umemma[serve]'.

    There is no password: whoever reaches the port can ask. Ctrl-C ends it.

    Exit status 130 after Ctrl-C, 75 after SIGTERM.
    """
    folder = start_with_model("serve", model, params, set_)
    from umemma.stages import serve as stage

    stage.run(folder, host, port, max_bytes, max_requests, threads, trust, broken)

"""The command line.

Each command is a thin function over a stage: it reads the settings, calls `stages/`, and prints
the result. torch is imported inside the stages, so that `--help` answers at once. This module
assembles the commands; `init`, `data`, `train`, `corrupt`, `tune`, `audit`, `protocol`,
`use`, `serve`, `share` and `look` hold them, `options` what they share.

Exit status: 0 = done; 2 = the command line or the settings are wrong; 75 or 130 = stopped by
SIGTERM or Ctrl-C; 1 = any other error that the user can correct.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from umemma._version import __version__
from umemma.cli import (
    audit,
    corrupt,
    data,
    init,
    look,
    protocol,
    serve,
    share,
    streams,
    train,
    tune,
    use,
)
from umemma.errors import UserError
from umemma.system import distributed
from umemma.system.cores import limit_spinning
from umemma.system.signals import keep_interrupts, make_stop_error

DATA = "Data"
TRAIN = "Train and evaluate"
USE = "Use"
LOOK = "Look"

app = typer.Typer(
    name="umemma",
    help=(
        "Train multi-modal models that keep working when a modality is missing (UME-MMA, "
        "arXiv 2310.06383).\n\n"
        "Every stage reads params.yaml in the current directory; --params names another file. "
        "`dvc repro` runs all stages."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _add(name: str, panel: str, command: Callable[..., None], text: str = "") -> None:
    """Add a command. Its help is `text` or its docstring, without the line breaks in paragraphs."""
    paragraphs = (text or inspect.getdoc(command) or "").split("\n\n")
    unwrapped = [" ".join(paragraph.split()) for paragraph in paragraphs]
    app.command(name, rich_help_panel=panel, help="\n\n".join(unwrapped))(_explain_stop(command))


def _explain_stop(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that ends with a message after Ctrl-C: Typer ends it without a word."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            raise make_stop_error(signal.SIGINT) from None

    return run


_add("init", DATA, init.init)
_add("download", DATA, data.download)
_add("doctor", DATA, data.doctor)
_add("preprocess", DATA, data.preprocess)
_add("verify", DATA, data.verify)
_add("pretrain-unimodal", TRAIN, train.pretrain_unimodal)
_add("finetune-ensemble", TRAIN, train.finetune_ensemble)
_add("evaluate-missing", TRAIN, train.evaluate_missing)
_add(
    "evaluate",
    TRAIN,
    train.evaluate_missing,
    "Measure accuracy with modalities missing: short name of evaluate-missing.",
)
_add("evaluate-corrupted", TRAIN, corrupt.evaluate_corrupted)
_add("tune", TRAIN, tune.tune)
_add("compare", TRAIN, train.compare)
_add("audit", TRAIN, audit.audit)
_add("leaderboard", TRAIN, audit.leaderboard)
_add("protocol", TRAIN, protocol.protocol)
_add("predict", USE, use.predict)
_add("export", USE, use.export)
_add("serve", USE, serve.serve)
_add("card", USE, share.write_card)
_add("push", USE, share.push)
_add("datasets", LOOK, data.list_datasets)
_add("encoders", LOOK, use.list_encoders)
_add("schema", LOOK, look.print_schema)
_add("check", LOOK, look.check)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A UserError becomes one message on stderr and its exit status."""
    limit_spinning(os.environ)  # before torch is imported
    streams.prepare_streams()
    try:
        exit_status = _run(arguments)
    finally:
        distributed.shutdown()
        # All is done but what libraries clean up, in which a Ctrl-C would print a traceback.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    sys.exit(exit_status)


def _run(arguments: list[str] | None) -> int:
    """Return the exit status. The error is gone then, and with it what its traceback refers to."""
    try:
        try:
            with keep_interrupts():
                app(arguments)
        finally:
            streams.flush_stdout()
    except UserError as error:
        return _report(error)
    except OSError as error:
        # The traceback is for the log file: what went wrong is the disk, or a stream.
        from loguru import logger

        logger.opt(exception=error).trace("OSError")
        what = f"can't be read or written: {error.strerror or error}"
        hint = "Check the disk, its free space and its permissions."
        return _report(UserError(what, str(error.filename or ""), hint))
    except RuntimeError as error:
        if not distributed.is_lost_process(error):
            raise
        from loguru import logger

        logger.opt(exception=error).trace("RuntimeError")
        rank, size, _ = distributed.world()
        what = "another process of this run has ended, or can't be reached"
        hint = "Its own message says why. Run the same command to resume."
        return _report(UserError(what, f"process {rank + 1} of {size}", hint))
    return 0


def _report(error: UserError) -> int:
    """Print the error, where it can be printed, and return the exit status."""
    from umemma.system import log

    with contextlib.suppress(OSError):
        if distributed.is_first_to_report(str(error)):
            print(log.make_printable(f"Error: {error}"), file=sys.stderr)
    return error.exit_status


def _print_version(requested: bool) -> None:
    if requested:
        print(f"umemma {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Show the version.",
        ),
    ] = False,
) -> None:
    pass

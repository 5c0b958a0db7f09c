"""What the commands share: options, and the start of a command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from umemma.errors import UserError, unknown_name
from umemma.system import distributed

if TYPE_CHECKING:
    from umemma.config import Params

PARAMS = Path("params.yaml")
LOCKS = Path("runs/locks")
EXECUTORS = ("local", "ray")

DatasetName = Annotated[
    str,
    typer.Argument(
        help="The dataset. By default the one that params.yaml names.",
        show_default=False,
    ),
]
ParamsFile = Annotated[
    Path,
    typer.Option("--params", metavar="FILE", help="The settings file."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=VALUE",
        help="Change a setting for this run. Repeatable.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Train again, even if the model exists."),
]
Again = Annotated[
    bool,
    typer.Option("--again", hidden=True, help="The former name of --force."),
]
TrackerName = Annotated[
    str,
    typer.Option(
        "--tracker",
        metavar="NAME",
        help="Also log to tensorboard, mlflow or wandb; by default locally, in runs/.",
        show_default=False,
    ),
]
TensorBoard = Annotated[
    bool,
    typer.Option("--tensorboard", hidden=True, help="The former --tracker tensorboard."),
]
ModelFolder = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="A trained model, or hf://owner/name. By default the ensemble of params.yaml.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Allow the model to run the code that its `import:` encoders name.",
    ),
]
Broken = Annotated[
    Literal["absent", "fail"],
    typer.Option(
        help="A medium that cannot be read is absent, or its sample gets no prediction.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON on stdout, and nothing else."),
]

ExecutorName = Annotated[
    str,
    typer.Option(help="Where the work is done: local, or ray."),
]
RayAddress = Annotated[
    str,
    typer.Option(
        help="The address of a Ray cluster. By default a new one on this machine.",
        show_default=False,
    ),
]


def check_executor(name: str, ray_address: str) -> None:
    """UserError for an unknown executor, and for an address that nothing uses."""
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS, "--executor")
    if ray_address and name != "ray":
        raise UserError(
            "is only used with --executor ray",
            "--ray-address",
            "Add --executor ray, or leave --ray-address out.",
            usage=True,
        )


def name_tracker(tracker: str, tensorboard: bool) -> str:
    """Return the name of the tracker, "" for none. UserError for an unknown one."""
    from umemma.system.trackers import check_tracker

    if tensorboard and not tracker:
        tracker = "tensorboard"
    check_tracker(tracker)
    return tracker


def start(command: str, file: Path, sets: list[str] | None, dataset: str = "") -> Params:
    """Start the log of a command and return its settings.

    dataset: the name of a dataset, or "". One that the file is not about has default settings, and
        needs no file.
    """
    from umemma import datasets
    from umemma.system import log

    if dataset:
        datasets.check(dataset)
    params = _load(file, sets or [], dataset)
    datasets.check(params.dataset)
    if params.name != params.dataset and params.name in datasets.NAMES:
        raise UserError(
            f"{params.name!r} is another dataset, whose folders these would be",
            "name",
            "Choose a name that no dataset of `umemma datasets` has.",
            usage=True,
        )
    log.start_logging(command)
    return params


def _load(file: Path, sets: list[str], dataset: str) -> Params:
    from umemma import config

    if dataset and file == PARAMS and not file.exists():
        return config.default_params(dataset, sets)
    params = config.load_params(file, sets)
    if dataset in ("", params.dataset):
        return params
    return config.default_params(dataset, sets)


def start_with_model(command: str, folder: str, file: Path, sets: list[str] | None) -> Path:
    """Start the log of a command and return the folder of its model.

    The settings are read only where no folder is named.
    """
    from umemma.system import log

    if not folder:
        return start(command, file, sets).paths.ensemble
    log.start_logging(command)
    from umemma.models import hub

    if hub.is_on_hub(folder):
        return hub.fetch_model(folder)
    return Path(folder)


def print_once(text: str) -> None:
    """Print a result on rank 0 only."""
    if distributed.is_main():
        print(text)


@contextlib.contextmanager
def take_turns(folder: Path | str) -> Iterator[None]:
    """Let one command at a time make a folder; another waits, and says for which one.

    The lock is the system's (flock), so it ends with its process, however that ends. On a file
    system that has none, two may work at once: both write whole files, and the same ones.
    """
    path = LOCKS / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', str(folder))}.lock"
    with contextlib.ExitStack() as stack:
        if distributed.is_main():
            with contextlib.suppress(OSError):
                _lock(path, folder, stack)
        yield


def _lock(path: Path, folder: Path | str, stack: contextlib.ExitStack) -> None:
    """Hold the lock at `path` until the end of `stack`, which also removes the file."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as attempt:
            file = attempt.enter_context(path.open("a+", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                from loguru import logger

                file.seek(0)
                holder = file.read().strip() or "another process"
                logger.warning(f"{folder}: {holder} is making it. Waiting for its end.")
                fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                attempt.callback(path.unlink, missing_ok=True)
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}")
                file.flush()
                stack.push(attempt.pop_all())
                return
        # The one before has removed the file: this lock is of a file that is none any more.

"""Trackers of experiments: TensorBoard, MLflow, Weights & Biases. They get what metrics.csv has.

A tracker is a module with `open_log(folder, project, title, settings, run)`, which returns a log:
its `run` (a name to open it again by), `add(points)` and `close()`; and `FAILURES`, the exceptions
of its library. A tracker changes no result, and one that fails ends no training.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from loguru import logger

from umemma.errors import UserError, unknown_name
from umemma.system import distributed
from umemma.system.files import read_json, write_json

PACKAGES = {"mlflow": "mlflow", "tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
TITLES = {"mlflow": "MLflow", "tensorboard": "TensorBoard", "wandb": "Weights & Biases"}


class Point(NamedTuple):
    """A value of a curve. name: such as "val/score"."""

    name: str
    value: float
    step: int


class Log(Protocol):
    """An open run of a tracker."""

    run: str

    def add(self, points: Sequence[Point]) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """One run of a tracker, which a resumed training continues.

    The rows of metrics.csv have the same order however often a training is stopped, so the number
    of rows that the tracker has tells which are new. It stands in the run's folder, beside the
    tracker's own name of the run.
    """

    def __init__(
        self, name: str, folder: Path, project: str, title: str, settings: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.module = _import(name)
        self.file = folder / f"tracker-{name}.json"
        self.seen = 0  # rows so far
        self.logged = 0  # rows that the tracker has
        self.log: Log | None = None
        run = ""
        with contextlib.suppress(UserError):
            state = read_json(self.file, "")
            run, self.logged = str(state["run"]), int(state["rows"])
        if distributed.is_main():
            with self._warn_of_failures():
                flat = {key: str(value) for key, value in _flatten(settings)}
                self.log = self.module.open_log(folder, project, title, flat, run)

    def add(self, rows: Sequence[Point], more: Sequence[Point] = ()) -> None:
        """Log the rows that the tracker lacks; `more` is about the machine, and no row."""
        new = rows[max(0, self.logged - self.seen) :]
        self.seen += len(rows)
        if self.log is None or not new:
            return
        with self._warn_of_failures():
            self.log.add(sorted([*new, *more], key=lambda point: point.step))
            self.logged = self.seen
            write_json(self.file, {"run": self.log.run, "rows": self.logged})

    def finish(self) -> None:
        """Close the run. A training after this one is another run."""
        if self.log is None:
            return
        with self._warn_of_failures():
            self.log.close()
        self.file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _warn_of_failures(self) -> Iterator[None]:
        """Do without the tracker from its first failure on."""
        try:
            yield
        except (OSError, *self.module.FAILURES) as error:
            self.log = None
            reason = " ".join(str(error).split())[:300]
            logger.warning(
                f"{TITLES[self.name]} can't be reached: {reason}. The command goes on without it."
            )


def open_tracker(
    name: str, folder: Path, project: str, title: str, settings: Mapping[str, Any]
) -> Tracker | None:
    """Return the tracker `name` of a run, None for "".

    folder: of the run; project: what its runs are gathered under. UserError for an unknown tracker
    and for one that isn't installed.
    """
    if not name:
        return None
    return Tracker(name, folder, project, title, settings)


def check_tracker(name: str) -> None:
    """UserError for an unknown tracker, "" is none."""
    if name and name not in PACKAGES:
        raise unknown_name("tracker", name, PACKAGES, "--tracker")


def _import(name: str) -> Any:
    check_tracker(name)
    try:
        importlib.import_module(PACKAGES[name])
    except ImportError:
        what = f"{TITLES[name]} isn't installed"
        hint = f"Run: pip install 'umemma[{name}]'"
        raise UserError(what, f"--tracker {name}", hint) from None
    return importlib.import_module(f"umemma.system.trackers.{name}")


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("finetune.epochs", 20) and so on."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

"""Weights & Biases: offline in runs/wandb/, unless WANDB_MODE says otherwise."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from umemma.system.trackers import Point

FAILURES: tuple[type[Exception], ...] = (wandb.Error,)
FOLDER = Path("runs")  # in which wandb makes a folder wandb/


class RunLog:
    """A run of Weights & Biases."""

    def __init__(self, run: Any) -> None:
        self.run: str = run.id
        self.opened = run

    def add(self, points: Sequence[Point]) -> None:
        for step, at_step in itertools.groupby(points, lambda point: point.step):
            self.opened.log({point.name: point.value for point in at_step}, step=step)

    def close(self) -> None:
        self.opened.finish()


def open_log(
    folder: Path, project: str, title: str, settings: Mapping[str, str], run: str
) -> RunLog:
    """Return the log of a run, that of an earlier process where `run` names one."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    opened = wandb.init(
        project=os.environ.get("WANDB_PROJECT", project),
        name=title,
        id=run or None,
        resume="allow",
        config=dict(settings),
        dir=str(FOLDER),
        mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
        settings=wandb.Settings(silent=True, console="off", init_timeout=30),
    )
    return RunLog(opened)

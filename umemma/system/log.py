"""The terminal and the log.

One console draws progress bars and log lines on stderr, so that neither tears the other.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from loguru import logger
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from umemma.system.distributed import is_main, world

USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/?#]+@", re.IGNORECASE)
SECRET_QUERY = re.compile(
    r"([?&][^\s=&]*(?:token|sig|key|secret|passw|credential|auth)[^\s=&]*=)[^\s&'\"#]+",
    re.IGNORECASE,
)
console = Console(stderr=True)
output = Console()  # results, on stdout


def start_logging(command: str, folder: Path = Path("logs")) -> None:
    """Log to the console, and in full to a new file under `folder`.

    A folder that cannot be written does not stop the command.
    """
    rank, size, _ = world()
    if size > 1:
        # DDP warns that it looks for unused parameters in vain. Torch reads this when imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    level = "INFO"
    if rank > 0:
        level = "WARNING"  # only rank 0 logs at INFO
    logger.remove()
    logger.add(
        lambda line: console.print(make_printable(line), end="", markup=False, highlight=False),
        format="{message}",
        level=level,
        diagnose=False,
    )
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}"
    if size > 1:
        name += f"-{rank}"
    try:
        log_file = LogFile(folder / f"{name}.log")
    except OSError as error:
        logger.warning(f"no log file: {error}")
    else:
        logger.add(
            log_file,
            format="{time:YYYY-MM-DD HH:mm:ss.SSS} {level} {message}",
            level="TRACE",
            diagnose=False,  # the values of variables, passwords among them
        )
    logger.debug(f"command line: {sys.argv}")


class LogFile:
    """A file of log lines, which ends where the disk is full: that must not end the command."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: TextIO | None = path.open("a", encoding="utf-8", buffering=1)

    def write(self, line: str) -> None:
        if self.file is None:
            return
        try:
            self.file.write(make_printable(line))
        except OSError as error:
            self.stop()
            console.print(f"the log file ends here: {error}", markup=False, highlight=False)

    def stop(self) -> None:
        """Close the file: loguru calls this as it lets go of it."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.close()
        self.file = None


def make_printable(text: str) -> str:
    """Return a text as it may be shown.

    Control characters are spelled out: those of a stranger could command a terminal. What opens a
    door, in an address, becomes three stars: user:password@, and a query like ?token=.
    """
    text = USER_INFO.sub(r"\1***@", text)
    text = SECRET_QUERY.sub(r"\1***", text)
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def make_progress() -> Progress:
    """Return bars that stay on the screen when they are done.

    Each task may set a `note`, such as the loss or the samples per second.
    """
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not is_main(),
    )


class TrainingProgress:
    """How far a training is: a log line per epoch and, on a terminal, a bar with the time left.

    done_steps: of `total_steps`, those that were done before this process resumed the training.
    """

    def __init__(self, title: str, epochs: int, total_steps: int, done_steps: int) -> None:
        self.title = title
        self.epochs = epochs
        self.epoch = 0
        self.done_steps = done_steps
        self.started = time.monotonic()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            disable=not (is_main() and console.is_terminal),
        )
        self.task = self.bars.add_task(title, total=total_steps, completed=done_steps)

    def __enter__(self) -> TrainingProgress:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.bars.update(self.task, description=self._name_epoch())

    def advance(self) -> None:
        """Count a step."""
        self.bars.advance(self.task)

    def end_epoch(self, note: str) -> None:
        """Log how the epoch ended. note: its loss and score in words."""
        task = self.bars.tasks[0]
        assert task.total is not None
        seconds = time.monotonic() - self.started
        done = task.completed - self.done_steps
        left = estimate_remaining(seconds, done, task.total - task.completed)
        logger.info(f"{self._name_epoch()}: {note}, {format_duration(left)} left")

    def _name_epoch(self) -> str:
        return f"{self.title}: epoch {self.epoch}/{self.epochs}"


def estimate_remaining(seconds: float, done: float, remaining: float) -> float:
    """Return the seconds that `remaining` steps take at the mean speed of `done` steps."""
    return seconds / max(done, 1) * remaining


def format_duration(seconds: float) -> str:
    """Return "0:42" or "1:02:10"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}"


def make_table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1
) -> Table:
    """Return a table for the terminal: its first `names` columns are words, the others numbers."""
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        if i < names:
            table.add_column(heading, justify="left", no_wrap=True, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=False, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table

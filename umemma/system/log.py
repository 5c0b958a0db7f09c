"""The terminal and the log.

One console draws progress bars and log lines on stderr, so that neither tears the other.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from loguru import logger
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from umemma.system.distributed import is_main, world

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
        lambda line: console.print(line, end="", markup=False, highlight=False),
        format="{message}",
        level=level,
    )
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}"
    if size > 1:
        name += f"-{rank}"
    try:
        logger.add(
            folder / f"{name}.log",
            format="{time:YYYY-MM-DD HH:mm:ss.SSS} {level} {message}",
            level="DEBUG",
            delay=True,
        )
    except OSError as error:
        logger.warning(f"no log file: {error}")
    logger.debug(f"command line: {sys.argv}")


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

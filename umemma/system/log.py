"""The terminal and the log. One console draws progress bars and log lines on stderr, so that neither tears the other."""

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


def start(command: str, folder: Path = Path("logs")) -> None:
    """Log to the console, and in full to a new file under `folder`; a folder that can't be written is no reason to stop."""
    rank, size, _ = world()
    if (
        size > 1
    ):  # DDP warns that it looks for unused parameters in vain; read when torch is imported
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    level = "WARNING" if rank else "INFO"  # of several processes one speaks
    logger.remove()
    logger.add(
        lambda line: console.print(line, end="", markup=False, highlight=False),
        format="{message}",
        level=level,
    )
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}{f'-{rank}' if size > 1 else ''}.log"
    try:
        logger.add(
            folder / name,
            format="{time:YYYY-MM-DD HH:mm:ss.SSS} {level} {message}",
            level="DEBUG",
            delay=True,
        )
    except OSError as error:
        logger.warning(f"no log file: {error}")
    logger.debug(f"command line: {sys.argv}")


def progress() -> Progress:
    """Bars that stay on the screen when they are done; each task may set a `note` (loss, samples per second)."""
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not is_main(),
    )


def table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1
) -> Table:
    """For the terminal: the first `names` columns are words, the others numbers."""
    found = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        found.add_column(
            heading, justify="left" if i < names else "right", no_wrap=i < names, overflow="fold"
        )
    for row in rows:
        found.add_row(*row)
    return found

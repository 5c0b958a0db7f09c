"""TensorBoard: events in the folder of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from umemma.system.trackers import Point

FAILURES: tuple[type[Exception], ...] = ()


class EventLog:
    """Events in a folder. A run is its folder, so it has no other name."""

    def __init__(self, folder: Path) -> None:
        self.run = folder.name
        self.writer = SummaryWriter(str(folder))

    def add(self, points: Sequence[Point]) -> None:
        for point in points:
            self.writer.add_scalar(point.name, point.value, point.step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def open_log(
    folder: Path, project: str, title: str, settings: Mapping[str, str], run: str
) -> EventLog:
    """Return the log of a run, which new events continue."""
    return EventLog(folder)

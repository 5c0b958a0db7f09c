"""Where the time of an epoch goes: to waiting for data, and to waiting for a core."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")

MIN_SECONDS = 5.0  # s of an epoch that tells whether other programs use the cores
MIN_CORE_SHARE = 0.75  # of the time of the steps, below which they do
MAX_WAITS = 1000  # whose events are kept before they are read


class DataClock(Generic[Item]):
    """An iterator over batches that measures how long they were waited for.

    It also measures how long this thread was on a core, waits for batches left out.
    """

    def __init__(self, batches: Iterator[Item]) -> None:
        self.batches = batches
        self.started = time.perf_counter()
        self.started_on_core = time.thread_time()
        self.waited = 0.0  # s
        self.waited_on_core = 0.0  # s

    def __iter__(self) -> DataClock[Item]:
        return self

    def __next__(self) -> Item:
        before = time.perf_counter()
        before_on_core = time.thread_time()
        item = next(self.batches)
        self.waited += time.perf_counter() - before
        self.waited_on_core += time.thread_time() - before_on_core
        return item

    def read_waited(self) -> float:
        """Return how long batches were waited for, in s."""
        return self.waited

    def read_seconds(self) -> float:
        """Return the time since the clock was made, in s."""
        return time.perf_counter() - self.started

    def read_core_share(self) -> float:
        """Return the share of the time of the steps in which this thread was on a core.

        A thread takes part in all that it computes with others, so it is off its core only where
        another program is on it, or on that of another thread, or where it waits for a device.
        """
        on_core = time.thread_time() - self.started_on_core - self.waited_on_core
        return on_core / (self.read_seconds() - self.waited)


class GpuDataClock(DataClock[Item]):
    """A DataClock for steps on a GPU, which computes them while the next batch is prepared.

    It waits for a batch from the end of the step before until the batch is there, copied to it,
    augmented and normalised.
    """

    def __init__(self, batches: Iterator[Item]) -> None:
        super().__init__(batches)
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._waited_on_gpu = 0.0  # s

    def __next__(self) -> Item:
        start = _mark_now()
        item = super().__next__()
        self._waits.append((start, _mark_now()))
        if len(self._waits) == MAX_WAITS:
            self.read_waited()
        return item

    def read_waited(self) -> float:
        for start, end in self._waits:
            end.synchronize()
            self._waited_on_gpu += start.elapsed_time(end) / 1000
        self._waits.clear()
        return self._waited_on_gpu


def _mark_now() -> torch.cuda.Event:
    """Return an event whose time is when the GPU has computed what it has been given so far."""
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def advise_threads(threads: int, core_share: float, seconds: float) -> int:
    """Return how many threads may be faster than `threads`, after an epoch of `seconds`.

    core_share: as of DataClock. Threads wait for one another, so one without a core stops all.
    """
    if seconds < MIN_SECONDS or core_share > MIN_CORE_SHARE:
        return threads
    return max(1, int(threads * core_share))

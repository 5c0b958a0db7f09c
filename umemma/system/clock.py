"""Where the time of an epoch goes: to waiting for data, and to waiting for a core."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

MIN_SECONDS = 5.0  # s of an epoch that tells whether other programs use the cores
MIN_CORE_SHARE = 0.75  # of the time of the steps, below which they do


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


def advise_threads(threads: int, core_share: float, seconds: float) -> int:
    """Return how many threads may be faster than `threads`, after an epoch of `seconds`.

    core_share: as of DataClock. Threads wait for one another, so one without a core stops all.
    """
    if seconds < MIN_SECONDS or core_share > MIN_CORE_SHARE:
        return threads
    return max(1, int(threads * core_share))

"""The clock of an epoch: waiting for data, and for a core."""

from __future__ import annotations

import time

import pytest

from umemma.system.clock import DataClock, advise_threads


def use_core(seconds: float) -> None:
    """Compute for `seconds` of this thread's time on a core."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_waits_for_data_are_no_time_of_the_steps():
    def make_batches():
        for number in range(3):
            time.sleep(0.1)
            use_core(0.05)
            yield number

    clock = DataClock(make_batches())
    for _ in clock:
        use_core(0.1)
    assert 0.45 <= clock.waited <= clock.read_seconds() - 0.3
    on_core = clock.read_core_share() * (clock.read_seconds() - clock.waited)
    assert on_core == pytest.approx(0.3, abs=0.02)


def test_steps_that_wait_for_something_else_are_seen():
    clock = DataClock(iter(range(3)))
    for _ in clock:
        use_core(0.02)
        time.sleep(0.2)
    assert clock.read_core_share() < 0.2


@pytest.mark.parametrize(
    ("threads", "core_share", "seconds", "advised"),
    [
        (2, 0.5, 60, 1),
        (16, 0.5, 60, 8),
        (1, 0.5, 60, 1),
        (16, 0.9, 60, 16),  # no other program is there
        (16, 0.5, 1, 16),  # too short to tell
    ],
)
def test_fewer_threads_are_advised_where_other_programs_take_cores(
    threads, core_share, seconds, advised
):
    assert advise_threads(threads, core_share, seconds) == advised

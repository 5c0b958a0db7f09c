"""Commands as processes, several at a time: what each took of the machine, and an orderly end when one is asked for."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from umemma.errors import UserError

STOPPED: dict[int, int] = {
    signal.SIGTERM: 75,
    signal.SIGINT: 130,
}  # exit status; 75 is EX_TEMPFAIL, "try again"


class Command(NamedTuple):
    """What it prints is added to the file `log`."""

    words: Sequence[str]
    log: Path


class Ended(NamedTuple):
    """status: as the shell knows it, below 0 the signal that ended it; wall and processor time in s; peak: GiB of main memory
    of the largest of its processes."""

    status: int
    seconds: float
    cpu: float
    peak: float


# What is to be done one after another: each command it yields is run, and how that ended comes back.
Job = Generator[Command, Ended, None]


@dataclass
class _Child:
    name: str
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    begun: float = field(default_factory=time.perf_counter)


def run(
    jobs: Mapping[str, Job], width: int, devices: Sequence[str] = ()
) -> Iterator[tuple[str, UserError | None]]:
    """Carry out `width` jobs at a time, each with its share of the cores and, in turn, one of the GPUs `devices`. Gives their
    names as they end, with the error that ended one; the others go on.

    On SIGTERM and Ctrl-C no further command begins, those under way get SIGTERM and are waited for, and UserError says
    so. Where this process dies without a word, they get SIGTERM too (on Linux). The process must have no other children.
    """
    waiting, free = deque(jobs.items()), deque(range(width))
    running: dict[int, _Child] = {}
    with _asked_to_stop(running) as stops:
        while running or (waiting and not stops):
            # 1. A new job where there is room for one, else the next to end.
            if waiting and free and not stops:
                (name, job), slot = waiting.popleft(), free.popleft()
                then = _next(job, None)
            else:
                pid, status, used = os.wait4(-1, 0)
                if not (child := running.pop(pid, None)):
                    continue
                name, job, slot = child.name, child.job, child.slot
                child.process.returncode = os.waitstatus_to_exitcode(status)
                peak = used.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
                seconds, cpu = time.perf_counter() - child.begun, used.ru_utime + used.ru_stime
                then = _next(job, Ended(child.process.returncode, seconds, cpu, peak))
            # 2. What it wants next.
            if isinstance(then, Command) and not stops:
                process = _start(then, width, devices[slot % len(devices)] if devices else None)
                running[process.pid] = _Child(name, job, slot, process)
                if stops:  # the signal came before it was among those that are told
                    _end(process.pid)
                continue
            free.append(slot)
            if then is None or (
                isinstance(then, UserError) and not stops
            ):  # one that was stopped hasn't failed
                yield name, then
    if stops:
        what = f"stopped by {signal.Signals(stops[0]).name}"
        raise UserError(
            what, hint="Run the same command to go on from there.", status=STOPPED[stops[0]]
        )


def _next(job: Job, ended: Ended | None) -> Command | UserError | None:
    try:
        return next(job) if ended is None else job.send(ended)
    except StopIteration:
        return None
    except UserError as error:
        return error


def _start(command: Command, width: int, device: str | None) -> subprocess.Popen[bytes]:
    """In a group of its own: Ctrl-C reaches this process alone, which then sees to the others."""
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // width)))
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    die_together = None
    if sys.platform == "linux":
        set_death_signal = 1  # see prctl(2)
        die_together = functools.partial(ctypes.CDLL(None).prctl, set_death_signal, signal.SIGTERM)
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log:
        return subprocess.Popen(
            command.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
            preexec_fn=die_together,
        )


@contextlib.contextmanager
def _asked_to_stop(running: Mapping[int, _Child]) -> Iterator[list[int]]:
    """The signals to stop that have come; each is passed on as SIGTERM. However the block ends, no child goes on."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for pid in list(running):
            _end(pid)

    before = {number: signal.signal(number, note) for number in STOPPED}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for pid, child in running.items():
            _end(pid)
            child.process.wait()


def _end(pid: int) -> None:
    """Not Popen.terminate, which would take the status of one that has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)

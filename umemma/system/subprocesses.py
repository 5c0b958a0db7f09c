"""Run commands as processes, several at a time, and measure the resources that each one uses."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from umemma.errors import UserError
from umemma.system.cores import count_cores
from umemma.system.signals import catch_stop_signals, make_stop_error

LAST_LINES = 5  # of a failed process that its error quotes


class Command(NamedTuple):
    """A command line. What it prints is appended to the file `log`.

    folder: where it runs, None for the current directory.
    environment: variables in addition to those of this process.
    """

    words: Sequence[str]
    log: Path
    folder: Path | None = None
    environment: Mapping[str, str] = {}


class Ended(NamedTuple):
    """How a command ended.

    status: its exit status; a negative number is the signal that ended it.
    seconds: wall time in s.
    cpu: processor time in s.
    peak: GiB of main memory of the largest of its processes.
    """

    status: int
    seconds: float
    cpu: float
    peak: float


# Commands to run one after another: each one that the generator yields is run, and it is sent how
# that command ended.
Job = Generator[Command, Ended, None]


@dataclass
class _Child:
    name: str
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.perf_counter)


def run(
    jobs: Mapping[str, Job],
    width: int,
    devices: Sequence[str] = (),
    threads: int | None = None,
) -> Iterator[tuple[str, UserError | None]]:
    """Run `width` jobs at a time, and yield (name, error or None) as each one ends.

    A job that fails does not stop the others. After SIGTERM or Ctrl-C no further command starts;
    the running ones get SIGTERM and are waited for, and UserError says so. If this process dies,
    they get SIGTERM as well (on Linux). The process must have no other children.

    devices: the GPUs. The jobs get an equal share of the cores, and in turn one of the GPUs.
    threads: the most that each job may use of its share, None for all of it.
    """
    share = max(1, count_cores() // width)
    threads = min(threads or share, share)
    waiting = deque(jobs.items())
    free_slots = deque(range(width))
    running: dict[int, _Child] = {}

    def forward(signals: Sequence[int]) -> None:
        _terminate_all(running)

    with _end_with_block(running), catch_stop_signals(forward) as stops:
        while running or (waiting and not stops):
            # 1. Start a new job where a slot is free, or wait for a command to end.
            if waiting and free_slots and not stops:
                name, job = waiting.popleft()
                slot = free_slots.popleft()
                step = _advance(job, None)
            else:
                pid, status, usage = os.wait4(-1, 0)
                child = running.pop(pid, None)
                if child is None:
                    continue
                name = child.name
                job = child.job
                slot = child.slot
                step = _advance(job, _measure(child, status, usage))
            # 2. Run the next command of the job.
            if isinstance(step, Command) and not stops:
                device = None
                if devices:
                    device = devices[slot % len(devices)]
                process = _start(step, threads, device)
                running[process.pid] = _Child(name, job, slot, process)
                if stops:  # the signal came before this process was in `running`
                    _terminate(process.pid)
                continue
            # 3. The job is over. One that was stopped has not failed.
            free_slots.append(slot)
            if step is None:
                yield name, None
            elif isinstance(step, UserError) and not stops:
                yield name, step
    if stops:
        raise make_stop_error(stops[0])


def run_alone(named: tuple[str, Command]) -> tuple[str, UserError | None]:
    """Run a command. Returns its name, and None or an error with what it printed last."""
    name, command = named

    def job() -> Job:
        ended = yield command
        if ended.status:
            raise UserError(f"{read_reason(ended.status, command.log)} (log: {command.log})")

    ((_, error),) = run({name: job()}, 1)
    return name, error


def read_reason(status: int, log: Path) -> str:
    """Return the last error message in a log, or the signal that ended the process."""
    reason = ""
    if status > 0:
        text = log.read_text(encoding="utf-8", errors="replace").strip()
        message = re.split(r"^(?:\w+\.)*\w*Error: ", text, flags=re.MULTILINE)[-1]
        reason = "\n".join(message.splitlines()[-LAST_LINES:])
    return reason or f"ended by signal {-status}"


def _advance(job: Job, ended: Ended | None) -> Command | UserError | None:
    """Return the next command of a job, the error that ended it, or None after the last command."""
    try:
        if ended is None:
            return next(job)
        return job.send(ended)
    except StopIteration:
        return None
    except UserError as error:
        return error


def _measure(child: _Child, status: int, usage: resource.struct_rusage) -> Ended:
    exit_status = os.waitstatus_to_exitcode(status)
    child.process.returncode = exit_status
    seconds = time.perf_counter() - child.started
    cpu = usage.ru_utime + usage.ru_stime
    units_per_gib = 2**20  # KiB
    if sys.platform == "darwin":
        units_per_gib = 2**30  # bytes
    return Ended(exit_status, seconds, cpu, usage.ru_maxrss / units_per_gib)


def _start(command: Command, threads: int, device: str | None) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own.

    So Ctrl-C reaches only this process, which then stops the others.
    """
    environment = {**os.environ, **command.environment}
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log:
        return subprocess.Popen(
            command.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=command.folder,
            env=environment,
            process_group=0,
            preexec_fn=_die_with_parent(),
        )


def _die_with_parent() -> Callable[[], int] | None:
    """Return a function that makes a new process get SIGTERM when its parent dies (on Linux)."""
    if sys.platform != "linux":
        return None
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
    prctl = ctypes.CDLL(None).prctl
    return functools.partial(prctl, set_parent_death_signal, signal.SIGTERM)


@contextlib.contextmanager
def _end_with_block(running: Mapping[int, _Child]) -> Iterator[None]:
    """End all running processes however the block ends."""
    try:
        yield
    finally:
        _terminate_all(running)
        for child in running.values():
            child.process.wait()


def _terminate_all(running: Mapping[int, _Child]) -> None:
    for pid in list(running):
        _terminate(pid)


def _terminate(pid: int) -> None:
    """Send SIGTERM. Popen.terminate would collect the status of a process that has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)

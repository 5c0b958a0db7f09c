"""Run independent jobs in several processes, on this machine or on a Ray cluster.

An executor is `(function, jobs, workers) -> results`, in any order, as they become available. Who
closes it before its end gets back when no worker is left.
`function` must be a function of a module, and idempotent: a job whose worker dies is run again. A
job that kills its worker every time is skipped with a message and has no result. The caller finds
out what is missing from what the jobs leave behind.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import multiprocessing.process
import os
import re
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil
from loguru import logger

from umemma.errors import UserError
from umemma.system.signals import allow_interrupts, start_without_interrupts

Job = TypeVar("Job")
Result = TypeVar("Result")

ATTEMPTS = 2  # for a job that is alone with its worker
JOBS_PER_WORKER = 2  # submitted at a time, so that no worker waits
CONNECT_TIMEOUT = 10  # s
SEMAPHORES = "umemma"  # begins their names
SHARED_MEMORY = Path("/dev/shm")  # where glibc has them


class Executor(Protocol):
    def __call__(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
    ) -> Generator[Result, None, None]: ...


# On this machine. ---------------------------------------------------------------------------------


def run_locally(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
) -> Generator[Result, None, None]:
    """Run the jobs in `workers` spawned processes. A single worker is this process itself."""
    if workers == 1:
        yield from map(function, jobs)
        return
    remaining = iter(jobs)
    submitted = deque[Job]()
    while True:
        # 1. Run as many jobs at a time as there are workers, until a worker dies. Any of the
        #    submitted jobs may have killed it.
        try:
            with _make_pool(workers) as pool:
                width = JOBS_PER_WORKER * workers
                yield from _run_window(pool, function, remaining, width, submitted)
            return
        except BrokenProcessPool:
            logger.warning(
                f"A worker process died; the {len(submitted)} jobs in progress are run again."
            )
        # 2. Run the submitted jobs one by one, which shows the one that kills. Then go to 1.
        while submitted:
            yield from _run_alone(function, submitted.popleft())


def _run_alone(function: Callable[[Job], Result], job: Job) -> Iterator[Result]:
    """Yield the result of a job, or nothing where it killed its worker in each attempt."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _make_pool(1) as pool:
                with start_without_interrupts():
                    future = pool.submit(function, job)
                yield future.result()
            return
        except BrokenProcessPool:
            logger.error(f"{job} killed its worker process, attempt {attempt} of {ATTEMPTS}.")


def _run_window(
    pool: ProcessPoolExecutor,
    function: Callable[[Job], Result],
    jobs: Iterator[Job],
    width: int,
    submitted: deque[Job],
) -> Iterator[Result]:
    """Yield the results of the jobs, of which at most `width` are submitted at a time.

    `submitted` holds those without a result yet. So the jobs are listed as they are needed, and a
    million of them take no memory.
    """
    running: dict[Future[Result], Job] = {}
    while True:
        for job in itertools.islice(jobs, width - len(running)):
            submitted.append(job)  # before the pool gets it, as the pool may turn out to be broken
            with start_without_interrupts():
                running[pool.submit(function, job)] = job
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            result = future.result()
            submitted.remove(running.pop(future))
            yield result


def _make_pool(workers: int) -> ProcessPoolExecutor:
    name_semaphores()
    # Spawned, because a forked copy of a process with threads can deadlock.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    """Make Ctrl-C end a new worker at once, and the death of its parent as well.

    A command that ignores Ctrl-C, such as one that a script has put into the background, would take
    that end for a crash: its workers ignore it too.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    allow_interrupts()
    parent = multiprocessing.parent_process()

    def end_with(parent: multiprocessing.process.BaseProcess) -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=end_with, args=[parent], daemon=True).start()


@functools.cache
def name_semaphores() -> None:
    """Let the semaphores of this process's workers have its number in their names (on Linux), and
    remove those of processes of this user that are no more.

    multiprocessing removes its semaphores when a process dies, but not when its whole group is
    killed with -9. The names also have the namespace of the number, as containers may share a
    /dev/shm. Where joblib is imported, it names them otherwise.
    """
    if sys.platform != "linux":
        return
    space = os.stat("/proc/self/ns/pid").st_ino
    prefix = f"/{SEMAPHORES}-{space}-{os.getpid()}"
    multiprocessing.process.current_process()._config["semprefix"] = prefix  # type: ignore[attr-defined]
    with contextlib.suppress(OSError):
        for path in SHARED_MEMORY.glob(f"sem.{SEMAPHORES}-{space}-*"):
            process = path.name.split("-")[2]
            is_ours = path.stat().st_uid == os.getuid()
            if is_ours and process.isdigit() and not psutil.pid_exists(int(process)):
                path.unlink(missing_ok=True)


# On a Ray cluster. --------------------------------------------------------------------------------


def run_on_ray(address: str, threads: int = 1, uses_gpu: bool = False) -> Executor:
    """Return the executor of the Ray cluster at `address`.

    "auto" is the cluster that runs on this machine, "" a new one, only for these jobs. threads: the
    cores that a job takes; uses_gpu: whether it takes a GPU, if the cluster has any.
    """

    def run(
        function: Callable[[Job], Result],
        jobs: Iterable[Job],
        workers: int,
    ) -> Generator[Result, None, None]:
        try:
            import ray
        except ImportError:
            raise UserError(
                "ray is not installed",
                "--executor ray",
                "Run: pip install 'umemma[ray]'",
            ) from None
        _connect(ray, address, workers * threads)
        try:
            resources = ray.cluster_resources()
            gpus = int(uses_gpu and resources.get("GPU", 0) > 0)
            remote = ray.remote(max_retries=0, num_cpus=threads, num_gpus=gpus)
            task = remote(_run_in_folder(function, os.getcwd()))
            cores = int(resources.get("CPU", 1))
            width = JOBS_PER_WORKER * max(workers, cores)
            yield from _run_tasks(ray, task, iter(jobs), width)
        finally:
            ray.shutdown()

    return run


def _connect(ray: Any, address: str, cores: int) -> None:
    """Connect to a Ray cluster, or start one. Raises UserError where there is none."""
    where = f"--ray-address {address}"
    host_and_port = re.fullmatch(r"([^:/]+):(\d+)", address)
    if host_and_port:
        # Ray itself would wait for many minutes.
        host, port = host_and_port.groups()
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
        except OSError as error:
            hint = "Check that the cluster runs, and its address."
            raise UserError(f"no Ray cluster: {error}", where, hint) from None
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            ray.init(num_cpus=cores, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        hint = "Check that the cluster runs."
        raise UserError(f"no Ray cluster: {error}", where, hint) from None


def _run_in_folder(function: Callable[[Job], Result], folder: str) -> Callable[[Job], Result]:
    """Return `function` as it runs on any node: paths are relative to the folder of the command."""

    def run(job: Job) -> Result:
        try:
            os.chdir(folder)
        except OSError:
            hint = "Run umemma in a folder of a file system that all nodes share."
            raise UserError("a node of the cluster has no such folder", folder, hint) from None
        return function(job)

    return run


def _run_tasks(ray: Any, task: Any, jobs: Iterator[Any], width: int) -> Iterator[Any]:
    """Yield the results of the jobs, of which at most `width` are submitted at a time."""
    attempts = 1 + ATTEMPTS
    running: dict[Any, tuple[Any, int]] = {}
    for job in itertools.islice(jobs, width):
        running[task.remote(job)] = (job, 1)
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        job, attempt = running.pop(done)
        try:
            yield ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause or error from None
        except ray.exceptions.RayError as error:  # the worker or its node died
            reason = type(error).__name__
            logger.error(f"{job} lost its worker ({reason}), attempt {attempt} of {attempts}.")
            if attempt < attempts:
                running[task.remote(job)] = (job, attempt + 1)
                continue
        for next_job in itertools.islice(jobs, 1):
            running[task.remote(next_job)] = (next_job, 1)

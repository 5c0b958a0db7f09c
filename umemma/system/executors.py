"""Independent jobs, carried out by several processes here or on a cluster.

Each executor is `(function, jobs, workers) -> results as they come, in any order`. `function` must be a module's own and
idempotent. A job whose worker dies is done again; one that kills its worker every time is given up, with a message, and
has no result. What then is missing is for the caller to find out, from what the jobs leave behind.
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.process
import os
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from loguru import logger

from umemma.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
ATTEMPTS = 2  # for a job that is alone with its worker


def local(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """`workers` spawned processes; one worker is this process itself."""
    if workers == 1:
        yield from map(function, jobs)
        return
    todo, handed_out = iter(jobs), deque[Job]()
    while True:
        # 1. As many at a time as there are workers, until a worker dies. Any job that was under way may have killed it.
        try:
            with _pool(workers) as pool:
                yield from _window(pool, function, todo, 2 * workers, handed_out)
            return
        except BrokenProcessPool:
            logger.warning(
                f"A worker process died; the {len(handed_out)} jobs that were under way are done again."
            )
        # 2. Those one by one, which shows who it was; then on with the rest.
        while handed_out:
            job = handed_out.popleft()
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    with _pool(1) as pool:
                        yield pool.submit(function, job).result()
                    break
                except BrokenProcessPool:
                    logger.error(
                        f"{job} killed its worker process, attempt {attempt} of {ATTEMPTS}."
                    )


def ray(address: str) -> Callable[[Callable[[Job], Result], Iterable[Job], int], Iterator[Result]]:
    """Tasks of Ray Core, on the cluster at `address` ("auto" = the one of this machine) or, with "", on one of its own."""

    def run(
        function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
    ) -> Iterator[Result]:
        try:
            import ray as core
        except ImportError:
            raise UserError(
                "ray is not installed", "--executor ray", "Run: pip install 'umemma[ray]'"
            ) from None
        if match := re.fullmatch(
            r"([^:/]+):(\d+)", address
        ):  # Ray itself would wait for many minutes
            try:
                socket.create_connection((match[1], int(match[2])), timeout=10).close()
            except OSError as error:
                hint = "Check that it runs, and the address."
                raise UserError(
                    f"no Ray cluster: {error}", f"--ray-address {address}", hint
                ) from None
        try:
            core.init(
                address=address or None, num_cpus=None if address else workers, log_to_driver=False
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster: {error}", f"--ray-address {address}", "Check that it runs."
            ) from None
        folder = os.getcwd()

        def there(job: Job) -> Result:
            """On whatever node: paths are relative to the folder that the command runs in."""
            try:
                os.chdir(folder)
            except OSError:
                hint = "Run in a folder of a file system that all nodes share."
                raise UserError(
                    "a node of the cluster doesn't have this folder", folder, hint
                ) from None
            return function(job)

        try:
            task = core.remote(max_retries=0)(there)
            width = 2 * max(workers, int(core.cluster_resources().get("CPU", 1)))
            jobs = iter(jobs)
            running = {task.remote(job): (job, 1) for job in itertools.islice(jobs, width)}
            while running:
                (done,), _ = core.wait(list(running), num_returns=1)
                job, attempt = running.pop(done)
                try:
                    yield core.get(done)
                except core.exceptions.RayTaskError as error:
                    raise error.cause or error from None
                except core.exceptions.RayError as error:  # its worker or its node died
                    logger.error(
                        f"{job} lost its worker ({type(error).__name__}), attempt {attempt} of {1 + ATTEMPTS}."
                    )
                    if attempt <= ATTEMPTS:
                        running[task.remote(job)] = (job, attempt + 1)
                        continue
                running |= {task.remote(job): (job, 1) for job in itertools.islice(jobs, 1)}
        finally:
            core.shutdown()

    return run


def _window(
    pool: ProcessPoolExecutor,
    function: Callable[[Job], Result],
    jobs: Iterator[Job],
    width: int,
    handed_out: deque[Job],
) -> Iterator[Result]:
    """Results. `handed_out` holds the jobs without one yet, at most `width`: listing a million jobs costs no memory."""
    running: dict[Future[Result], Job] = {}
    while True:
        for job in itertools.islice(jobs, width - len(running)):
            handed_out.append(job)  # first, for the pool may be found broken
            running[pool.submit(function, job)] = job
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            result = future.result()
            handed_out.remove(running.pop(future))
            yield result


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context(
        "spawn"
    )  # forking a process that has threads is how pools come to hang
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def _begin() -> None:
    """In a new worker: Ctrl-C ends it at once, and so does the death of its parent, however sudden."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def end_with(parent: multiprocessing.process.BaseProcess) -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=end_with, args=[parent], daemon=True).start()

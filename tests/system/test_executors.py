"""Processes that really die: nothing hangs, nothing is lost unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from toys.project import ROOT, TESTS

from umemma.errors import UserError
from umemma.system import executors


class Job(NamedTuple):
    number: int
    folder: Path
    deaths: int = 0  # how many times this job kills its worker


def square(job: Job) -> int:
    """The job leaves a file for each attempt, since a killed process can't count."""
    attempts = list(job.folder.glob(f"{job.number}-*"))
    (job.folder / f"{job.number}-{len(attempts)}").touch()
    if len(attempts) < job.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return job.number**2


def refuse(job: Job) -> int:
    raise UserError("no room", "disk", "Make some.")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_has_its_result(tmp_path, workers):
    found = executors.run_locally(square, (Job(n, tmp_path) for n in range(9)), workers)
    assert sorted(found) == [n**2 for n in range(9)]
    assert len(list(tmp_path.iterdir())) == 9


@pytest.mark.slow
def test_a_killed_worker_is_reported_and_its_job_done_again(tmp_path, messages):
    found = executors.run_locally(
        square, [Job(n, tmp_path, deaths=int(n == 3)) for n in range(6)], 2
    )
    assert sorted(found) == [n**2 for n in range(6)]
    assert "A worker process died" in messages[0]


@pytest.mark.slow
def test_a_job_that_always_kills_is_named_and_the_rest_done(tmp_path, messages):
    found = executors.run_locally(
        square, [Job(n, tmp_path, deaths=9 * (n == 1)) for n in range(6)], 2
    )
    assert sorted(found) == [n**2 for n in range(6) if n != 1]
    assert "number=1" in messages[-1]
    assert "killed its worker process, attempt 2 of 2" in messages[-1]


def test_jobs_are_listed_as_they_are_needed(tmp_path):
    listed = []

    def jobs():
        for n in range(50):
            listed.append(n)
            yield Job(n, tmp_path)

    results = executors.run_locally(square, jobs(), 2)
    next(results)
    assert len(listed) <= 6
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_user_comes_through(tmp_path, workers):
    with pytest.raises(UserError, match="no room") as error:
        list(executors.run_locally(refuse, [Job(1, tmp_path)], workers))
    assert error.value.hint == "Make some."


def test_workers_end_with_their_parent(tmp_path):
    code = "import system.test_executors as t; t.sleep_for_ever()"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        until = time.monotonic() + 30
        while (
            len(workers := psutil.Process(parent.pid).children(recursive=True)) < 3
        ):  # two, and a resource tracker
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(1)  # past their start
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def sleep_for_ever() -> None:
    list(executors.run_locally(time.sleep, [1000, 1000], 2))


def test_no_ray_where_it_is_said_to_be(tmp_path):
    with pytest.raises(UserError, match="no Ray cluster"):
        list(executors.run_on_ray("127.0.0.1:1")(square, [Job(1, tmp_path)], 1))


@pytest.mark.slow
def test_ray_has_every_result_and_does_a_killed_worker_s_job_again(tmp_path, messages, monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", f"{ROOT}{os.pathsep}{TESTS}"
    )  # Ray's workers import this module
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    jobs = [Job(n, tmp_path, deaths=(n == 3) + 9 * (n == 5)) for n in range(8)]
    assert sorted(executors.run_on_ray("")(square, jobs, 2)) == [n**2 for n in range(8) if n != 5]
    assert len(list(tmp_path.glob("3-*"))) == 2
    assert "number=5" in messages[-1]
    assert "lost its worker (WorkerCrashedError), attempt 3 of 3" in messages[-1]
    assert any("number=3" in message and "attempt 1 of 3" in message for message in messages)
    with pytest.raises(UserError, match="no room"):
        list(executors.run_on_ray("")(refuse, jobs[:1], 2))

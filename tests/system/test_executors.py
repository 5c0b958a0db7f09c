"""Worker processes that really die: nothing hangs, and nothing is lost without a message."""

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
    jobs = (Job(n, tmp_path) for n in range(9))
    results = executors.run_locally(square, jobs, workers)
    assert sorted(results) == [n**2 for n in range(9)]
    assert len(list(tmp_path.iterdir())) == 9


def make_jobs(folder: Path, count: int, deaths: dict[int, int]) -> list[Job]:
    """Return jobs, of which some kill their worker. deaths: {number of a job: times}."""
    return [Job(n, folder, deaths.get(n, 0)) for n in range(count)]


@pytest.mark.slow
def test_a_killed_worker_is_reported_and_its_job_run_again(tmp_path, messages):
    results = executors.run_locally(square, make_jobs(tmp_path, 6, {3: 1}), 2)
    assert sorted(results) == [n**2 for n in range(6)]
    assert "A worker process died" in messages[0]


@pytest.mark.slow
def test_a_job_that_always_kills_is_named_and_the_others_run(tmp_path, messages):
    results = executors.run_locally(square, make_jobs(tmp_path, 6, {1: 9}), 2)
    assert sorted(results) == [n**2 for n in range(6) if n != 1]
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


@pytest.mark.slow
def test_workers_of_a_command_that_ignores_ctrl_c_ignore_it_too(tmp_path, messages):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        jobs = make_jobs(tmp_path, 2, {})
        assert sorted(executors.run_locally(press_ctrl_c, jobs, 2)) == [0, 1]
    finally:
        signal.signal(signal.SIGINT, previous)
    assert messages == []


def press_ctrl_c(job: Job) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return square(job)


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path):
    code = "import system.test_executors as t; t.sleep_for_ever()"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        until = time.monotonic() + 30
        workers = []
        while len(workers) < 3:  # two, and a resource tracker
            assert time.monotonic() < until
            time.sleep(0.1)
            workers = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(1)  # until they have started
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="multiprocessing names them otherwise")
def test_semaphores_of_a_group_that_was_killed_are_removed_by_the_next_command():
    code = "import system.test_executors as t; t.sleep_for_ever()"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}
    command = [sys.executable, "-c", code]
    parent = subprocess.Popen(command, env=environment, start_new_session=True)
    shared = Path("/dev/shm")
    until = time.monotonic() + 60
    while not (left := list(shared.glob(f"sem.umemma-*-{parent.pid}-*"))):
        assert time.monotonic() < until
        time.sleep(0.1)
    executors.name_semaphores.__wrapped__()
    assert left[0].exists()  # its process lives
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    assert left[0].exists()  # nobody was left to remove it
    executors.name_semaphores.__wrapped__()
    assert not list(shared.glob(f"sem.umemma-*-{parent.pid}-*"))


def sleep_for_ever() -> None:
    list(executors.run_locally(time.sleep, [1000, 1000], 2))


def test_an_address_without_a_ray_cluster(tmp_path):
    run = executors.run_on_ray("127.0.0.1:1")
    with pytest.raises(UserError, match="no Ray cluster") as error:
        list(run(square, [Job(1, tmp_path)], 1))
    assert error.value.where == "--ray-address 127.0.0.1:1"


@pytest.mark.slow
def test_ray_has_every_result_and_runs_a_killed_worker_s_job_again(tmp_path, messages, monkeypatch):
    path = f"{ROOT}{os.pathsep}{TESTS}"
    monkeypatch.setenv("PYTHONPATH", path)  # the workers of Ray import this module
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    jobs = make_jobs(tmp_path, 8, {3: 1, 5: 9})
    results = executors.run_on_ray("")(square, jobs, 2)
    assert sorted(results) == [n**2 for n in range(8) if n != 5]
    assert len(list(tmp_path.glob("3-*"))) == 2
    assert "number=5" in messages[-1]
    assert "lost its worker (WorkerCrashedError), attempt 3 of 3" in messages[-1]
    assert any("number=3" in message and "attempt 1 of 3" in message for message in messages)
    with pytest.raises(UserError, match="no room"):
        list(executors.run_on_ray("")(refuse, jobs[:1], 2))

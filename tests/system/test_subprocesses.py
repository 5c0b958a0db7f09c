"""Jobs run beside one another, and end in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toys.project import ROOT

from umemma.errors import UserError
from umemma.system import subprocesses
from umemma.system.subprocesses import Command, Job


def shell(*scripts: str, log: Path) -> Job:
    for script in scripts:
        ended = yield Command(["sh", "-c", script], log)
        if ended.status:
            raise UserError(f"status {ended.status}")


def test_jobs_run_beside_one_another_and_a_failed_one_stops_only_itself(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    log = tmp_path / "logs" / "log.txt"
    jobs = {
        "one": shell("sleep 0.2", 'echo "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS"', log=log),
        "bad": shell("exit 3", "echo never", log=log),
        "two": shell("kill -9 $$", log=log),
        "idle": shell(log=log),
    }
    found = {name: error and error.what for name, error in subprocesses.run(jobs, 2, ["4", "5"])}
    assert found == {"one": None, "bad": "status 3", "two": "status -9", "idle": None}
    assert next(iter(found)) == "bad"  # it didn't wait for the first
    assert log.read_text() == f"4 {max(1, len(os.sched_getaffinity(0)) // 2)}\n"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo fine", None),
        ("echo before; echo 'Error: too hot'; echo Cool it.; exit 1", "too hot\nCool it."),
        ("kill -9 $$", "ended by signal 9"),
    ],
)
def test_a_command_alone_says_why_it_failed(tmp_path, script, error):
    log = tmp_path / "log.txt"
    name, found = subprocesses.run_alone(("one", Command(["sh", "-c", script], log)))
    assert name == "one"
    assert (found and found.what) == (error and f"{error} (log: {log})")


@pytest.mark.parametrize(("threads", "expected"), [(None, 4), (3, 3), (9, 4)])
def test_a_job_has_its_share_of_the_cores_or_fewer_threads(
    tmp_path, monkeypatch, threads, expected
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(subprocesses, "count_cores", lambda: 8)
    log = tmp_path / "log.txt"
    job = shell('echo "$OMP_NUM_THREADS"', log=log)
    list(subprocesses.run({"one": job}, 2, threads=threads))
    assert log.read_text() == f"{expected}\n"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_however_it_ends_its_children_end_in_order(tmp_path, number, status):
    """They are asked to, may save what they have, and no further command begins."""
    script = """
import sys
from pathlib import Path
from umemma.system import subprocesses as processes
from umemma.errors import UserError
def job():
    script = "trap 'echo saved; exit 75' TERM; echo begun; sleep 30 & wait"
    yield processes.Command(["sh", "-c", script], Path("log"))
    yield processes.Command(["sh", "-c", "echo next"], Path("log"))
try:
    list(processes.run({"a": job()}, 1))
except UserError as error:
    sys.exit(error.exit_status)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    log = tmp_path / "log"
    wait_for(lambda: log.exists() and "begun" in log.read_text())
    parent.send_signal(number)
    assert parent.wait(20) == status
    wait_for(lambda: "saved" in log.read_text())
    assert log.read_text() == "begun\nsaved\n"


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)

"""Full and read-only disks, Ctrl-C, and machines that lack what is usual: one message, no loss."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys.drill import (
    ALL_COMMANDS,
    COMMANDS,
    READING,
    TIMEOUT,
    choose_moments,
    compare,
    finish,
    measure,
    prepare,
    read_tree,
    start,
)

pytestmark = [pytest.mark.drill, pytest.mark.slow]

INTERRUPTS = 20
# -SIGINT: after its last line a command ends with the signal itself, which a shell shows as 130.
STOPPED = (0, 130, -signal.SIGINT)
SIZES = 5  # of disks that are too small


@pytest.fixture
def fresh(trained, tmp_path, request) -> Path:
    """A project where the command of this test is the next."""
    folder = tmp_path / "fresh"
    shutil.copytree(trained, folder)
    prepare(folder, request.getfixturevalue("name"))
    return folder


@pytest.fixture
def expected(fresh, name) -> dict[str, bytes]:
    """The files after an undisturbed run."""
    folder = fresh.with_name("undisturbed")
    shutil.copytree(fresh, folder)
    finish(folder, ALL_COMMANDS[name])
    return read_tree(folder)


def find_fault(printed: str, status: int, allowed: tuple[int, ...]) -> list[str]:
    """Return what is wrong with the end of a command: its status, a traceback, several messages."""
    faults = []
    if status not in allowed:
        faults.append(f"exit status {status}: {printed[-2000:]}")
    if "Traceback" in printed:
        faults.append(printed[-3000:])
    if status != 0 and len(re.findall("^(?:Error: |Aborted)", printed, re.MULTILINE)) > 1:
        faults.append(f"several messages: {printed[-2000:]}")
    if status > 0 and not re.search("^(?:Error: |Aborted)", printed, re.MULTILINE):
        faults.append(f"no message: {printed[-2000:]}")
    return faults


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c(fresh, expected, name, count):
    folder = fresh.with_name("disturbed")
    shutil.copytree(fresh, folder)
    seconds = measure(folder, COMMANDS[name])
    shutil.rmtree(folder)
    shutil.copytree(fresh, folder)
    faults: list[str] = []
    for moment in choose_moments(7, INTERRUPTS, seconds):
        process = start(folder, COMMANDS[name])
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=TIMEOUT)
        faults += find_fault(printed, process.returncode, STOPPED)
        if process.returncode == 0:
            faults += compare(folder, expected)
            shutil.rmtree(folder)
            shutil.copytree(fresh, folder)
    finish(folder, COMMANDS[name])
    faults += compare(folder, expected)
    count(f"SIGINT: {name}", INTERRUPTS, len(faults))
    assert not faults, "\n\n".join(faults)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a disk of `size` bytes at the folder."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can't be mounted: that takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def measure_bytes(folder: Path) -> int:
    blocks = [-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*")]
    return sum(blocks) + 4096 * len(blocks)


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_a_full_disk(fresh, expected, name, count):
    """A log file that ends early and a checkpoint less are no errors; all else is said once."""
    needed = measure_bytes(fresh.with_name("undisturbed")) - measure_bytes(fresh)
    chance = random.Random(name)
    faults: list[str] = []
    for _ in range(SIZES):
        folder = fresh.with_name("small")
        size = measure_bytes(fresh) + 2**16 + int(chance.uniform(0, 1) * needed)
        with small_disk(folder, size):
            shutil.copytree(fresh, folder / "project")
            with start(folder / "project", ALL_COMMANDS[name]) as process:
                printed, _ = process.communicate(timeout=TIMEOUT)
            faults += find_fault(printed, process.returncode, (0, 1))
            remount(folder, "size=1g")
            finish(folder / "project", ALL_COMMANDS[name])
            faults += compare(folder / "project", expected)
        folder.rmdir()
    count(f"full disk: {name}", SIZES, len(faults))
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_a_read_only_disk(fresh, name, count):
    folder = fresh.with_name("small")
    faults: list[str] = []
    with small_disk(folder, 2**28):
        shutil.copytree(fresh, folder / "project")
        (folder / "project/tmp").mkdir(exist_ok=True)
        remount(folder, "ro")
        process = start(folder / "project", ALL_COMMANDS[name], TMPDIR="/tmp")
        printed, _ = process.communicate(timeout=TIMEOUT)
        faults += find_fault(printed, process.returncode, (0,) if name in READING else (1,))
        faults += compare(folder / "project", read_tree(fresh))
    count(f"read-only disk: {name}", 1, len(faults))
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_what_a_machine_may_lack(fresh, expected, name, count):
    faults: list[str] = []
    lacks = {
        "HOME": {"HOME": "/nowhere"},
        "TMPDIR": {"TMPDIR": "/nowhere"},
        "UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        "stdout": {},
    }
    for what, variables in lacks.items():
        folder = fresh.with_name("a böx 箱 of 'things'")
        shutil.copytree(fresh, folder)
        command = ALL_COMMANDS[name]
        if what == "stdout":
            command = ["sh", "-c", '"$@" >&-', "sh", *command]
        with start(folder, command, **variables) as process:
            printed, _ = process.communicate(timeout=TIMEOUT)
        faults += find_fault(printed, process.returncode, (0,))
        faults += compare(folder, expected)
        shutil.rmtree(folder)
    count(f"a machine without ...: {name}", len(lacks), len(faults))
    assert not faults, "\n\n".join(faults)

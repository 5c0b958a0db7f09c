"""Fixtures: what counts for the table at the end of the drill, and a folder for strange inputs."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Count = Callable[[str, int, int], None]
MEMORY = 2**31  # bytes that an input may take beside what the process has


@pytest.fixture
def count(record_property) -> Count:
    """A function of a kind of fault, how many were tried, and after how many something was lost."""

    def add(fault: str, tried: int, lost: int) -> None:
        record_property("drill", (fault, tried, tried - lost, lost))

    return add


@pytest.fixture
def inside(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty folder, the current one. Nothing may appear outside of it, nor fill the memory."""
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.rmtree("/tmp/evil-of-umemma", ignore_errors=True)
    status = Path("/proc/self/status").read_text()
    used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + MEMORY, hard))
    yield folder
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert not Path("/tmp/evil-of-umemma").exists()

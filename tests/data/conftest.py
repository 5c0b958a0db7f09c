"""Fixtures: a server and a mirror of a toy dataset, its download, and an ExitStack."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from loguru import logger
from toys.archives import zipped
from toys.download import CLIPS, run_toy
from toys.web import DATA, serving


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving({"/list.txt": b"a\nb\n", "/clips.zip": zipped(CLIPS), "/data.bin": DATA}) as site:
        yield site


@pytest.fixture
def said():
    """The log lines from the level INFO on."""
    lines: list[str] = []
    sink = logger.add(
        lambda line: lines.append(str(line)), format="{level} {message}", level="INFO"
    )
    yield lines
    logger.remove(sink)


@pytest.fixture
def mirror(site, tmp_path) -> Path:
    """Toy/ unpacked, and Archives/ with the archive."""
    for name, content in CLIPS.items():
        path = tmp_path / "mirror" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "mirror/Archives").mkdir()
    (tmp_path / "mirror/Archives/clips.zip").write_bytes(site.files["/clips.zip"])
    return tmp_path / "mirror"


@pytest.fixture
def use(monkeypatch):
    """A function that downloads the dataset "toy" with these sources, or those that a function
    yields."""

    def run(*sources, **more):
        if callable(sources[0]):
            (sources,) = sources
        return run_toy(monkeypatch, sources, **more)

    return run


@pytest.fixture
def stay():
    with contextlib.ExitStack() as stack:
        yield stack

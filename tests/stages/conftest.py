"""Fixtures: a project with the raw files of a toy dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys.doctor import make_project


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A project whose raw folder has every problem that doctor finds; the current directory."""
    project = make_project(tmp_path, monkeypatch)
    monkeypatch.chdir(project)
    return project

"""Fixtures: the files of an evaluation, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import reports


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """The folder of an evaluation of four toads. No test changes it."""
    folder = tmp_path_factory.mktemp("results")
    reports.write(folder, reports.four_toads())
    return folder

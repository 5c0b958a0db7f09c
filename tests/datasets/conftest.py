"""Fixtures: raw files, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys.avmnist import make_mnist, make_noise, make_recordings


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    make_mnist(folder)
    make_recordings(folder)
    make_noise(folder)
    return folder

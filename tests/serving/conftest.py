"""Fixtures: a model with six modalities, a server for it, and files to send."""

from __future__ import annotations

import pytest
from toys.models import write_media
from toys.serving import save_wide_model, start_thread

import umemma
from umemma.serving.limits import Limits


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """A folder with a model, x.png and x.wav."""
    folder = tmp_path_factory.mktemp("serving")
    save_wide_model(folder / "model")
    write_media(folder)
    return folder


@pytest.fixture(scope="session")
def model(media):
    return umemma.load(media / "model", device="cpu")


@pytest.fixture(scope="session")
def address(model):
    """The address of a server with usual limits."""
    with start_thread(model, Limits(2**21, 8, 2)) as address:
        yield address

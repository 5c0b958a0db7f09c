"""Files of strangers are read within bounds."""

from __future__ import annotations

import os

import pytest

from umemma import modalities
from umemma.modalities import limits
from umemma.modalities.limits import read_file
from umemma.modalities.probe import probe
from umemma.system.files import read_json
from umemma.types import Packing


def test_a_file_is_read_whole_within_its_bound(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    monkeypatch.setattr(limits, "MAX_BYTES", 5)
    assert read_file(path) == b"12345"
    monkeypatch.setattr(limits, "MAX_BYTES", 4)
    with pytest.raises(ValueError, match=r"^file over the size bound$"):
        read_file(path)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "a").touch()
    for missing in (tmp_path / "nowhere", tmp_path / "a" / "b"):
        with pytest.raises(ValueError, match=r"^file is missing$"):
            read_file(missing)
    with pytest.raises(ValueError, match=r"^file can't be read: Is a directory$"):
        read_file(tmp_path)


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for endless in (tmp_path / "pipe", tmp_path / "zeros"):
        with pytest.raises(ValueError, match=r"^file can't be read: not a regular file$"):
            read_file(endless)
        for media in ({"audio": endless}, {"image": endless}, {"video": endless}):
            _, broken = modalities.pack_readable(media, Packing())
            assert set(broken.values()) == {"file can't be read: not a regular file"}
            assert probe(media, Packing()).broken == broken
        with pytest.raises(OSError, match="not a regular file"):
            read_json(endless, "hint")

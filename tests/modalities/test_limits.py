"""Files of strangers are read within bounds."""

from __future__ import annotations

import pytest

from umemma.modalities import limits
from umemma.modalities.limits import read_file


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

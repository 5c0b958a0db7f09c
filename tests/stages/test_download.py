"""The download stage: the default dataset, wrong command lines, a disk that cannot be written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from toys.archives import files

from umemma.errors import UserError
from umemma.stages import download


def test_digits_are_made_and_mended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = download.run("digits", {})
    assert folder == Path("data/raw/digits")
    first = files(folder)
    assert set(first) == {"images.parquet", "speech.parquet", "download.json"}
    about = json.loads(first["download.json"])
    assert set(about) == {"dataset", "licence", "citation", "files"}
    assert about["files"]["images.parquet"] == {
        "sha256": hashlib.sha256(first["images.parquet"]).hexdigest(),
        "size": len(first["images.parquet"]),
        "media": False,
    }
    before = (folder / "download.json").stat()
    download.run("digits", {})
    assert (folder / "download.json").stat().st_ino == before.st_ino  # not written again
    (folder / "images.parquet").write_bytes(first["images.parquet"][:-1])
    (folder / "speech.parquet").unlink()
    download.run("digits", {})
    assert files(folder) == first


def test_settings_that_the_data_set_does_not_know(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"preprocess\.options\.snr") as error:
        download.run("digits", {"snr": 1})
    assert error.value.exit_status == 2
    assert not Path("data").exists()


def test_from_nowhere_is_a_wrong_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file or folder") as error:
        download.run("digits", {}, str(tmp_path / "nowhere"))
    assert error.value.exit_status == 2


def test_a_disk_that_cannot_be_written_is_one_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = Path("data/raw/digits")
    raw.parent.mkdir(parents=True)
    raw.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write: File exists") as error:
        download.run("digits", {})
    assert error.value.where == str(raw)

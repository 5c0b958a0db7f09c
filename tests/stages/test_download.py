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


def own_table(folder: Path, *cells: str) -> Path:
    """Write a table with these cells of images, and return its folder."""
    folder.mkdir(exist_ok=True)
    rows = [f"{cell},a" for cell in cells]
    (folder / "table.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    return folder


def take(origin: object) -> None:
    """Download a table of images from a folder."""
    options = {"columns": {"image": "image"}, "label": "label", "table": "table.csv"}
    download.run("manifest", options, str(origin), {"image": "image"}, "mine")


def test_a_folder_that_is_linked_is_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/1.png").write_bytes(b"1")
    origin = own_table(tmp_path / "origin", "images/1.png")
    (origin / "images").symlink_to(tmp_path / "pool")
    with pytest.raises(UserError) as refused:
        take(origin)
    assert "images: a symbolic link to a folder, which isn't followed" in str(refused.value)
    assert "preprocess.options.root" in str(refused.value)


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("/data/1.png", "absolute path: preprocess.options.root has to name a folder above it"),
        ("https://x.org/1.png", "a web address: download the file"),
    ],
)
def test_cells_that_name_no_file_beside_the_table_are_named(tmp_path, monkeypatch, cell, problem):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        take(own_table(tmp_path / "origin", cell, cell))
    assert problem in refused.value.what
    assert repr(cell) in refused.value.what
    assert "preprocess.options.root" in refused.value.hint


def test_a_folder_without_anything_to_take_is_an_error_though_an_older_table_is_there(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    origin = own_table(tmp_path / "origin", "1.png")
    (origin / "1.png").write_bytes(b"1")
    take(origin)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="an empty folder"):
        take(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/readme.txt").write_bytes(b"0")
    with pytest.raises(UserError, match="no file of this dataset is there"):
        take(tmp_path / "other")
    with pytest.raises(UserError, match="can't download from hf:// addresses"):
        take("hf://datasets/x")

"""A file is complete or absent, whatever happens while it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from umemma.errors import UserError
from umemma.system.files import new_file, new_files, new_folder, read_json, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "file"
    with new_file(path) as aside:
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError), new_file(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new"
    assert names(path.parent) == ["file"]


def test_a_folder_takes_the_place_of_the_old_one_as_a_whole(tmp_path):
    folder = tmp_path / "folder"
    for text in ("old", "new"):
        with new_folder(folder) as aside:
            (aside / text).write_text(text)
    assert names(folder) == ["new"]
    with pytest.raises(RuntimeError), new_folder(folder) as aside:
        (aside / "half").write_text("half")
        raise RuntimeError
    assert names(folder) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_be_put_in_place(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    with new_folder(folder) as aside:
        (aside / "old").write_text("old")
    rename = os.replace

    def no_room(source: Path, target: Path) -> None:
        if str(source).endswith(".part"):
            raise OSError("no room")
        rename(source, target)

    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(OSError, match="no room"), new_folder(folder) as aside:
        (aside / "new").write_text("new")
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_new_files_leave_the_others(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "theirs").write_text("theirs")
    (folder / "ours").write_text("old")
    with new_files(folder) as aside:
        (aside / "ours").write_text("new")
        assert (folder / "ours").read_text() == "old"
    assert names(folder) == ["ours", "theirs"]
    assert (folder / "ours").read_text() == "new"
    assert names(tmp_path) == ["folder"]


KILLED = """
import os, signal, sys
from pathlib import Path
from umemma.system.files import new_files
with new_files(Path(sys.argv[1])) as aside:
    (aside / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_beside_a_folder_goes_with_the_next_files(tmp_path):
    folder = tmp_path / "folder"
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert [name.startswith(".folder.") for name in names(tmp_path)] == [True, False]
    with new_files(folder) as aside:
        (aside / "whole").write_text("whole")
    assert names(tmp_path) == ["folder"]
    assert names(folder) == ["whole"]


def test_json_that_exists_and_that_does_not(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert read_json(tmp_path / "a.json", "") == {"a": 2, "b": 1}
    with pytest.raises(UserError, match="not there yet") as error:
        read_json(tmp_path / "none.json", "Run: this")
    assert error.value.hint == "Run: this"

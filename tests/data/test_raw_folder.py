"""Raw files: what is wrong with one, their list in download.json, and the check against it."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from umemma.data import raw_folder
from umemma.errors import UserError
from umemma.system import files
from umemma.types import Source


def test_size_of_what_is_there(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "empty").touch()
    for name, size in (("file", 3), ("empty", 0), ("none", None), ("", None), ("file/below", None)):
        assert files.file_size(tmp_path / name) == size
    assert files.file_size(tmp_path / ("x" * 300)) is None  # longer than a name can be
    assert files.file_size(tmp_path / "a\0b") is None


def test_a_name_that_no_disk_can_hold_is_missing(tmp_path):
    name = "x" * 300
    assert files.find_mismatch(tmp_path / name, Source(name)) == "is missing"
    with pytest.raises(UserError, match="is missing or differs"):
        raw_folder.check_raw_files(
            tmp_path, {name: raw_folder.RawFile(sha256="0" * 64, size=1)}, ""
        )


def test_matches_says_what_is_wrong(tmp_path):
    path = tmp_path / "file"
    assert files.find_mismatch(path, Source("file")) == "is missing"
    path.write_bytes(b"")
    assert files.find_mismatch(path, Source("file")) == "is empty"
    path.write_bytes(b"abc")
    assert files.find_mismatch(path, Source("file")) == ""
    assert files.find_mismatch(path, Source("file", size=3)) == ""
    assert files.find_mismatch(path, Source("file", size=4)) == "has 3 bytes, not 4"
    md5, sha = (
        "900150983cd24fb0d6963f7d28e17f72",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    )
    assert files.find_mismatch(path, Source("file", checksum=f"md5:{md5}")) == ""
    sized = Source("file", size=99, checksum=f"sha256:{sha.upper()}")  # the checksum decides
    assert files.find_mismatch(path, sized) == ""
    assert (
        files.find_mismatch(path, Source("file", checksum=f"md5:{md5[:-1]}3"))
        == f"has the md5 {md5}, not {md5[:-1]}3"
    )


def test_matches_looks_into_gz(tmp_path):
    path, md5 = tmp_path / "file.gz", "gunzip-md5:900150983cd24fb0d6963f7d28e17f72"
    for time in (0, 1):  # another header, the same content
        path.write_bytes(gzip.compress(b"abc", mtime=time))
        assert files.find_mismatch(path, Source("file.gz", checksum=md5)) == ""
    for damaged in (
        path.read_bytes()[:-5],
        b"no gz",
        path.read_bytes()[:12] + b"\xff" + path.read_bytes()[13:],
    ):
        path.write_bytes(damaged)
        assert files.find_mismatch(path, Source("file.gz", checksum=md5)) == "is a damaged .gz file"


def test_raw_files_and_check(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"abc")
    (tmp_path / "clip.mp4").write_bytes(b"clip")
    sha = hashlib.sha256(b"abc").hexdigest()
    files = {
        "clip.mp4": {"sha256": "0" * 64, "size": 4, "media": True},
        "list.txt": {"sha256": sha, "size": 3, "media": False},
    }
    (tmp_path / "download.json").write_text(json.dumps({"dataset": "toy", "files": files}))
    listed = raw_folder.read_raw_files(tmp_path, "Run: again")
    assert listed["list.txt"] == raw_folder.RawFile(sha256=sha, size=3)
    raw_folder.check_raw_files(tmp_path, listed, "Run: again")  # media by size only
    for name, content in (
        ("list.txt", b"abd"),
        ("clip.mp4", b"shorter"),
        ("clip.mp4", None),
        ("list.txt", None),
    ):
        path = tmp_path / name
        whole = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(
            UserError, match=r"raw file is missing or differs from download\.json"
        ) as error:
            raw_folder.check_raw_files(tmp_path, listed, "Run: again")
        assert (error.value.where, error.value.hint) == (str(path), "Run: again")
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"files": {"a": "0123"}}', '{"files": {"a": {"size": -1}}}']
)
def test_a_damaged_list_is_refused(tmp_path, content):
    (tmp_path / "download.json").write_text(content)
    with pytest.raises(UserError, match="damaged") as error:
        raw_folder.read_raw_files(tmp_path, "Run: again")
    assert error.value.hint == "Run: again"


def test_tree_is_sorted_and_leaves_out_what_is_hidden(tmp_path):
    for name in ("b/z", "b/a", "a.txt", ".done/x", "b/.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert raw_folder.list_files(tmp_path) == ["a.txt", "b/a", "b/z"]


def test_parallel_keeps_the_order_and_takes_few_at_a_time():
    taken = []
    answers = raw_folder.map_in_threads(str, (taken.append(n) or n for n in range(1000)))
    assert next(answers) == "0"
    assert len(taken) < 100
    assert list(answers) == [str(n) for n in range(1, 1000)]

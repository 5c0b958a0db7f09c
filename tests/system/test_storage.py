"""Shards on a disk, in a bucket and behind HTTP."""

from __future__ import annotations

import functools
import http.server
import os
import platform
import subprocess
import sys
import threading

import pytest
from toys.shards import SETTINGS, Quiet, read, toy_records, write

from umemma.data import shard_reader
from umemma.errors import UserError
from umemma.system.storage import Store


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = platform.node().replace(".", "-")
    for process in (dead.pid, os.getpid()):
        (tmp_path / f".train-000000.tar.{host}-{process}.part").write_bytes(b"half")
    Store(f"file://{tmp_path}").remove_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == [
        f".train-000000.tar.{host}-{os.getpid()}.part"
    ]


def test_shards_in_a_memory_file_system(tmp_path):
    write(tmp_path / "s")
    index = write("memory://bucket/shards/toy")
    assert shard_reader.read_index(Store("memory://bucket/shards/toy"), SETTINGS) == index
    assert [r.key for r in read("memory://bucket/shards/toy", index)] == ["a", "b", "d"]
    store = Store("memory://bucket/shards/toy")
    assert store.list_names() == sorted(path.name for path in (tmp_path / "s").iterdir())
    for name in store.list_names():
        assert store.read(name) == (tmp_path / "s" / name).read_bytes()
    write("memory://bucket/shards/toy", [record for record in toy_records() if record.key in "abe"])
    assert "train-000001.tar" not in store.list_names()
    with store.file_system.open(store.at("train-000000.tar"), "wb") as file:
        file.write(b"cut")
    with pytest.raises(UserError, match="truncated or altered"):
        read("memory://bucket/shards/toy", index)


def test_shards_behind_http_are_read(tmp_path):
    index = write(tmp_path / "s")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert shard_reader.read_index(Store(f"{url}/s"), SETTINGS) == index
        assert [r.key for r in read(f"{url}/s", index)] == ["a", "b", "d"]
        assert (
            shard_reader.verify_shard(Store(f"{url}/s"), index, "train", index.splits["train"][1])
            == []
        )
        with pytest.raises(UserError, match="the server sends whole files"):  # as this one does
            Store(f"{url}/s").read_ranges([("train-000000.tar", 512, 100)])
        with pytest.raises(UserError, match="not there yet"):
            shard_reader.read_index(Store(f"{url}/nowhere"))
        with pytest.raises(UserError, match="can only be read"):
            write(f"{url}/s")
        server.shutdown()
    with pytest.raises(UserError, match="can't be read or written"):
        Store(f"{url}/s").read("index.json")


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_ranges_of_bytes_are_read_as_far_as_a_file_goes(tmp_path, kind):
    store = Store({"disk": str(tmp_path), "memory": "memory://ranges"}[kind])
    with store.new("a.tar") as path:
        path.write_bytes(b"0123456789")
    ranges = [("a.tar", 7, 2), ("a.tar", 0, 1), ("a.tar", 8, 5), ("a.tar", 7, 2)]
    assert store.read_ranges(ranges) == [b"78", b"0", b"89", b"78"]
    assert store.read_ranges([]) == []
    with pytest.raises(UserError, match=r"b\.tar: can't be read or written"):
        store.read_ranges([("a.tar", 0, 1), ("b.tar", 0, 1)])


def test_a_place_that_needs_what_is_not_installed():
    with pytest.raises(UserError, match="can't be opened"):
        Store("nonsense://bucket").list_names()

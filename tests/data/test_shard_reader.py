"""Shards and the loader: byte-identical, vouched for by the index, absent stays absent."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toys.media import flac
from toys.shards import GREY, SETTINGS, SPEC, TONE, Quiet, read, toy_records, write

from umemma.data import shard_marker, shard_plan, shard_reader, shard_writer
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.modalities import image
from umemma.types import DatasetSpec, Packing, Record


def test_what_goes_in_comes_out(tmp_path):
    index = write(tmp_path / "s")
    assert index == shard_reader.read_index(Store(str(tmp_path / "s")), SETTINGS)
    assert [(s.name, s.samples, s.failed) for s in index.splits["train"]] == [
        ("train-000000.tar", 2, 0),
        ("train-000001.tar", 1, 1),
    ]
    found = read(tmp_path / "s", index)
    assert [(r.key, r.label, r.group, sorted(r.media)) for r in found] == [
        ("a", 0, "", ["audio", "image"]),
        ("b", 1, "g", ["image"]),
        ("d", 1, "", ["audio"]),
    ]
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(found[0].media["image"]))), GREY)


def test_a_sample_may_be_in_several_groups(tmp_path):
    named = {"image": "7", "voice": "af"}
    records = [
        Record("a", "train", 0, {"image": GREY}, named),
        Record("b", "train", 0, {"image": GREY}, {"image": "7"}),
    ]
    records += [Record("c", "test", 0, {"image": GREY}, "g")]
    index = write(tmp_path / "s", records)
    assert [record.group for record in read(tmp_path / "s", index)] == [named, {"image": "7"}]
    rows = pq.read_table(tmp_path / "s" / "train-000000.parquet").to_pylist()
    assert [(row["group_image"], row["group_voice"]) for row in rows] == [("7", "af"), ("7", None)]
    assert "group" not in rows[0]
    assert pq.read_table(tmp_path / "s" / "test-000000.parquet")["group"].to_pylist() == ["g"]
    with tarfile.open(
        tmp_path / "s" / "test-000000.tar"
    ) as tar:  # as it was before there were names
        assert tar.extractfile("c.json").read() == b'{"label": 0, "group": "g", "has": ["image"]}'
    assert Record("a", "train", 0, {}, "g").groups == {"group": "g"}
    assert (
        Record("a", "train", 0, {}).groups
        == Record("a", "train", 0, {}, {"image": ""}).groups
        == {}
    )


def test_every_sample_has_a_row_failures_with_a_reason(tmp_path):
    write(tmp_path / "s")
    rows = pq.read_table(tmp_path / "s" / "train-000001.parquet").to_pylist()
    assert [(r["key"], r["status"], r["has_audio"], r["has_image"]) for r in rows] == [
        ("c", "failed", True, True),
        ("d", "ok", True, False),
    ]
    assert "not a readable image" in rows[0]["reason"]


def test_byte_identical_on_every_run(tmp_path):
    """The reasons of failures too: a library's own text can hold an address in memory."""
    for name in ("one", "two"):
        write(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 10  # 3 tars, 3 tables, 3 markers, the index
    assert all(
        (tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files
    )
    with tarfile.open(tmp_path / "one" / "train-000000.tar") as tar:
        assert tar.getnames() == ["a.audio.flac", "a.image.png", "a.json", "b.image.png", "b.json"]


def test_the_format_goes_up_when_the_bytes_change(tmp_path):
    """If this fails, packing (or a library, see constraints.txt) gives other bytes: raise packing.FORMAT with the digest."""
    photo = io.BytesIO()
    Image.linear_gradient("L").resize((400, 300)).save(photo, format="PNG")
    records = [
        Record("a", "train", 0, {"audio": TONE, "image": GREY}),
        Record("b", "test", 0, {"image": photo.getvalue()}),
    ]
    index = write(tmp_path / "s", records)
    assert shard_plan.FORMAT == 2
    assert [index.splits[split][0].sha256[:16] for split in ("train", "test")] == [
        "99371f8bcb56536d",
        "de999a0ef01bf672",
    ]


def test_too_many_failures_end_it_with_the_reasons(tmp_path):
    with pytest.raises(
        UserError, match=r"2 of 6 samples could not be packed: 1 x image: not a readable image"
    ):
        write(tmp_path / "s", max_failures=0.1)
    assert not (tmp_path / "s" / "index.json").exists()


@pytest.mark.parametrize("at", [0, 600, 5000, -1])
def test_every_flipped_byte_is_found(tmp_path, at):
    index = write(tmp_path / "s")
    path = tmp_path / "s" / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="truncated or altered"):
        read(tmp_path / "s", index)


def test_every_truncation_is_found(tmp_path):
    index = write(tmp_path / "s")
    path = tmp_path / "s" / "train-000000.tar"
    whole = path.read_bytes()
    for size in range(0, len(whole), 512):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="truncated or altered"):
            read(tmp_path / "s", index)
    path.unlink()
    with pytest.raises(UserError, match="shard is missing"):
        read(tmp_path / "s", index)


def test_an_index_is_taken_as_it_was_written_or_not_at_all(tmp_path):
    index = write(tmp_path / "s")
    path = tmp_path / "s" / "index.json"
    whole = path.read_text()
    for before, after in (('"yes"', '"maybe"'), ('"samples": 2', '"samples": 1')):
        path.write_text(whole.replace(before, after))
        with pytest.raises(UserError, match="altered: its fingerprint is another"):
            shard_reader.read_index(Store(str(tmp_path / "s")))
    for name in (
        "pipe:touch hacked",
        "../s/train-000000.tar",
        "train-{000000..000001}.tar",
    ):  # nor by a stranger
        shard = index.splits["train"][0].model_copy(update={"name": name})
        forged = index.model_copy(update={"splits": {"train": [shard]}})
        path.write_text(
            forged.model_copy(
                update={"fingerprint": forged.compute_fingerprint()}
            ).model_dump_json()
        )
        with pytest.raises(UserError, match="is not the name of a shard"):
            shard_reader.read_index(Store(str(tmp_path / "s")))


STRANGE = {
    "no description": {"a.image.png": b"x"},
    "description": {"a.image.png": b"x", "a.json": b"[1]"},
    "makes no sense": {
        "a.image.png": b"x",
        "a.json": b'{"label": 7, "group": "", "has": ["image"]}',
    },
    "or one that": {
        "a.image.png": b"x",
        "a.json": b'{"label": [0], "group": "", "has": ["image"]}',
    },
    "has no description, or one": {
        "a.image.png": b"x",
        "a.json": b'{"label": 0, "group": {"v": 1}, "has": ["image"]}',
    },
    "one that makes": {
        "a.image.png": b"x",
        "a.json": b'{"label": 0, "group": ["g"], "has": ["image"]}',
    },
    "lost media": {
        "a.image.png": b"x",
        "a.json": b'{"label": 0, "group": "", "has": ["audio", "image"]}',
    },
}


@pytest.mark.parametrize("message", STRANGE)
def test_a_well_made_checksum_does_not_make_a_well_made_sample(tmp_path, message):
    index = write(tmp_path / "s")
    path = tmp_path / "s" / "test-000000.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in STRANGE[message].items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    forged = index.splits["test"][0].model_copy(
        update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    )
    with pytest.raises(UserError, match=message):
        read(tmp_path / "s", index.model_copy(update={"splits": {"test": [forged]}}), "test")


def test_verifying_finds_what_is_wrong_with_any_file_of_a_shard(tmp_path):
    index, store = write(tmp_path / "s"), Store(str(tmp_path / "s"))
    shard = index.splits["train"][0]
    assert shard_reader.verify_shard(store, index, "train", shard) == []
    for name in ("train-000000.tar", "train-000000.parquet"):
        path = tmp_path / "s" / name
        whole = path.read_bytes()
        for cut in range(0, len(whole), max(1, len(whole) // 40)):
            path.write_bytes(whole[:cut])
            assert shard_reader.verify_shard(store, index, "train", shard) == [
                f"{name} is truncated or altered"
            ]
            path.write_bytes(whole[:cut] + bytes([whole[cut] ^ 1]) + whole[cut + 1 :])
            assert shard_reader.verify_shard(store, index, "train", shard) == [
                f"{name} is truncated or altered"
            ]
        path.unlink()
        assert shard_reader.verify_shard(store, index, "train", shard) == [f"{name} is missing"]
        path.write_bytes(whole)
    forged = shard.model_copy(update={"samples": 3})
    wrong = "train-000000.json is missing or differs from the index"
    assert shard_reader.verify_shard(store, index, "train", forged) == [wrong]
    marker = tmp_path / "s" / "train-000000.json"
    marker.write_text(forged.model_dump_json())
    assert (
        shard_marker.read_marker(store, "train-000000") is None
    )  # a marker vouches for itself as well
    forged = forged.model_copy(update={"content_hash": forged.compute_content_hash()})
    marker.write_text(forged.model_dump_json())
    assert shard_reader.verify_shard(store, index, "train", forged) == [
        "train-000000.tar: 2 samples in the shard, 3 in the index"
    ]


def test_retrying_packs_only_what_failed_and_ends_with_the_bytes_of_a_fresh_run(tmp_path):
    picture, sound = tmp_path / "c.png", tmp_path / "d.flac"
    sound.write_bytes(flac(TONE.samples))
    records = [
        Record("c", "train", 0, {"image": picture}),
        Record("d", "train", 1, {"audio": sound}),
    ]
    (job,) = shard_plan.plan_shards(
        records, SPEC, Store(str(tmp_path / "s")), Packing(), 2, lambda records: "f"
    )
    assert shard_writer.write_shard(job).reasons == {"image: file is missing": 1}
    picture.write_bytes(image.pack(GREY, Packing()).data)
    sound.unlink()  # the kept sample isn't packed again
    retried = shard_writer.write_shard(replace(job, retry=True))
    assert (retried.samples, retried.failed) == (2, 0)
    sound.write_bytes(flac(TONE.samples))
    assert shard_writer.write_shard(replace(job, store=Store(str(tmp_path / "fresh")))) == retried
    for name in ("train-000000.tar", "train-000000.parquet", "train-000000.json"):
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def torn(folder: Path) -> list[Record]:
    """Of three samples the first has no image file, the second neither, nor anything else; the third is whole."""
    lost = {"image": folder / "no.png"}
    return [
        Record("a", "train", 0, {"audio": TONE, **lost}, group="g"),
        Record("b", "train", 1, lost),
        Record("c", "train", 1, {"audio": TONE, "image": GREY}),
        Record("e", "test", 1, {"audio": TONE, "image": GREY}),
    ]


def test_a_medium_that_cannot_be_read_is_absent_and_its_sample_says_why(tmp_path):
    index = write(tmp_path / "s", torn(tmp_path), max_failures=2 / 4)
    assert [(r.key, sorted(r.media), r.label, r.group) for r in read(tmp_path / "s", index)] == [
        ("a", ["audio"], 0, "g"),
        ("c", ["audio", "image"], 1, ""),
    ]
    rows = pq.read_table(tmp_path / "s" / "train-000000.parquet").to_pylist()
    assert [(r["key"], r["status"], r["reason"], r["has_audio"], r["has_image"]) for r in rows] == [
        ("a", "ok", "image: file is missing", True, False),
        ("b", "failed", "image: file is missing", False, True),
    ]
    first, second = index.splits["train"]
    assert (first.samples, first.failed, first.reasons, first.broken, first.broken_samples) == (
        *(1, 1, {"image: file is missing": 1}, {"image: file is missing": 1}, 1),
    )
    assert (second.samples, second.reasons, second.broken) == (1, {}, {})
    assert (index.failures(), index.broken()) == (
        "1 x image: file is missing",
        "1 x image: file is missing",
    )
    with tarfile.open(tmp_path / "s" / "train-000000.tar") as tar:
        assert tar.getnames() == ["a.audio.flac", "a.json"]


def test_by_choice_it_fails_its_sample(tmp_path):
    jobs = shard_plan.plan_shards(
        torn(tmp_path), SPEC, Store(str(tmp_path / "s")), Packing(), 9, lambda records: "f", "fail"
    )
    train, _ = map(shard_writer.write_shard, jobs)
    assert (train.samples, train.failed, train.broken) == (1, 2, {})
    assert train.reasons == {"image: file is missing": 2}


def test_several_broken_media_of_a_sample_are_one_reason(tmp_path):
    media = {"audio": b"not a sound", "image": b"not a picture", "text": "word"}
    three = replace(SPEC, modalities=("audio", "image", "text"), splits=("train",))
    index = write(tmp_path / "s", [Record("a", "train", 0, media)], 1.0, three)
    (shard,) = index.splits["train"]
    (reason,) = shard.broken
    assert [one.split(": ")[0] for one in reason.split("; ")] == ["audio", "image"]
    assert (shard.broken_samples, index.samples("train")) == (1, 1)


def test_samples_with_a_broken_medium_are_bounded_with_those_that_fail(tmp_path):
    """One of four samples fails, another lacks a medium that was listed."""
    with pytest.raises(UserError) as error:
        write(tmp_path / "s", torn(tmp_path), 0.49)
    for part in (
        "1 of 4 samples could not be packed: 1 x image: file is missing\n",
        "1 of 4 samples have a medium that can't be read: 1 x image: file is missing\n",
        "They are a, b; ",
    ):
        assert part in error.value.what
    for part in (
        "preprocess.max_failures: 0.5",
        "preprocess.broken: fail",
        "--retry-failed",
        "umemma doctor toy",
    ):
        assert part in error.value.hint
    assert not (tmp_path / "s" / "index.json").exists()
    assert write(tmp_path / "s", torn(tmp_path), 0.5).samples("train") == 2


def test_of_many_broken_samples_the_first_few_are_named(tmp_path):
    records = [
        Record(f"r{i}", "train", 0, {"audio": TONE, "image": tmp_path / "no.png"}) for i in range(7)
    ]
    with pytest.raises(UserError, match=r"They are r0, r1, r2, r3, r4, \.\.\.; ") as error:
        write(tmp_path / "s", [*records, Record("e", "test", 1, {"audio": TONE})], 0.1)
    assert "could not be packed" not in error.value.what
    assert "preprocess.max_failures: 0.875" in error.value.hint


def test_retrying_packs_samples_with_a_broken_medium_again(tmp_path):
    picture, sound = tmp_path / "c.png", tmp_path / "d.flac"
    sound.write_bytes(flac(TONE.samples))
    records = [
        Record("c", "train", 0, {"image": picture, "text": "word"}),
        Record("d", "train", 1, {"audio": sound}),
    ]
    spec = replace(SPEC, modalities=("audio", "image", "text"))
    (job,) = shard_plan.plan_shards(
        records, spec, Store(str(tmp_path / "s")), Packing(), 2, lambda records: "f"
    )
    assert shard_writer.write_shard(job).broken == {"image: file is missing": 1}
    assert shard_marker.read_marker(job.store, job.name).has_failures
    picture.write_bytes(image.pack(GREY, Packing()).data)
    sound.unlink()  # what is well is kept
    retried = shard_writer.write_shard(replace(job, retry=True))
    assert (retried.samples, retried.failed, retried.broken) == (2, 0, {})
    assert not shard_marker.read_marker(job.store, job.name).has_failures
    sound.write_bytes(flac(TONE.samples))
    assert shard_writer.write_shard(replace(job, store=Store(str(tmp_path / "fresh")))) == retried
    for name in ("train-000000.tar", "train-000000.parquet", "train-000000.json"):
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_what_the_settings_leave_out_is_a_row_and_no_failure(tmp_path):
    records = [
        Record("a", "train", 0, {"image": GREY}),
        Record("b", "train", None, {}, left_out="also in val"),
        Record("c", "train", None, {}, problem="zero-length event"),
        Record("e", "test", 0, {"image": GREY}),
    ]
    index = write(tmp_path / "s", records)
    assert [(s.samples, s.failed, s.left_out) for s in index.splits["train"]] == [
        (1, 0, 1),
        (0, 1, 0),
    ]
    assert index.failures() == "1 x zero-length event"
    rows = pq.read_table(tmp_path / "s" / "train-000000.parquet").to_pylist()
    assert [(row["status"], row["reason"], row["label"]) for row in rows] == [
        ("ok", "", 0),
        ("left out", "also in val", None),
    ]


def test_several_labels_each(tmp_path):
    many = DatasetSpec(
        "toy", "", ("image",), ("x", "y", "z"), "", "", ("train",), task="multilabel"
    )
    index = write(tmp_path / "s", [Record("a", "train", (0, 2), {"image": GREY})], spec=many)
    assert [record.label for record in read(tmp_path / "s", index)] == [(0, 2)]
    assert pq.read_table(tmp_path / "s" / "train-000000.parquet")["label"].to_pylist() == [[0, 2]]


def test_a_remade_smaller_set_leaves_no_stranger_behind(tmp_path):
    write(tmp_path / "s")
    (tmp_path / "s" / "notes.txt").write_text("the user's own")
    write(tmp_path / "s", [record for record in toy_records() if record.key in "abe"])
    names = {path.name for path in (tmp_path / "s").iterdir()}
    shards_made = {
        f"{split}-000000.{suffix}"
        for split in ("train", "test")
        for suffix in ("tar", "parquet", "json")
    }
    assert names == {*shards_made, "index.json", "notes.txt"}


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
        with pytest.raises(UserError, match="not there yet"):
            shard_reader.read_index(Store(f"{url}/nowhere"))
        with pytest.raises(UserError, match="can only be read"):
            write(f"{url}/s")
        server.shutdown()
    with pytest.raises(UserError, match="can't be read or written"):
        Store(f"{url}/s").read("index.json")


def test_a_place_that_needs_what_is_not_installed():
    with pytest.raises(UserError, match="can't be opened"):
        Store("nonsense://bucket").list_names()


def test_shards_of_other_settings_are_refused_by_what_differs(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(UserError, match="dataset: 'toy' there, 'digits' here"):
        shard_reader.read_index(Store(str(tmp_path / "s")), {"dataset": "digits"})


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"dataset": "toy"})])
def test_a_damaged_index(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match="damaged") as error:
        shard_reader.read_index(Store(str(tmp_path)), SETTINGS)
    assert error.value.hint == "Run: umemma preprocess"


def test_a_split_of_which_nothing_could_be_packed(tmp_path):
    with pytest.raises(UserError, match="no sample of split 'test' could be packed") as error:
        write(
            tmp_path / "s", [Record("a", "train", 0, {"image": GREY}), Record("b", "test", 0, {})]
        )
    assert "1 x no modality at all" in error.value.hint

"""Shards are read as the index says or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toys.shards import GREY, SETTINGS, read, write

from umemma.data import shard_marker, shard_reader
from umemma.errors import UserError
from umemma.system.storage import Store
from umemma.types import Record


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


def test_every_flipped_byte_of_an_index_is_found(tmp_path):
    index = write(tmp_path / "s", defaults={"preprocess": {"options": {"shares": 0.7}}})
    path, store = tmp_path / "s" / "index.json", Store(str(tmp_path / "s"))
    whole = path.read_bytes()
    assert shard_reader.read_index(store) == index
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=r"altered|damaged|is not the name of a shard"):
            shard_reader.read_index(store)


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

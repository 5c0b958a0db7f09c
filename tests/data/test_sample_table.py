"""The samples of a split as columns, and their media by ranges of bytes."""

from __future__ import annotations

import tarfile
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from toys.shards import GREY, SPEC, read, write

from umemma.data.sample_table import PARTS, compute_checksum, read_samples
from umemma.errors import UserError
from umemma.system.files import sha256
from umemma.system.storage import Store
from umemma.types import DatasetSpec, Record


def forge(folder, index, change, split="train", number=0):
    """Return an index that vouches for a table of rows after `change`."""
    shard = index.splits[split][number]
    path = folder / shard.rows_name
    pq.write_table(change(pq.read_table(path)), path)
    forged = shard.model_copy(update={"rows_sha256": sha256(path)})
    shards = list(index.splits[split])
    shards[number] = forged
    return index.model_copy(update={"splits": {**index.splits, split: shards}})


def columns_of(samples):
    spans = {m: [part.tolist() for part in parts] for m, parts in samples.media.spans.items()}
    return samples.media.keys, samples.labels.to_pylist(), samples.groups, samples.weights, spans


def test_the_table_says_what_the_tar_holds(tmp_path):
    index = write(tmp_path)
    samples = read_samples(Store(str(tmp_path)), index, "train")
    assert samples.media.keys == ["a", "b", "d"]
    assert samples.labels.to_pylist() == [0, 1, 1]
    assert samples.groups == {"group": ["a", "g", "d"]}
    assert samples.weights is None
    assert samples.media.shards == ["train-000000.tar", "train-000001.tar"]
    assert samples.media.has("image").tolist() == [True, True, False]
    assert samples.media.has("audio").tolist() == [True, False, True]
    wanted = [(2, "audio"), (0, "image"), (1, "image"), (0, "audio")]
    by_key = {record.key: record.media for record in read(tmp_path, index)}
    assert samples.media.read(wanted) == [by_key["abd"[i]][m] for i, m in wanted]


def test_shards_from_before_there_were_spans_are_the_same_samples(tmp_path):
    records = [
        Record("a", "train", 0, {"audio": b"", "image": GREY}, {"v": "1"}, weight=0.5),
        Record("b" * 120, "train", 1, {"image": GREY}, {"v": "2"}),
        Record("c", "test", 1, {"image": GREY}),
    ]
    index = write(tmp_path, records, max_failures=1.0)
    now = read_samples(Store(str(tmp_path)), index, "train")
    assert now.weights.tolist() == [0.5, 1.0]
    added = [f"{part}_{m}" for part in PARTS for m in SPEC.modalities]
    index = forge(tmp_path, index, lambda rows: rows.drop_columns([*added, "weight"]))
    before = read_samples(Store(str(tmp_path)), index, "train")
    assert str(columns_of(before)) == str(columns_of(now))
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        member = tar.getmember("a.image.png")
    span = now.media.spans["image"]
    assert (span.offset[0], span.size[0]) == (member.offset_data, member.size)
    path = tmp_path / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="truncated or altered"):
        read_samples(Store(str(tmp_path)), index, "train")


def test_every_flipped_byte_of_a_medium_is_found_where_it_is_read(tmp_path):
    index = write(tmp_path)
    media = read_samples(Store(str(tmp_path)), index, "train").media
    path = tmp_path / "train-000000.tar"
    whole = path.read_bytes()
    start, size = media.spans["image"].offset[0], media.spans["image"].size[0]
    for at in range(start, start + size):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match="image of sample 'a' is not what was written") as error:
            media.read([(0, "image")])
    assert error.value.where == f"{tmp_path}/train-000000.tar"
    assert media.read([(1, "image")])


def test_every_truncation_and_a_missing_file_is_found_before_anything_is_read(tmp_path):
    index, store = write(tmp_path), Store(str(tmp_path))
    for name in ("train-000000.tar", "train-000000.parquet"):
        whole = (tmp_path / name).read_bytes()
        for size in range(0, len(whole), 512):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(UserError, match="truncated or altered"):
                read_samples(store, index, "train")
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match="is missing"):
            read_samples(store, index, "train")
        (tmp_path / name).write_bytes(whole)


def replaced(name, values, kind=None):
    def change(rows):
        number = rows.column_names.index(name)
        column = pa.array(values, kind or rows[name].type)
        return rows.set_column(number, name, column)

    return change


STRANGE = {
    "makes no sense": [
        replaced("label", [2, 1]),
        replaced("label", [-1, 1]),
        replaced("label", [None, 1]),
        replaced("label", [[0], [1]], pa.list_(pa.int64())),
        replaced("size_image", [None, None]),  # so "b" has nothing at all
    ],
    "image outside the shard": [
        replaced("offset_image", [-1, 512]),
        replaced("size_image", [-1, 512]),
        replaced("size_image", [10**6, 512]),
        replaced("offset_image", [2**63 - 1, 512]),
    ],
    "does not say where image is": [
        lambda rows: rows.drop_columns("checksum_image"),
        replaced("size_image", ["many", "few"], pa.string()),
    ],
    "1 samples in the table, 2 in the index": [lambda rows: rows.slice(1)],
}


@pytest.mark.parametrize(
    ("message", "change"), [(m, change) for m, changes in STRANGE.items() for change in changes]
)
def test_a_table_of_a_stranger_makes_sense_or_is_refused(tmp_path, message, change):
    index = forge(tmp_path, write(tmp_path), change)
    with pytest.raises(UserError, match=message) as error:
        read_samples(Store(str(tmp_path)), index, "train")
    assert error.value.where == f"{tmp_path}/train-000000.parquet"


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("multilabel", [[0, 2], [1]]),
        ("multilabel", [[0], [None]]),
        ("multilabel", [[0.5], [1.0]]),
        ("regression", [[0.5], [float("nan")]]),
        ("regression", [[0.5], [1.0, 2.0]]),
        ("regression", [[1], [2]]),
    ],
)
def test_labels_are_those_of_the_task(tmp_path, task, labels):
    classes = {"multilabel": ["no", "yes"], "regression": ["price"]}[task]
    index = write(tmp_path).model_copy(update={"task": task, "classes": classes})
    kind = pa.list_(pa.array([x for row in labels for x in row if x is not None]).type)
    index = forge(tmp_path, index, replaced("label", labels, kind))
    with pytest.raises(UserError, match="makes no sense"):
        read_samples(Store(str(tmp_path)), index, "train")


def test_a_split_without_a_sample_is_said(tmp_path):
    index = forge(tmp_path, write(tmp_path), lambda rows: rows.slice(0, 0))
    shard = index.splits["train"][0].model_copy(update={"samples": 0})
    with pytest.raises(UserError, match="train shards: no sample"):
        read_samples(
            Store(str(tmp_path)), index.model_copy(update={"splits": {"train": [shard]}}), "train"
        )


def test_a_checksum_is_the_same_on_every_machine():
    """The first 8 bytes, least first, of BLAKE2b with digests of 8 bytes."""
    assert compute_checksum(b"a") == 0x2F42665B399EF840
    assert compute_checksum(b"") == 0xB4B2797457A0A6E4


def test_a_listing_takes_at_most_200_bytes_a_sample(tmp_path):
    """Of two modalities and a group of many samples."""
    count = 20_000
    spec = DatasetSpec("toy", "", ("audio", "image"), ("no", "yes"), "", "", ("train",))
    index = write(tmp_path, [Record("a", "train", 0, {"image": GREY}, "g")], spec=spec)

    def repeat(rows):
        many = rows.take(pa.array(np.zeros(count, np.int64)))
        keys = pc.cast(pa.array(np.arange(count)), pa.string())
        return many.set_column(0, "key", pc.binary_join_element_wise("train-", keys, ""))

    index = forge(tmp_path, index, repeat)
    shard = index.splits["train"][0].model_copy(update={"samples": count})
    index = index.model_copy(update={"splits": {"train": [shard]}})
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    samples = read_samples(Store(str(tmp_path)), index, "train")
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples) == count
    arrow = pa.total_allocated_bytes() - before
    assert 100 < (taken + arrow) / count <= 200
    assert set(samples.groups["group"]) == {"g"}

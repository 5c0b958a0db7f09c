"""Shards are byte-identical, with a row for every sample, failed ones too."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace

import pyarrow.parquet as pq
from PIL import Image
from toys.media import flac
from toys.shards import GREY, SPEC, TONE, read, torn, write

from umemma.data import shard_marker, shard_plan, shard_writer
from umemma.modalities import image
from umemma.system.storage import Store
from umemma.types import DatasetSpec, Packing, Record


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
    """If this fails, packing (or a library, see constraints.txt) gives other bytes.

    Raise shard_plan.FORMAT together with the digests.
    """
    photo = io.BytesIO()
    Image.linear_gradient("L").resize((400, 300)).save(photo, format="PNG")
    records = [
        Record("a", "train", 0, {"audio": TONE, "image": GREY}),
        Record("b", "test", 0, {"image": photo.getvalue()}),
    ]
    index = write(tmp_path / "s", records)
    assert shard_plan.FORMAT == 3
    assert [index.splits[split][0].sha256[:16] for split in ("train", "test")] == [
        "99371f8bcb56536d",
        "de999a0ef01bf672",
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

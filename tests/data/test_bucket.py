"""Shards in a bucket, on a server that is really there."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import torch
from toys.bucket import serve_bucket
from toys.loading import load
from toys.shards import read, write

from umemma.data.sample_table import read_samples
from umemma.errors import UserError
from umemma.system import storage
from umemma.system.storage import Store
from umemma.types import DatasetSpec, ImageInput, Record

URL = "s3://toys/shards"
SPECS = {"image": ImageInput(size=8)}
SPEC = DatasetSpec("toy", "", ("image",), ("no", "yes"), "", "", ("train", "test"))


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "RETRY_PAUSES", (0.01, 0.01, 0.01))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with serve_bucket(monkeypatch) as proxy:
        yield proxy


def noise_records() -> list[Record]:
    """Pictures of noise, so of about 49 kB each; half of them are of the test split."""
    chance = np.random.default_rng(0)
    records = []
    for i in range(40):
        picture = chance.integers(0, 256, (128, 128, 3), np.uint8)
        records.append(Record(f"k{i}", ("train", "test")[i % 2], i // 2 % 2, {"image": picture}))
    return records


@pytest.mark.slow
def test_only_the_samples_that_are_used_are_transferred(bucket, tmp_path, stay):
    index = write(URL, noise_records(), spec=SPEC)
    local = load(tmp_path, stay, SPECS, write(tmp_path, noise_records(), spec=SPEC))
    bucket.sent = 0
    remote = load(URL, stay, SPECS, index, workers=0)
    used = read_samples(Store(URL), index, "train").media.spans["image"].size.sum()
    assert used > 900_000
    assert used < bucket.sent <= 1.1 * used
    assert torch.equal(remote.in_memory["image"], local.in_memory["image"])
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
def test_bytes_that_a_connection_cuts_off_are_asked_for_again(bucket, stay, monkeypatch):
    """Other file systems than that of S3 don't do it themselves."""
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    index = write(URL, noise_records(), spec=SPEC)
    whole = load(URL, stay, SPECS, index, workers=0)
    bucket.cuts = 3
    again = load(URL, stay, SPECS, index, workers=0)
    assert bucket.cuts == 0
    assert torch.equal(again.in_memory["image"], whole.in_memory["image"])


@pytest.mark.slow
def test_wrong_bytes_of_a_bucket_are_refused(bucket, stay):
    index = write(URL, noise_records(), spec=SPEC)
    bucket.altered = True
    with pytest.raises(UserError, match="image of sample 'k0' is not what was written") as error:
        load(URL, stay, SPECS, index, workers=0)
    assert error.value.where == f"{URL}/train-000000.tar"
    assert "Remove it" in error.value.hint
    bucket.altered = False
    Store(URL).remove("train-000001.tar")
    with pytest.raises(UserError, match="can't be read or written") as error:
        load(URL, stay, SPECS, index, workers=0)
    assert error.value.where == f"{URL}/train-000001.tar"
    with pytest.raises(UserError, match="shard is missing"):
        read(URL, index)


@pytest.mark.slow
def test_a_bucket_that_cannot_be_reached_is_one_message(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    with serve_bucket(monkeypatch):
        write(URL, noise_records(), spec=SPEC)
    with pytest.raises(UserError, match="can't be read or written"):
        Store(URL).read("index.json")

"""The embedded dataset: real counts, disjoint splits, imperfect on purpose."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from umemma import datasets
from umemma.datasets import digits
from umemma.errors import UserError


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for source in digits.sources(folder, digits.Options()):
        source.make(folder / source.path)
    return folder


@pytest.fixture(scope="module")
def records(raw):
    return list(digits.records(raw, digits.Options()))


def test_shipped_recordings(raw):
    speech = pq.read_table(raw / "speech.parquet").to_pylist()
    voices = defaultdict(set)
    for clip in speech:
        voices[clip["voice"]].add(clip["digit"])
    assert len(voices) >= 60
    assert all(spoken == set(range(10)) for spoken in voices.values())
    assert len({clip["accent"] for clip in speech}) >= 5
    assert (raw / "speech.parquet").stat().st_size <= 5_000_000


def test_splits_share_no_image_and_no_voice(records):
    images, voices = defaultdict(set), defaultdict(set)
    for record in records:
        images[record.groups["image"]].add(record.split)
        voices[record.groups["voice"]].add(record.split)
        assert record.key.startswith(record.groups["image"] + "-")
        assert (
            record.key.split("-", 1)[1].replace("_", " ").lower().startswith(record.groups["voice"])
        )
    assert all(len(splits) == 1 for splits in images.values())
    assert all(len(splits) == 1 for splits in voices.values())
    assert len(images) == 1797
    tested = {record.groups["voice"] for record in records if record.split == "test"}
    assert len(tested) == 18
    assert "f" in tested  # of which there are five


def test_counts_and_classes(records):
    counts = Counter(record.split for record in records)
    assert counts["test"] >= 1000
    assert len({record.key for record in records}) == len(records)
    for split in counts:
        labels = Counter(record.label for record in records if record.split == split)
        assert min(labels.values()) > 0.7 * max(labels.values())


def test_same_digit_in_both_modalities(records, raw):
    said = {
        (clip["voice"].replace(" ", "_"), clip["digit"])
        for clip in pq.read_table(raw / "speech.parquet").to_pylist()
    }
    assert all((record.key.split("-", 1)[1], record.label) in said for record in records)


def test_energy_is_kept_as_asked_and_fitted_on_train_only():
    chance = np.random.default_rng(0)
    images = chance.random((40, 64)) * np.linspace(1, 0.1, 64)
    train = np.arange(40) < 30
    all_of_it = digits._keep_energy(images, train, 1.0)
    assert np.abs(all_of_it[train].reshape(30, 64) / 255 - images[train]).max() < 0.01
    other = images.copy()
    other[~train] = 0  # what is not train must not matter to train's pictures
    some = digits._keep_energy(images, train, 0.25)
    np.testing.assert_array_equal(some[train], digits._keep_energy(other, train, 0.25)[train])
    kept = (some[train].reshape(30, 64) / 255.0).var(0).sum() / images[train].var(0).sum()
    assert 0.2 < kept < 0.4  # the fewest components that reach a quarter


@pytest.mark.slow
def test_what_is_not_train_does_not_matter_to_the_pictures_of_train(records, raw, tmp_path):
    """Validation's and test's pictures made black: those of train are made as before."""
    train = {int(record.key[:4]) for record in records if record.split == "train"}
    table = pq.read_table(raw / "images.parquet").to_pylist()
    black = [row if i in train else {**row, "pixels": bytes(64)} for i, row in enumerate(table)]
    pq.write_table(pa.Table.from_pylist(black), tmp_path / "images.parquet")
    (tmp_path / "speech.parquet").write_bytes((raw / "speech.parquet").read_bytes())
    for before, after in zip(records, digits.records(tmp_path, digits.Options()), strict=True):
        if before.split == "train":
            np.testing.assert_array_equal(after.media["image"], before.media["image"])


def test_noise_has_the_stated_ratio():
    clip = np.sin(np.arange(6400) / 3).astype(np.float32)
    noisy = digits._add_noise(clip, -6.0, seed=1)
    scale = np.dot(noisy, clip) / np.dot(
        clip, clip
    )  # the clip fills the window, so it can be fitted out
    noise = noisy - scale * clip
    assert 10 * np.log10(np.mean((scale * clip) ** 2) / np.mean(noise**2)) == pytest.approx(
        -6, abs=0.5
    )


def test_records_are_the_same_every_time(records, raw):
    again = next(iter(digits.records(raw, digits.Options())))
    assert again.key == records[0].key
    np.testing.assert_array_equal(again.media["audio"].samples, records[0].media["audio"].samples)


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'digits'") as error:
        datasets.get_module("digit")
    assert error.value.exit_status == 2

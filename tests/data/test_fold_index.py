"""Shards of a dataset with folds, and the view of one fold."""

from __future__ import annotations

import json

import pytest
from toys.shards import GREY, SPEC, read, write

from umemma.data import shard_reader
from umemma.errors import UserError
from umemma.system.storage import Store
from umemma.types import DatasetSpec, Fold, Record

FOLDS = (
    Fold(number=0, val=(1,)),
    Fold(number=1, val=(2, 3)),
    *(Fold(number=n, val=(0,)) for n in (2, 3)),
)
FOLDED = DatasetSpec(
    "toy",
    "",
    ("audio", "image"),
    ("no", "yes"),
    "",
    "",
    splits=tuple(fold.split for fold in FOLDS),
    folds=FOLDS,
)
RECORDS = [Record(f"k{i}", f"fold-{i % 4}", i % 2, {"image": GREY}) for i in range(8)]


def keys(folder, index, split):
    return [record.key for record in read(folder, index, split)]


def test_the_view_of_a_fold_has_each_sample_once(tmp_path):
    index = write(tmp_path, RECORDS, spec=FOLDED)
    assert index == shard_reader.read_index(Store(str(tmp_path)))
    view = index.select_fold(1)
    assert list(view.splits) == ["train", "val", "test"]
    assert keys(tmp_path, view, "test") == ["k1", "k5"]
    assert keys(tmp_path, view, "val") == ["k2", "k6", "k3", "k7"]
    assert keys(tmp_path, view, "train") == ["k0", "k4"]
    assert keys(tmp_path, index.select_fold(2), "train") == ["k1", "k5", "k3", "k7"]
    fingerprints = {index.select_fold(n).fingerprint for n in range(4)} | {index.fingerprint}
    assert len(fingerprints) == 5


def test_an_index_without_folds_is_as_it_was(tmp_path):
    index = write(tmp_path)
    assert "folds" not in json.loads((tmp_path / "index.json").read_text())
    assert index.select_fold(None) is index


@pytest.mark.parametrize(
    ("spec", "fold", "message"),
    [
        (FOLDED, 4, "there is no fold 4.*0 to 3"),
        (FOLDED, None, "the shards have folds, and none is selected.*--set fold=0"),
        (SPEC, 0, "fold 0 is set, but the shards have no folds"),
    ],
)
def test_a_fold_that_there_is_not_is_one_message(tmp_path, spec, fold, message):
    records = RECORDS if spec is FOLDED else None
    index = write(tmp_path, records, spec=spec)
    with pytest.raises(UserError, match=f"(?s){message}"):
        index.select_fold(fold)


def test_shards_of_other_splits_are_removed(tmp_path):
    write(tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    write(tmp_path, RECORDS, spec=FOLDED)
    three = [record for record in RECORDS if record.split != "fold-3"]
    folds = (Fold(number=0, val=(1,)), Fold(number=1, val=(2,)), Fold(number=2, val=(0,)))
    splits = tuple(fold.split for fold in folds)
    spec = DatasetSpec(
        "toy", "", ("audio", "image"), ("no", "yes"), "", "", splits=splits, folds=folds
    )
    write(tmp_path, three, spec=spec)
    names = {path.name.rpartition("-")[0] for path in tmp_path.glob("*.tar")}
    assert names == {"fold-0", "fold-1", "fold-2"}
    assert (tmp_path / "mine.txt").exists()

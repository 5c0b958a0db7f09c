"""The index: written last, with a bound on failures, and nothing else beside its shards."""

from __future__ import annotations

import pytest
from toys.shards import GREY, TONE, torn, toy_records, write

from umemma.errors import UserError
from umemma.types import Record


def test_too_many_failures_end_it_with_the_reasons(tmp_path):
    with pytest.raises(
        UserError, match=r"2 of 6 samples could not be packed: 1 x image: not a readable image"
    ):
        write(tmp_path / "s", max_failures=0.1)
    assert not (tmp_path / "s" / "index.json").exists()


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


def test_a_split_of_which_nothing_could_be_packed(tmp_path):
    with pytest.raises(UserError, match="no sample of split 'test' could be packed") as error:
        write(
            tmp_path / "s", [Record("a", "train", 0, {"image": GREY}), Record("b", "test", 0, {})]
        )
    assert "1 x no modality at all" in error.value.hint


def test_a_class_that_train_lacks_is_named(tmp_path, messages):
    records = [
        Record("a", "train", 0, {"image": GREY}),
        Record("b", "test", 1, {"image": GREY}),
        Record("c", "test", 0, {"image": GREY}),
    ]
    write(tmp_path / "s", records)
    (warning,) = [line for line in messages if "Without a training sample" in line]
    assert "other splits have some: 'yes' (1 of 2 classes)" in warning

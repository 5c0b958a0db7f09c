"""What a column of a stranger's table is taken for."""

from __future__ import annotations

import numpy as np
import pytest

from umemma.datasets._manifest.columns import Column, guess_kind, read_columns, tells_label
from umemma.errors import UserError

WORDS = [f"a {size} dog that sleeps" for size in ("small", "large")]
NAMES = ["red", "blue", "green"]


def guess(folder, cells, name="x"):
    return guess_kind(Column(name, cells), folder)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2.5", "-3e4", ""] * 5, "table"),
        (NAMES * 5, "table"),
        (WORDS * 5, "text"),
        ([f"shirt {number}" for number in range(20)], "text"),
        (["[1, 2]", "[3.5, 4]"] * 5, "vector"),
        (["[[1, 2], [3, 4]]", "[ [5, 6]]"] * 5, "series"),
    ],
)
def test_a_column_of_cells_has_the_kind_of_what_they_hold(tmp_path, cells, kind):
    assert guess(tmp_path, cells) == (kind, "")


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        ([""] * 19 + ["3"], "nearly empty"),
        (["3"] * 9, "the same in every row"),
        ([str(number) for number in range(9)], "counts the rows"),
        ([f"id-{number * 7}" for number in range(9)], "a name of its own in most rows"),
    ],
)
def test_what_teaches_nothing_is_left_out_with_the_reason(tmp_path, cells, note):
    assert guess(tmp_path, cells) == ("", note)


@pytest.mark.parametrize(
    ("suffix", "kind"), [("JPG", "image"), ("flac", "audio"), ("mp4", "video")]
)
def test_paths_of_media_that_are_there(tmp_path, suffix, kind):
    cells = [f"{number}.{suffix}" for number in range(4)]
    for cell in cells:
        (tmp_path / cell).write_bytes(b"x")
    assert guess(tmp_path, [*cells, ""]) == (kind, "")
    assert guess(tmp_path, [str(tmp_path / cell) for cell in cells]) == (kind, "")


def test_a_number_that_is_called_an_id_is_left_out(tmp_path):
    numbers = ["12", "7", "30"] * 5
    assert guess(tmp_path, numbers, "freesound_ID") == ("", "a number that is a name")
    assert guess(tmp_path, numbers, "acid") == ("table", "")


def test_paths_of_media_that_are_not_there_are_named(tmp_path):
    kind, note = guess(tmp_path, ["a.png", "b.png", "c.png"])
    assert kind == ""
    assert note == f"its files are not there, such as {tmp_path / 'a.png'}"


@pytest.mark.parametrize(
    ("shape", "kind", "note"),
    [((5,), "vector", ""), ((5, 2), "series", ""), ((5, 2, 3), "", "arrays of 3 dimensions")],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_an_array_is_a_vector_or_a_series_by_its_shape(tmp_path, shape, kind, note, suffix):
    for name in "ab":
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "npy":
            np.save(path, np.zeros(shape))
        else:
            np.savez(path, np.zeros(shape))
    assert guess(tmp_path, [f"a.{suffix}", f"b.{suffix}"]) == (kind, note)


def test_an_array_of_python_objects_is_not_opened(tmp_path):
    objects = np.array([{}], object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", objects)
    for name in ("a.npy", "a.npz"):
        kind, note = guess(tmp_path, [name, name, f"./{name}"])
        assert (kind, note) == ("", f"no array of numbers: {tmp_path / name}")


def test_a_column_that_says_the_label_in_other_words():
    label = Column("label", ["cat", "dog", "dog", "cat", "dog", "cat"])
    assert tells_label(Column("code", ["1", "2", "2", "1", "2", "1"]), label, "multiclass")
    assert tells_label(Column("code", ["1", "2", "", "1", "3", "1"]), label, "multiclass") is False
    assert not tells_label(Column("size", ["1", "2", "2", "1", "1", "1"]), label, "multiclass")
    price = Column("price", ["10", "30", "20", "40"])
    assert tells_label(Column("log", ["1", "1.5", "1.3", "1.6"]), price, "regression")
    assert not tells_label(Column("area", ["1", "1.5", "1.7", "1.6"]), price, "regression")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_with_semicolons_or_tabs_is_read(tmp_path, delimiter):
    rows = [["size", "label"], ["3", 'a "b"'], ["", "c"]]
    text = "\n".join(delimiter.join(row) for row in rows)
    (tmp_path / "t.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert read_columns(tmp_path / "t.csv") == [("size", ["3", ""]), ("label", ['a "b"', "c"])]


def test_what_is_no_table_is_one_message(tmp_path):
    (tmp_path / "t.txt").write_text("a\n")
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(UserError, match="unknown kind of table"):
        read_columns(tmp_path / "t.txt")
    with pytest.raises(UserError, match="fewer than two columns"):
        read_columns(tmp_path / "t.csv")
    with pytest.raises(UserError, match="no such file"):
        read_columns(tmp_path / "u.csv")

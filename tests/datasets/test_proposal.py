"""What `umemma init` takes the columns of a table for."""

from __future__ import annotations

from pathlib import Path

import pytest

from umemma.datasets._manifest.columns import Column
from umemma.datasets._manifest.proposal import find_label, propose
from umemma.errors import UserError

ROWS = 60
SIZE = [str(number * 7 % 31 / 2) for number in range(ROWS)]
CLASS = [("cat", "dog")[number % 2] for number in range(ROWS)]


def repeat(*cells):
    return [cells[number % len(cells)] for number in range(ROWS)]


def number_of(rows_each):
    return [f"p{number // rows_each}" for number in range(ROWS)]


def make(task="", **columns):
    listed = [Column(name.replace("_", " "), cells) for name, cells in columns.items()]
    return propose(Path("t.csv"), listed, "label", task)


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["size", "Label"], "Label"),
        (["category", "class"], "class"),
        (["y", "x"], "y"),
        (["target", "sublabel"], "target"),
        (["size", "city"], ""),
    ],
)
def test_the_label_is_found_by_its_name(names, label):
    assert find_label([Column(name, []) for name in names]) == label


@pytest.mark.parametrize(
    ("labels", "task", "separator"),
    [
        (CLASS, "multiclass", None),
        (repeat("1", "2", "3"), "multiclass", None),
        ([str(number / 3) for number in range(ROWS)], "regression", None),
        (repeat("a|b", "a", "b", "c", "a|b|c"), "multilabel", "|"),
        (repeat("a, b", "a", "b", "b, a", "a,b"), "multilabel", ","),
        (repeat("Salt, Lake", "Rome"), "multiclass", None),
        (repeat('["a","b"]', '["a"]'), "multilabel", None),
    ],
)
def test_the_task_is_what_the_labels_look_like(labels, task, separator):
    options = make(size=SIZE, label=labels).options
    assert (options["task"], options.get("separator")) == (task, separator)


def test_a_task_that_is_named_stands():
    assert (
        make(task="regression", size=SIZE, label=repeat("1", "2")).options["task"] == "regression"
    )


def test_the_columns_get_their_roles():
    proposal = make(
        id=[f"n{number}" for number in range(ROWS)],
        side=repeat("Train", "train", "dev", "test"),
        patient_id=number_of(2),
        zip=repeat("12", "77", "31"),
        size=SIZE,
        sublabel=repeat("a", "b", "c"),
        code=repeat("7", "3"),
        label=CLASS,
    )
    options = proposal.options
    assert (options["key"], options["split"], options["group"]) == ("id", "side", "patient id")
    assert options["columns"] == {"table": ["zip", "size"]}
    assert options["categories"] == ["zip"]
    assert "folds" not in options
    for column in ("sublabel", "code"):
        assert proposal.uses[column] == "left out: may say label in other words"
    assert set(proposal.uses) == set(proposal.columns)


def test_few_groups_are_dealt_into_folds():
    assert make(speaker=number_of(20), size=SIZE, label=CLASS).options["folds"] == 3
    assert make(speaker=number_of(4), size=SIZE, label=CLASS).options["folds"] == 5
    assert "folds" not in make(speaker=number_of(2), size=SIZE, label=CLASS).options
    split = repeat("train", "test", "val")
    assert "folds" not in make(speaker=number_of(20), size=SIZE, label=CLASS, split=split).options


def test_a_column_of_folds_is_one():
    folds = repeat("1", "2", "3", "4")
    assert make(fold=folds, size=SIZE, label=CLASS).options["folds"] == {"column": "fold"}
    assert "folds" not in make(fold=repeat("1", "2", "5"), size=SIZE, label=CLASS).options


def test_two_columns_of_a_kind_are_named_after_themselves():
    text = [f"word {number} and {number * 3}" for number in range(ROWS)]
    proposal = make(title=text, front_text=text[::-1], size=SIZE, label=CLASS)
    assert proposal.kinds == {"table": "table", "title": "text", "front_text": "text"}
    assert proposal.options["columns"]["front_text"] == "front text"


def test_a_name_that_means_something_else_is_changed():
    text = [f"word {number} and {number * 3}" for number in range(ROWS)]
    kinds = make(start=text, end=text[::-1], label=CLASS).kinds
    assert kinds == {"text_start": "text", "text_end": "text"}


def test_media_of_absolute_paths_stay_where_they_are(tmp_path):
    cells = [str(tmp_path / "photos" / f"{number % 9}.png") for number in range(ROWS)]
    (tmp_path / "photos").mkdir()
    for cell in cells:
        Path(cell).touch()
    proposal = make(photo=cells, label=CLASS)
    assert proposal.options["columns"] == {"image": "photo"}
    assert proposal.options["root"] == str(tmp_path / "photos")


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        ({"size": SIZE, "label": ["a"] * ROWS}, "", "the same in every row"),
        ({"size": SIZE, "label": [f"n{i}" for i in range(ROWS)]}, "", "60 different ones"),
        ({"size": SIZE, "label": CLASS}, "regression", "other than numbers"),
        ({"size": SIZE, "labell": CLASS}, "", "unknown column 'label'"),
        ({"size": ["1"] * ROWS, "label": CLASS}, "", "no column can be a modality"),
    ],
)
def test_what_can_not_be_trained_on_is_one_message(columns, task, message):
    with pytest.raises(UserError, match=message):
        make(task=task, **columns)

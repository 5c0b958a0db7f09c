"""A table of answers: every way to write it, and every mistake in it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pytest
from toys.audits import ALONE, KEYS, RIGHT, make_rows, write_rows

from umemma.errors import UserError
from umemma.evaluation.audit.alignment import align, make_predictions
from umemma.evaluation.audit.answer_table import read_answers, take_columns
from umemma.evaluation.audit.collection import collect_answers
from umemma.evaluation.predictions import Predictions


def read(rows, classes=(), modalities=()) -> Predictions:
    table = take_columns(pa.Table.from_pylist(rows), "t", classes)
    return make_predictions(table, modalities)


def lists_of(rows, name="probabilities"):
    """The rows with a list in place of a column per class."""
    changed = []
    for row in rows:
        row = dict(row)
        row[name] = [row.pop("probability_frog"), row.pop("probability_toad")]
        changed.append(row)
    return changed


def write_table(rows, path):
    if path.suffix == ".parquet":
        return write_rows(path, rows)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("form", ["columns", "lists"])
@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.csv"])
def test_every_format_has_the_same_answers(tmp_path, name, form):
    rows = make_rows(RIGHT | ALONE)[::-1]
    classes = ()
    if form == "lists":
        if name == "t.csv":
            pytest.skip("a CSV file has no lists")
        rows, classes = lists_of(rows), ("frog", "toad")
    found = make_predictions(read_answers(write_table(rows, tmp_path / name), classes))
    assert found.keys == list("dcba")
    assert found.groups == {"group": ["cd", "cd", "ab", "ab"]}
    assert found.classes == ["frog", "toad"]
    assert found.target.tolist() == [1, 1, 1, 1]
    assert found.modalities == ["audio", "image"]
    log = np.log(np.float32([[0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [0.25, 0.75]]))
    np.testing.assert_allclose(found.ensemble["audio+image"], log, rtol=1e-6)
    right = {name: logits.argmax(1).tolist() for name, logits in found.ensemble.items()}
    assert right == {"audio+image": [0, 1, 1, 1], "audio": [0, 0, 0, 1], "image": [0, 0, 1, 1]}
    alone = {name: logits.argmax(1).tolist() for name, logits in found.unimodal.items()}
    assert alone == {"audio": [0, 0, 1, 1], "image": [0, 0, 0, 1]}


def test_logits_stay_as_they_are_and_probabilities_of_0_count_a_little():
    rows = lists_of(make_rows(), "logits")
    rows[0]["logits"] = [-3.0, 7.0]
    found = read(rows, ["frog", "toad"])
    assert found.ensemble["audio+image"][0].tolist() == [-3.0, 7.0]
    rows = make_rows()
    rows[0] |= {"probability_frog": 1.0, "probability_toad": 0.0}
    logits = read(rows).ensemble["audio+image"][0]
    np.testing.assert_allclose(logits, [0, np.log(1e-12)], rtol=1e-6)


def test_a_subset_may_name_its_modalities_in_any_order():
    rows = make_rows()
    rows[0]["subset"] = "image+audio"
    assert list(read(rows).ensemble) == ["audio+image", "audio", "image"]


@pytest.mark.parametrize(
    ("targets", "classes", "expected"),
    [
        ([0, 1, 1, 0], ("frog", "toad"), [0, 1, 1, 0]),  # numbers, as no class is called so
        (["toad", "frog", "frog", "toad"], ("frog", "toad"), [1, 0, 0, 1]),
        ([7, 5, 5, 7], ("5", "7"), [1, 0, 0, 1]),  # names
        ([1.0, 0.0, 0.0, 1.0], (), [1, 0, 0, 1]),
        ([True, False, False, True], ("False", "True"), [1, 0, 0, 1]),
    ],
)
def test_a_target_is_the_name_or_the_number_of_a_class(targets, classes, expected):
    rows = lists_of(make_rows())
    for number, row in enumerate(rows):
        row["target"] = targets[number % 4]
    assert read(rows, classes).target.tolist() == expected


def test_named_classes_put_the_columns_in_their_order():
    found = read(make_rows(), ["toad", "frog"])
    assert found.target.tolist() == [0, 0, 0, 0]
    assert found.ensemble["audio"].argmax(1).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("form", ["lists", "columns"])
def test_sets_of_labels(form):
    rows = make_rows()
    for row in rows:
        del row["target"]
        row |= {"target_frog": 1, "target_toad": 0, "probability_frog": 0.75}
        if form == "lists":
            row["target"] = [row.pop("target_frog"), row.pop("target_toad")]
    found = read(rows)
    assert found.task == "multilabel"
    assert found.target.tolist() == [[1, 0]] * 4
    expected = [np.log(3), np.log(3)]  # the logit of 3/4
    np.testing.assert_allclose(found.ensemble["audio"][0], expected, rtol=1e-6)


def test_what_a_sample_really_lacks_is_said_by_present():
    rows = []
    for row in make_rows():
        row["present"] = "audio" if row["key"] == "d" else "audio+image"
        if row["key"] != "d" or row["subset"] != "image":
            rows.append(row)
    found = read(rows)
    assert np.isnan(found.ensemble["image"][:, 0]).tolist() == [False, False, False, True]
    assert not np.isnan(found.ensemble["audio+image"]).any()


def change(rows, number, **values):
    rows[number].update(values)
    return rows


def without(rows, *numbers):
    return [row for number, row in enumerate(rows) if number not in numbers]


def drop(row, name):
    return {column: value for column, value in row.items() if column != name}


NAN = float("nan")
MISTAKES = {
    "missing": (lambda r: without(r, 4), "'a' has no row of audio"),
    "two missing": (lambda r: without(r, 4, 9), "'a' has no row of audio, nor are 1 more"),
    "NaN": (lambda r: change(r, 5, probability_frog=NAN), "row 6 ('b', audio) has a number that"),
    "empty": (lambda r: change(r, 5, probability_toad=None), "row 6 ('b', audio) has a number th"),
    "twice": (lambda r: [*r, dict(r[4])], "'a' has two rows of audio"),
    "sum": (lambda r: change(r, 3, probability_toad=0.26), "row 4 ('d', audio+image) has probab"),
    "negative": (lambda r: change(r, 3, probability_toad=-0.1), "a probability outside 0..1"),
    "target": (lambda r: change(r, 7, target="frog"), "the rows of 'd' differ in their target"),
    "group": (lambda r: change(r, 7, group="ab"), "the rows of 'd' differ in their group"),
    "stranger": (lambda r: change(r, 0, target="newt"), "the target 'newt' is none of the classes"),
    "name": (lambda r: change(r, 0, subset="audio image"), "can't be the name of a modality"),
    "no key": (lambda r: change(r, 2, key=None), "row 3 has no key"),
    "no subset": (lambda r: [{"key": "a"}], "no column 'subset'"),
    "no rows": (lambda r: [], "no column 'key'"),
    "no target": (lambda r: [drop(row, "target") for row in r], "no column 'target'"),
    "no numbers": (lambda r: [{"key": "a", "subset": "x", "target": 0}], "has to have one of"),
    "both": (lambda r: [{**row, "logits": [1.0, 2.0]} for row in r], "has to have one of"),
    "text": (lambda r: [{**row, "probability_frog": "x"} for row in r], "is no numbers"),
    "one class": (lambda r: [drop(row, "probability_frog") for row in r], "two classes"),
    "alone": (lambda r: make_rows({**RIGHT, "unimodal/audio": "yyyy"}), "no row of unimodal/image"),
    "pair alone": (
        lambda r: make_rows({**RIGHT, "unimodal/audio+image": "yyyy"}),
        "unknown subset",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message(name):
    spoil, message = MISTAKES[name]
    with pytest.raises(UserError) as error:
        read(spoil(make_rows()))
    assert message in str(error.value)
    assert str(error.value).startswith("t: ")


def test_a_wrong_class_count_is_refused():
    rows = lists_of(make_rows())
    with pytest.raises(UserError, match="3 classes are named, but a row has 2 numbers"):
        read(rows, ["frog", "newt", "toad"])
    rows[6]["probabilities"] = [0.2, 0.3, 0.5]
    with pytest.raises(UserError, match="row 7 has 3 probabilities, row 1 has 2"):
        read(rows)
    with pytest.raises(UserError, match="the columns are of other classes"):
        read(make_rows(), ["frog", "newt"])
    labels = [{**row, "target": [1, 0, 0]} for row in make_rows()]
    with pytest.raises(UserError, match="the target of row 1 is not 2 numbers that are 0 or 1"):
        read(labels)


def test_names_of_classes_need_an_order():
    with pytest.raises(UserError, match="'toad' is none of the classes") as error:
        read(lists_of(make_rows()))
    assert "--classes" in error.value.hint


def test_unknown_modalities_are_named():
    with pytest.raises(UserError, match="unknown modality 'image'"):
        read(make_rows(), modalities=["audio", "video"])
    with pytest.raises(UserError, match="no row of audio\\+image\\+video"):
        read(make_rows(), modalities=["audio", "image", "video"])
    rows = [{**row, "present": "audio+smell"} for row in make_rows()]
    with pytest.raises(UserError, match="column present: unknown modality 'smell'"):
        read(rows)
    with pytest.raises(UserError, match="9 modalities, more than 8"):
        read(make_rows({"+".join("abcdefghi"): "yyyy"}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"", "not .parquet, .csv or .jsonl"),
        ("t.parquet", b"PAR1 torn", "not readable as .parquet"),
        ("t.jsonl", b'{"key": NaN', "not readable as .jsonl"),
        ("t.csv", b"", "not readable as .csv"),
        ("t.csv", b"key,subset\n", "no rows"),
        ("gone.csv", None, "no such file"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        make_predictions(read_answers(path))


def test_other_answers_come_in_the_order_of_ours():
    ours = read(make_rows())
    other = align(read(make_rows(ALL_RIGHT)[::-1]), ours, "o")
    assert other.keys == list(KEYS)
    assert other.ensemble["audio"].argmax(1).tolist() == [1, 0, 1, 1]


ALL_RIGHT = {"audio+image": "yyyy", "audio": "ynyy", "image": "yyyy"}
OTHERS = {
    "keys": (lambda r: [row for row in r if row["key"] != "a"], "other keys: 1 .* such as 'a'"),
    "target": (lambda r: [*map(make_frog, r)], "another target of 'b'"),
    "classes": (lambda r: [*map(rename_frog, r)], "other classes: toad, newt, not frog, toad"),
    "modalities": (
        lambda r: [row for row in r if row["subset"] == "audio"],
        "other modalities: audio, not audio, image",
    ),
    "present": (lambda r: [*map(lose_image, r)], "other modalities are present in the samples"),
}


def make_frog(row):
    return {**row, "target": "frog" if row["key"] == "b" else "toad"}


def rename_frog(row):
    row["probability_newt"] = row.pop("probability_frog")
    return row


def lose_image(row):
    return {**row, "present": "audio" if row["key"] == "c" else "audio+image"}


@pytest.mark.parametrize("name", OTHERS)
def test_answers_to_another_question_are_not_compared(name):
    spoil, message = OTHERS[name]
    with pytest.raises(UserError, match=message):
        align(read(spoil(make_rows())), read(make_rows()), "o")


def test_a_function_sees_only_what_is_there():
    seen = []

    def predict(batch, present):
        seen.append((sorted(batch), present, [len(values) for values in batch.values()]))
        return [[0.25, 0.75]] * len(batch[present[0]])

    inputs = {"image": np.zeros((300, 2)), "audio": ["wave"] * 299 + [None]}
    table = collect_answers(predict, inputs, np.ones(300, int), groups=["g"] * 300)
    pair, audio, image = ("audio", "image"), ("audio",), ("image",)
    assert seen == [
        (["audio", "image"], pair, [256, 256]),
        (["audio", "image"], pair, [44, 44]),
        (["audio"], audio, [256]),
        (["audio"], audio, [43]),
        (["image"], image, [256]),
        (["image"], image, [44]),
    ]
    found = make_predictions(take_columns(table, "t"))
    assert np.isnan(found.ensemble["audio"][:, 0]).nonzero()[0].tolist() == [299]
    assert found.ensemble["image"].argmax(1).tolist() == [1] * 300
    assert found.groups == {"group": ["g"] * 300}


def test_what_a_function_must_not_return():
    inputs = {"a": [1, 2], "b": [1, 2]}
    with pytest.raises(UserError, match=r"predict returned \(2,\) numbers for 2 samples"):
        collect_answers(lambda batch, present: [0, 1], inputs, [0, 1])
    with pytest.raises(UserError, match="target: 3 values of 2 samples"):
        collect_answers(lambda batch, present: [], inputs, [0, 1, 0], keys=["x", "y"])


def test_empty_lists_are_refused():
    rows = [row | {"target": []} for row in make_rows()]
    with pytest.raises(UserError, match="the lists of the column 'target' are empty"):
        take_columns(pa.Table.from_pylist(rows), "t.parquet")

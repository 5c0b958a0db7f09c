"""What the doctor says of what samples have: types of columns, cut texts, enlarged pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from umemma.config import Params
from umemma.modalities.probe import Probe
from umemma.reports.doctor.inputs import SampleInputs
from umemma.types import DatasetSpec, Fold, Record


def describe(texts=(), **changes) -> list[str]:
    settings = {"dataset": "manifest", "modalities": ["image", "text"], **changes}
    inputs = SampleInputs(make_spec())
    for text in texts:
        inputs.add(Record("a", "train", 0, {"text": text}), Probe({}, {}, frozenset()))
    return list(inputs.describe(Params(**settings)))


def make_spec(**changes) -> DatasetSpec:
    return DatasetSpec("manifest", "", ("facts", "image", "text"), ("cat",), "", "", **changes)


def describe_rows(rows, **changes) -> list[str]:
    """Return the lines about {split: cells of its samples}."""
    inputs = SampleInputs(make_spec(kinds={"facts": "table"}, **changes))
    for split, cells in rows:
        probed = Probe({}, {}, frozenset())
        if cells is None:
            probed = Probe({"facts": "not the cells of a row"}, {}, frozenset())
        inputs.add(Record("a", split, 0, {"facts": cells}), probed)
    params = Params(dataset="manifest", modalities={"facts": "table", "image": "image"})
    (note,) = inputs.describe(params)
    return note.split("\n")


ROWS = [
    ("train", {"area": 10, "color": "red", "none": ""}),
    ("train", {"area": 30, "color": "red", "none": ""}),
    ("train", None),
    ("val", {"area": "large", "color": "blue", "none": 7}),
]


def test_the_types_of_columns_are_those_that_training_will_find():
    assert describe_rows(ROWS) == [
        "facts: its columns are read as",
        "area: numbers, mean 20, std 10; 1 cells of other splits are texts, which count as empty",
        "color: names, 1 of them in 2 samples or more (red)",
        "none: empty in all training samples",
    ]


def test_with_folds_each_sample_is_of_some_training():
    folds = tuple(Fold(number=number, val=(1 - number,)) for number in (0, 1))
    rows = [(f"fold-{i % 2}", cells) for i, (_, cells) in enumerate(ROWS)]
    assert describe_rows(rows, folds=folds, splits=("fold-0", "fold-1"))[1:] == [
        "area: names, 0 of them in 2 samples or more (); most of its cells are numbers, and 1 are "
        "not, such as 'large': leave these empty if it is a column of numbers",
        "color: names, 1 of them in 2 samples or more (red)",
        "none: numbers, mean 7, std 1",
    ]


def test_the_lengths_of_texts_and_the_share_that_is_cut(tmp_path):
    Path(tmp_path / "a.txt").write_text("one two three four five six")
    texts = ["a dog", "three small words", tmp_path / "a.txt", "x"]
    (note,) = describe(texts, encoders={"text": {"input": {"length": 5}}})
    # Two tokens are marks, so what has more than three words is cut.
    assert note == (
        "text: of 4 texts half have up to 2 words, the longest has 6. The encoder reads 5 tokens "
        "(encoders.text.input.length): 25.0 % of them are longer and are cut."
    )


def test_of_an_encoder_that_needs_files_only_words_are_counted():
    (note,) = describe(["a dog"], encoders={"text": "hf:nowhere/nothing"})
    assert note == "text: of 1 texts half have up to 2 words, the longest has 2."


@pytest.mark.parametrize(("side", "is_told"), [(256, True), (320, False)])
def test_pictures_that_are_stored_smaller_than_the_encoder_takes_them(side, is_told):
    notes = describe(
        preprocess={"media": {"side": side}}, encoders={"image": {"input": {"size": 300}}}
    )
    assert [f"a shorter side of {side} pixels" in note for note in notes] == [True] * is_told
    assert all("encoders.image.input.size" in note for note in notes)

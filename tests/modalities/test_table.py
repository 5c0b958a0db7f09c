"""Tables: cells, types of columns, empty cells and unseen names."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from umemma.modalities import table
from umemma.types import Packing, TableInput

PACKING = Packing()
SPEC = TableInput(
    numbers=[
        {"name": "area", "mean": 100.0, "std": 50.0},
        {"name": "rooms", "mean": 3.0, "std": 1.0},
    ],
    categories=[{"name": "zip", "values": ["02134", "85255"]}],
)


def finish(cells) -> list[float]:
    x = table.decode(table.pack(cells, PACKING).data, SPEC)
    return table.finish(x[None], SPEC)[0].tolist()


def test_cells_are_stored_as_they_are_without_what_means_nothing(tmp_path):
    cells = {
        "area": np.float32(1.5),
        "zip": " 02134 ",
        "b": " NA",
        "c": math.nan,
        "d": True,
        "e": 3,
    }
    packed = table.pack(cells, PACKING)
    assert packed.suffix == "json"
    expected = {"area": 1.5, "zip": "02134", "b": None, "c": None, "d": "true", "e": 3.0}
    assert json.loads(packed.data) == expected
    path = tmp_path / "row.json"
    path.write_text(json.dumps(expected))
    assert table.pack(path, PACKING) == packed
    assert table.pack(dict(reversed(cells.items())), PACKING) == packed


def test_only_a_row_whose_every_cell_is_empty_is_absent():
    assert table.pack({"area": None, "zip": "", "rooms": "nan"}, PACKING) is None
    assert table.pack({}, PACKING) is None
    assert table.pack({"area": None, "zip": "x"}, PACKING) is not None


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        ({"a": math.inf}, "infinite"),
        ({"a": 10**400}, "infinite"),
        ({"a": [1]}, "neither text nor number"),
        ({"a": "\ud800"}, "not UTF-8"),
        ({"a": "x" * 2**20}, "size bound"),
        ([1, 2], "not the cells of a row"),
        (b"[1]", "not a JSON object"),
        (b"{", "not a JSON object"),
    ],
)
def test_what_is_no_row_has_a_reason(media, reason):
    with pytest.raises(ValueError, match=reason):
        table.pack(media, PACKING)


def test_numbers_are_standardised_and_empty_cells_say_so():
    assert finish({"area": 150, "rooms": 2.0, "zip": "85255"}) == [1, -1, 0, 0, 3]
    assert finish({"area": "150", "rooms": "2", "zip": 85255.0}) == [1, -1, 0, 0, 3]
    assert finish({"area": None, "rooms": 1e9, "zip": "02134"}) == [0, 10, 1, 0, 2]
    assert finish({"rooms": "many"}) == [0, 0, 1, 1, 0]  # a text where training has numbers
    blank = table.finish(table.make_blank(SPEC)[None], SPEC)[0]
    assert blank.tolist() == [0, 0, 1, 1, 0]


def test_an_unseen_name_is_neither_empty_nor_a_known_one():
    codes = [finish({"area": 1, "zip": name})[4] for name in (None, "99999", "02134", "85255")]
    assert codes == [0, 1, 2, 3]


def test_a_column_that_training_did_not_have_is_refused():
    with pytest.raises(ValueError, match="did not have"):
        table.decode(table.pack({"aera": 3}, PACKING).data, SPEC)


def survey(*rows: tuple[str, dict]) -> table.Survey:
    found = table.Survey("house")
    for i, (split, cells) in enumerate(rows):
        found.add(f"k{i}", split, table.pack(cells, PACKING).data)
    return found


ROWS = [
    ("train", {"area": 100, "zip": "85255", "kind": "flat", "empty": None}),
    ("train", {"area": 200, "zip": "02134", "kind": "flat", "empty": None}),
    ("train", {"area": None, "zip": "85255", "kind": 7, "empty": None}),
    ("val", {"area": 1e9, "zip": "11111", "kind": "castle", "empty": 3}),
    ("test", {"area": "huge", "zip": "11111", "kind": "castle", "empty": 3}),
]


def test_types_names_and_statistics_are_those_of_the_training_rows():
    found = survey(*ROWS)
    assert found.find() == {
        "numbers": [
            {"name": "area", "mean": 150.0, "std": 50.0},
            {"name": "empty", "mean": 0.0, "std": 1.0},
        ],
        "categories": [
            {"name": "kind", "values": ["flat"]},  # 7 and 02134 are too rare
            {"name": "zip", "values": ["85255"]},
        ],
    }
    TableInput(**found.find())
    assert found.summarize() == [
        "area: numbers, mean 150, std 50; 1 cells of other splits are texts, which count as empty",
        "empty: empty in all training samples",
        "kind: names, 1 of them in 2 samples or more (flat)",
        "zip: names, 1 of them in 2 samples or more (85255)",
    ]


def test_a_column_of_numbers_with_a_stray_text_is_one_of_names_and_says_so():
    rows = [("train", {"area": area}) for area in (1, 2, 2, "abc")]
    (line,) = survey(*rows).summarize()
    assert "most of its cells are numbers, and 1 are not, such as 'abc'" in line
    assert survey(*rows).find()["categories"] == [{"name": "area", "values": ["2"]}]


def test_dropout_empties_cells_but_never_all_of_a_row():
    rows = torch.tensor([[1.0, 2.0, 3.0], [math.nan, 2.0, 0.0]], dtype=torch.float64)
    numbers = np.arange(2, dtype=np.uint64)
    options = table.Augment(dropout=1.0)
    dropped = table.augment(rows, SPEC, options, table.draw(options, numbers, SPEC))
    is_full = ~dropped.isnan()
    is_full[:, 2] = dropped[:, 2] != 0
    assert is_full.sum(1).tolist() == [1, 1]
    assert dropped[1, 1] == 2  # the only full cell

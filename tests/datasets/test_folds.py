"""Which fold each group of a table is in, by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from toys.tables import options, read, write

from umemma.datasets import manifest
from umemma.datasets._manifest.folds import FoldGroup, Folds, plan_folds
from umemma.errors import UserError
from umemma.types import Record

# {group: its labels}
GROUPS = {"A": "aaaaaa", "B": "bbbbb", "C": "bbbb", "D": "bbb", "E": "aa", "F": "a"}


def rows_of(groups: dict[str, str], **cells: str) -> list[dict]:
    """Return a row per letter. cells: of a further column, {group: its cell}."""
    rows = []
    for group, labels in groups.items():
        for label in labels:
            row = {"file": f"{len(rows)}.png", "label": label, "pack": group}
            if cells:
                row["place"] = cells[group]
            rows.append(row)
    return rows


def folds_of(records: dict[str, Record]) -> dict[str, str]:
    """Return {group: its fold}."""
    folds: dict[str, set[str]] = {}
    for record in records.values():
        folds.setdefault(record.group, set()).add(record.split)
    assert all(len(found) == 1 for found in folds.values())
    return {group: found.pop().removeprefix("fold-") for group, found in folds.items()}


def validating(folder: Path, **changes) -> dict[int, tuple[int, ...]]:
    """Return {fold: the folds that validate}."""
    folds = manifest.spec(folder, options(**changes)).folds
    return {fold.number: fold.val for fold in folds}


def test_groups_are_dealt_out_so_that_classes_are_alike(tmp_path):
    """Nine a and twelve b. A goes to fold 0; B to 1, as 0 has samples already; C to 2, which is
    empty. D, of b: to 0, which has none, though it has the most samples. E, of a: 1 and 2 have
    none, and 2 has fewer samples. F, of a: only 1 has none.
    """
    write(tmp_path, rows_of(GROUPS))
    found = read(tmp_path, group="pack", folds=3)
    assert folds_of(found) == {"A": "0", "D": "0", "B": "1", "F": "1", "C": "2", "E": "2"}
    labels = Counter((record.split, record.label) for record in found.values())
    assert [labels[f"fold-{k}", 0] for k in range(3)] == [6, 1, 2]
    assert [labels[f"fold-{k}", 1] for k in range(3)] == [3, 5, 4]
    assert validating(tmp_path, group="pack", folds=3) == {0: (1,), 1: (2,), 2: (0,)}
    spec = manifest.spec(tmp_path, options(group="pack", folds={"count": 3}))
    assert spec.splits == ("fold-0", "fold-1", "fold-2")


def test_the_order_of_the_rows_makes_no_difference(tmp_path):
    equal = {f"g{i}": "ab" for i in range(10)}
    rows = rows_of(equal)
    write(tmp_path, rows)
    found = folds_of(read(tmp_path, group="pack", folds=5))
    assert Counter(found.values()) == dict.fromkeys("01234", 2)
    write(tmp_path, rows[::-1])
    assert folds_of(read(tmp_path, group="pack", folds=5)) == found


def test_several_labels_of_a_row_all_count(tmp_path):
    rows = [{"file": f"{i}.png", "label": "dog|snow"} for i in range(3)]
    rows += [{"file": f"{i}.png", "label": "cat"} for i in range(3, 6)]
    write(tmp_path, rows)
    found = read(tmp_path, folds=3, multilabel=True)
    labels = Counter((record.split, record.label) for record in found.values())
    assert labels == {(f"fold-{k}", label): 1 for k in range(3) for label in [(0,), (1, 2)]}


def test_one_group_is_left_out_at_a_time(tmp_path):
    people = {"10": "ab", "9": "ab", "Eve": "a", "8": "b", "7": "b", "6": "a"}
    write(tmp_path, rows_of(people))
    found = read(tmp_path, folds={"by": "pack"})
    assert folds_of(found) == {"6": "0", "7": "1", "8": "2", "9": "3", "10": "4", "Eve": "5"}
    spec = manifest.spec(tmp_path, options(folds={"by": "pack"}))
    assert [fold.group for fold in spec.folds] == ["6", "7", "8", "9", "10", "Eve"]
    for val, count in ((None, 1), (0.4, 2), (0.9, 4)):  # of five others; one stays for training
        folds = validating(tmp_path, folds={"by": "pack", "val": val})
        for number, others in folds.items():
            assert len(set(others) - {number}) == count
    assert len(set(folds.values())) > 1


def test_a_column_numbers_the_folds(tmp_path):
    """A group is whole where some of its rows say nothing; a row without any number fails."""
    rows = rows_of({"A": "ab", "B": "ab", "C": "ab", "D": "a"}, A="1", B="3", C="2", D="")
    rows[1]["place"] = ""
    rows[2]["place"] = "03"
    write(tmp_path, rows)
    changes = {"group": "pack", "folds": {"column": "place"}}
    found = read(tmp_path, **changes)
    assert found.pop("row-000007").problem == "no fold"
    assert folds_of(found) == {"A": "1", "B": "3", "C": "2"}
    assert validating(tmp_path, **changes) == {1: (2,), 2: (3,), 3: (1,)}


def test_unusable_rows_do_not_count(tmp_path):
    rows = rows_of({"A": "a", "B": "b", "C": "a", "D": "bbbbbbb"})
    for row in rows[3:]:
        row["label"] = ""
    write(tmp_path, rows)
    found = folds_of(read(tmp_path, group="pack", folds=3))
    assert {found["A"], found["B"], found["C"]} == set("012")
    with pytest.raises(UserError, match="4 folds, but only 3 groups"):
        read(tmp_path, group="pack", folds=4)


@pytest.mark.parametrize(
    ("cells", "changes", "message"),
    [
        ("", {"folds": 7}, "7 folds, but only 6 groups"),
        ("", {"folds": 2}, "folds: input should be greater than or equal to 3"),
        ("", {"folds": 3, "split": "label"}, "folds can't be had together with a column of splits"),
        ("", {"folds": {}}, "write a number, {by: COLUMN} or {column: COLUMN}"),
        ("", {"folds": {"count": 3, "by": "pack"}}, "write a number"),
        ("", {"folds": {"count": 3, "val": 0.5}}, "folds.val: only {by: COLUMN} has it"),
        ("", {"folds": {"by": "pak"}}, "folds: unknown column 'pak'"),
        ("xxyyzx", {"folds": {"by": "place"}, "group": "label"}, "'a' is in two folds: 'x' in row"),
        (
            "221100",
            {"folds": {"column": "place"}, "group": "label"},
            "'a' is in two folds: '2' in row 1",
        ),
        ("xxyyyx", {"folds": {"by": "place"}}, "2 values in the column 'place'.*at least 3"),
        ("001133", {"folds": {"column": "place"}}, "no row in fold 2, where .* goes to 3"),
        ("223344", {"folds": {"column": "place"}}, "no row in fold 1"),
        ("00112x", {"folds": {"column": "place"}}, "'x' in row 21 of the column 'place' is not"),
        ("000111", {"folds": {"column": "place"}}, "2 folds in the column 'place'"),
    ],
)
def test_folds_that_cannot_be_made_are_one_message(tmp_path, cells, changes, message):
    write(tmp_path, rows_of(GROUPS, **dict(zip(GROUPS, cells, strict=False))))
    with pytest.raises(UserError, match=message):
        read(tmp_path, **({"group": "pack"} | changes))


def test_equally_large_groups_are_dealt_out_by_a_hash_of_their_names():
    """So a fold is not the first rows of a table that is sorted."""
    groups = {f"g{i:02d}": FoldGroup(Counter({"": 1, "a": 1})) for i in range(30)}
    plan = plan_folds(groups, Folds(count=3))
    first = [plan.fold_of[f"g{i:02d}"].number for i in range(10)]
    assert first != [i % 3 for i in range(10)]
    assert len(set(first)) == 3

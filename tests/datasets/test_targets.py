"""Targets of a table: numbers, and what is none."""

from __future__ import annotations

import pytest
from toys.tables import FORMATS, options, problems, read, write

from umemma.datasets import manifest
from umemma.datasets._manifest.number_cells import MISSING_TARGET, NOT_A_NUMBER
from umemma.errors import UserError


def rows_of(*targets: object) -> list[dict]:
    return [{"file": f"{n}.png", "label": target} for n, target in enumerate(targets)]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_target_is_a_number_in_every_format(tmp_path, suffix):
    table = write(tmp_path, rows_of(1, 2.5, -3e5), suffix)
    found = read(tmp_path, table=table, task="regression")
    assert [found[key].label for key in sorted(found)] == [(1.0,), (2.5,), (-3e5,)]
    assert all(isinstance(record.label[0], float) for record in found.values())
    spec = manifest.spec(tmp_path, options(table=table, task="regression"))
    assert (spec.task, spec.classes) == ("regression", ("label",))


def test_what_is_no_finite_number_fails_with_one_phrase(tmp_path):
    write(tmp_path, rows_of(1, "", "nan", "inf", "-Infinity", "about 5", "1_000", "1e999", " 7 "))
    none = NOT_A_NUMBER
    assert problems(tmp_path, task="regression") == [
        "", MISSING_TARGET, none, none, none, none, none, none, "",
    ]  # fmt: skip


def test_several_targets(tmp_path):
    rows = [
        {"file": "a.png", "price": 1, "area": 2},
        {"file": "b.png", "price": "", "area": 2},
        {"file": "c.png", "price": 1, "area": "x"},
    ]
    write(tmp_path, rows)
    changes = {"task": "regression", "targets": ["price", "area"]}
    assert problems(tmp_path, **changes) == ["", MISSING_TARGET, NOT_A_NUMBER]
    assert read(tmp_path, **changes)["row-000001"].label == (1.0, 2.0)
    with pytest.raises(UserError, match=r"preprocess.options.targets: .*'room'"):
        read(tmp_path, task="regression", targets=["price", "room"])


def test_options_that_do_not_fit_a_regression_are_refused():
    for changes, message in (
        ({"task": "regression", "multilabel": True}, "multilabel is true"),
        ({"targets": ["price"]}, "set task to regression"),
        ({"task": "regression", "classes": ["a"]}, "has no classes"),
        ({"task": "regression", "targets": ["a", "a"]}, "each column once"),
    ):
        with pytest.raises(UserError, match=message):
            options(**changes)


def test_a_table_without_a_number_says_so(tmp_path):
    write(tmp_path, rows_of("a", "b"))
    with pytest.raises(UserError, match=NOT_A_NUMBER):
        read(tmp_path, task="regression")


def test_numbers_are_not_taken_for_classes(tmp_path):
    write(tmp_path, rows_of(*(n + 0.5 for n in range(30))))
    with pytest.raises(UserError, match=r"30 different numbers in 30 rows(.|\n)*task=regression"):
        read(tmp_path)
    names = tuple(f"{n + 0.5}" for n in range(30))
    assert len(read(tmp_path, classes=names)) == 30
    write(tmp_path, rows_of(*(n % 30 for n in range(150))))  # whole numbers, five of each
    assert len(read(tmp_path)) == 150

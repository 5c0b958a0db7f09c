"""The meaning of absence, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umemma.errors import UserError
from umemma.missing import (
    draw_patterns,
    draw_test_absences,
    draw_training_absences,
    format_missing,
    list_conditions,
    list_missing_sets,
    list_patterns,
    make_keep_table,
    normalize_pattern_weights,
    parse_missing,
    weigh_patterns,
)
from umemma.system.seeds import hash_keys

TWO = ("image", "audio")


def test_patterns_of_two_and_three():
    assert list_patterns(TWO) == [("audio", "image"), ("audio",), ("image",)]
    assert len(list_patterns("abc")) == 7
    assert list_missing_sets(TWO) == [("audio",), ("image",)]
    assert list_missing_sets("abc") == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c")]


def test_keep_table_rows_are_the_patterns():
    assert make_keep_table(TWO).tolist() == [[True, True], [True, False], [False, True]]


def test_weights_uniform_given_and_in_any_order_of_names():
    assert normalize_pattern_weights(TWO, None) == pytest.approx([1 / 3] * 3)
    assert normalize_pattern_weights(TWO, {"image+audio": 2, "audio": 2}).tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("given", [{"audoi": 1.0}, {"audio": 0.0}, {}])
def test_weights_that_make_no_sense(given):
    with pytest.raises(UserError) as error:
        normalize_pattern_weights(TWO, given)
    assert error.value.exit_status == 2


def test_sample_weights_skip_patterns_that_leave_nothing():
    present = torch.tensor([[True, True], [True, False]])
    table = torch.from_numpy(make_keep_table(TWO))
    rows = weigh_patterns(present, table, torch.tensor([0.5, 0.25, 0.25]))
    assert rows[0].tolist() == [0.5, 0.25, 0.25]
    assert rows[1].tolist() == pytest.approx(
        [2 / 3, 1 / 3, 0]
    )  # "image" would leave the second sample nothing


def test_a_sample_whose_weighted_patterns_leave_nothing_trains_with_what_it_has():
    rows = weigh_patterns(
        torch.tensor([[True, False]]),
        torch.from_numpy(make_keep_table(TWO)),
        torch.tensor([0.0, 0.0, 1.0]),
    )
    assert rows.tolist() == [[1, 0, 0]]


def test_draw_follows_the_weights():
    weights = torch.tensor([[0.5, 0.25, 0.25]]).expand(20_000, 3)
    counts = draw_patterns(weights, torch.arange(20_000) / 20_000).bincount(minlength=3) / 20_000
    assert counts.tolist() == pytest.approx([0.5, 0.25, 0.25], abs=0.015)


def test_draw_never_takes_what_counts_nothing():
    weights = torch.tensor([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert draw_patterns(
        weights, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    ).tolist() == [1, 2]


def test_what_training_loses_belongs_to_the_key():
    keys = [f"k{i}" for i in range(2000)]
    gone = draw_training_absences(keys, 0, {"audio": 0.3})["audio"]
    assert gone.mean() == pytest.approx(0.3, abs=0.03)
    assert (
        draw_training_absences(keys[::-1], 0, {"audio": 0.3})["audio"].tolist()
        == gone[::-1].tolist()
    )
    assert (
        draw_training_absences(keys, 0, {"audio": 0.5})["audio"] >= gone
    ).all()  # a higher ratio takes more, never others
    assert (draw_training_absences(keys, 0, {"image": 0.3})["image"] != gone).any()
    assert not draw_training_absences(keys, 0, {"audio": 0.0})["audio"].any()
    assert draw_training_absences(keys, 0, {"audio": 1.0})["audio"].all()


def test_training_loses_one_of_two_or_both():
    keys = [f"k{i}" for i in range(4000)]
    gone = draw_training_absences(keys, 0, {"image|audio": 0.6})
    assert not (gone["audio"] & gone["image"]).any()
    assert [gone[m].mean() for m in ("audio", "image")] == pytest.approx([0.3, 0.3], abs=0.03)
    both = draw_training_absences(keys, 0, {"image+audio": 0.6})
    assert (both["audio"] == both["image"]).all()
    assert both["audio"].mean() == pytest.approx(0.6, abs=0.03)
    some = draw_training_absences(keys, 0, {"audio": 0.5, "image": 0.5})  # entries are independent
    assert (some["audio"] & some["image"]).mean() == pytest.approx(0.25, abs=0.03)


def test_what_is_taken_away_is_written_and_read():
    assert [format_missing(one) for one in list_conditions(["b", "a"])] == ["a", "b", "a|b"]
    assert [format_missing(one) for one in list_conditions("abc")] == [
        "a",
        "b",
        "c",
        "a+b",
        "a+c",
        "b+c",
        "a|b|c",
    ]
    assert list_conditions(["a"]) == []
    assert parse_missing(" b + a |c", "abc", "it") == (("a", "b"), ("c",))
    with pytest.raises(UserError, match="it: unknown modality 'd'"):
        parse_missing("d|a", "abc", "it")
    with pytest.raises(UserError, match="nothing is left"):
        parse_missing("a|a+b", "ab", "it")


def test_a_draw_is_by_key_and_even():
    numbers = hash_keys([f"k{i}" for i in range(5000)])
    chance, which = draw_test_absences(numbers, 0, 0, 2)
    assert (chance < 0.5).mean() == pytest.approx(0.5, abs=0.02)
    assert which.mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(chance, which)[0, 1]) < 0.05
    back, _ = draw_test_absences(numbers[::-1], 0, 0, 2)
    assert (back[::-1] == chance).all()  # not by order
    assert (draw_test_absences(numbers, 0, 1, 2)[0] != chance).all()
    assert (draw_test_absences(numbers, 1, 0, 2)[0] != chance).all()


def test_a_draw_is_the_same_on_every_machine():
    chance, _ = draw_test_absences(hash_keys([f"k{i}" for i in range(12)]), 0, 0, 1)
    assert np.flatnonzero(chance < 0.5).tolist() == [2, 3, 7]

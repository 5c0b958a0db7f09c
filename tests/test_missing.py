"""The meaning of absence, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umemma.errors import UserError
from umemma.missing import (
    draw,
    dropped,
    fill,
    keep_table,
    lost,
    missing_sets,
    pattern_weights,
    patterns,
    sample_weights,
)

TWO = ("image", "audio")


def test_patterns_of_two_and_three():
    assert patterns(TWO) == [("audio", "image"), ("audio",), ("image",)]
    assert len(patterns("abc")) == 7
    assert missing_sets(TWO) == [("audio",), ("image",)]
    assert missing_sets("abc") == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c")]


def test_keep_table_rows_are_the_patterns():
    assert keep_table(TWO).tolist() == [[True, True], [True, False], [False, True]]


def test_weights_uniform_given_and_in_any_order_of_names():
    assert pattern_weights(TWO, None) == pytest.approx([1 / 3] * 3)
    assert pattern_weights(TWO, {"image+audio": 2, "audio": 2}).tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("given", [{"audoi": 1.0}, {"audio": 0.0}, {}])
def test_weights_that_make_no_sense(given):
    with pytest.raises(UserError) as error:
        pattern_weights(TWO, given)
    assert error.value.exit_status == 2


def test_sample_weights_skip_patterns_that_leave_nothing():
    present = torch.tensor([[True, True], [True, False]])
    table = torch.from_numpy(keep_table(TWO))
    rows = sample_weights(present, table, torch.tensor([0.5, 0.25, 0.25]))
    assert rows[0].tolist() == [0.5, 0.25, 0.25]
    assert rows[1].tolist() == pytest.approx([2 / 3, 1 / 3, 0])  # "image" would leave the second sample nothing


def test_a_sample_whose_weighted_patterns_leave_nothing_trains_with_what_it_has():
    rows = sample_weights(
        torch.tensor([[True, False]]), torch.from_numpy(keep_table(TWO)), torch.tensor([0.0, 0.0, 1.0])
    )
    assert rows.tolist() == [[1, 0, 0]]


def test_draw_follows_the_weights():
    weights = torch.tensor([[0.5, 0.25, 0.25]]).expand(20_000, 3)
    counts = draw(weights, torch.arange(20_000) / 20_000).bincount(minlength=3) / 20_000
    assert counts.tolist() == pytest.approx([0.5, 0.25, 0.25], abs=0.015)


def test_draw_never_takes_what_counts_nothing():
    weights = torch.tensor([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert draw(weights, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2]


def test_what_training_loses_belongs_to_the_key():
    keys = [f"k{i}" for i in range(2000)]
    gone = lost(keys, 0, "audio", 0.3)
    assert gone.mean() == pytest.approx(0.3, abs=0.03)
    assert lost(keys[::-1], 0, "audio", 0.3).tolist() == gone[::-1].tolist()
    assert (lost(keys, 0, "audio", 0.5) >= gone).all()  # a higher ratio takes more, never others
    assert (lost(keys, 0, "image", 0.3) != gone).any()
    assert not lost(keys, 0, "audio", 0.0).any()
    assert lost(keys, 0, "audio", 1.0).all()


def test_fill_replaces_what_is_not_kept():
    features = {"audio": torch.ones(2, 3), "image": torch.ones(2, 2)}
    absent = {"audio": torch.zeros(3), "image": torch.tensor([7.0, 8.0])}
    filled = fill(features, torch.tensor([[False, True], [True, False]]), absent)
    assert filled["audio"].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert filled["image"].tolist() == [[1, 1], [7, 8]]


def test_fill_lets_no_value_through_not_even_nan():
    filled = fill({"a": torch.tensor([[float("nan")]])}, torch.tensor([[False]]), {"a": torch.zeros(1)})
    assert filled["a"].tolist() == [[0.0]]


def test_dropped_is_by_key_nested_and_of_the_right_share():
    keys = [f"k{i}" for i in range(5000)]
    half = dropped(keys, 0, 0, 0.5)
    assert half.mean() == pytest.approx(0.5, abs=0.02)
    assert (dropped(keys[::-1], 0, 0, 0.5)[::-1] == half).all()  # not by order
    assert (dropped(keys, 0, 0, 0.7) >= half).all()  # a higher ratio takes more, never others
    assert not dropped(keys, 0, 0, 0.0).any()
    assert dropped(keys, 0, 0, 1.0).all()
    assert (dropped(keys, 0, 1, 0.5) != half).any()
    assert (dropped(keys, 1, 0, 0.5) != half).any()


def test_dropped_is_the_same_on_every_machine():
    assert np.flatnonzero(dropped([f"k{i}" for i in range(12)], 0, 0, 0.5)).tolist() == [2, 3, 8, 11]

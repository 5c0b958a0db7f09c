"""The meaning of absence, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umemma.errors import UserError
from umemma.missing import (
    asked,
    draw,
    drawn,
    keep_table,
    lost,
    missing_sets,
    pattern_weights,
    patterns,
    sample_weights,
    settings,
    written,
)
from umemma.system.seeds import hashes

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
    assert rows[1].tolist() == pytest.approx(
        [2 / 3, 1 / 3, 0]
    )  # "image" would leave the second sample nothing


def test_a_sample_whose_weighted_patterns_leave_nothing_trains_with_what_it_has():
    rows = sample_weights(
        torch.tensor([[True, False]]),
        torch.from_numpy(keep_table(TWO)),
        torch.tensor([0.0, 0.0, 1.0]),
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
    gone = lost(keys, 0, {"audio": 0.3})["audio"]
    assert gone.mean() == pytest.approx(0.3, abs=0.03)
    assert lost(keys[::-1], 0, {"audio": 0.3})["audio"].tolist() == gone[::-1].tolist()
    assert (
        lost(keys, 0, {"audio": 0.5})["audio"] >= gone
    ).all()  # a higher ratio takes more, never others
    assert (lost(keys, 0, {"image": 0.3})["image"] != gone).any()
    assert not lost(keys, 0, {"audio": 0.0})["audio"].any()
    assert lost(keys, 0, {"audio": 1.0})["audio"].all()


def test_training_loses_one_of_two_or_both():
    keys = [f"k{i}" for i in range(4000)]
    gone = lost(keys, 0, {"image|audio": 0.6})
    assert not (gone["audio"] & gone["image"]).any()
    assert [gone[m].mean() for m in ("audio", "image")] == pytest.approx([0.3, 0.3], abs=0.03)
    both = lost(keys, 0, {"image+audio": 0.6})
    assert (both["audio"] == both["image"]).all()
    assert both["audio"].mean() == pytest.approx(0.6, abs=0.03)
    some = lost(keys, 0, {"audio": 0.5, "image": 0.5})  # entries are independent
    assert (some["audio"] & some["image"]).mean() == pytest.approx(0.25, abs=0.03)


def test_what_is_taken_away_is_written_and_read():
    assert [written(one) for one in settings(["b", "a"])] == ["a", "b", "a|b"]
    assert [written(one) for one in settings("abc")] == [
        "a",
        "b",
        "c",
        "a+b",
        "a+c",
        "b+c",
        "a|b|c",
    ]
    assert settings(["a"]) == []
    assert asked(" b + a |c", "abc", "it") == (("a", "b"), ("c",))
    with pytest.raises(UserError, match="it: unknown modality 'd'"):
        asked("d|a", "abc", "it")
    with pytest.raises(UserError, match="nothing is left"):
        asked("a|a+b", "ab", "it")


def test_a_draw_is_by_key_and_even():
    numbers = hashes([f"k{i}" for i in range(5000)])
    chance, which = drawn(numbers, 0, 0, 2)
    assert (chance < 0.5).mean() == pytest.approx(0.5, abs=0.02)
    assert which.mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(chance, which)[0, 1]) < 0.05
    back, _ = drawn(numbers[::-1], 0, 0, 2)
    assert (back[::-1] == chance).all()  # not by order
    assert (drawn(numbers, 0, 1, 2)[0] != chance).all()
    assert (drawn(numbers, 1, 0, 2)[0] != chance).all()


def test_a_draw_is_the_same_on_every_machine():
    chance, _ = drawn(hashes([f"k{i}" for i in range(12)]), 0, 0, 1)
    assert np.flatnonzero(chance < 0.5).tolist() == [2, 3, 7]

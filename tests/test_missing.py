"""Patterns, draws and representations of absent modalities, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umemma.errors import UserError
from umemma.missing import (
    average_present,
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


# Patterns. ----------------------------------------------------------------------------------------


def test_patterns_of_two_and_three():
    assert list_patterns(TWO) == [("audio", "image"), ("audio",), ("image",)]
    assert len(list_patterns("abc")) == 7
    assert list_missing_sets(TWO) == [("audio",), ("image",)]
    assert list_missing_sets("abc") == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c")]


def test_keep_table_rows_are_the_patterns():
    assert make_keep_table(TWO).tolist() == [[True, True], [True, False], [False, True]]


def test_weights_uniform_given_and_in_any_order_of_names():
    assert normalize_pattern_weights(TWO, None) == pytest.approx([1 / 3] * 3)
    given = {"image+audio": 2, "audio": 2}
    assert normalize_pattern_weights(TWO, given).tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("given", [{"audoi": 1.0}, {"audio": 0.0}, {}])
def test_weights_that_make_no_sense(given):
    with pytest.raises(UserError) as error:
        normalize_pattern_weights(TWO, given)
    assert error.value.exit_status == 2


# What an absent modality becomes. -----------------------------------------------------------------


def test_the_average_is_over_the_kept_modalities_with_replacements_for_the_others():
    logits = {"a": torch.tensor([[3.0]]), "b": torch.tensor([[float("nan")]])}
    replacements = {"a": torch.tensor([9.0]), "b": torch.tensor([1.0])}
    keep = torch.tensor([[True, False]])
    assert average_present(logits, replacements, keep, imputed=False).tolist() == [[4.0]]
    assert average_present(logits, replacements, keep, imputed=True).tolist() == [[2.0]]


# Training. ----------------------------------------------------------------------------------------


def test_sample_weights_skip_patterns_that_leave_nothing():
    present = torch.tensor([[True, True], [True, False]])
    table = torch.from_numpy(make_keep_table(TWO))
    rows = weigh_patterns(present, table, torch.tensor([0.5, 0.25, 0.25]))
    assert rows[0].tolist() == [0.5, 0.25, 0.25]
    # The pattern "image" would leave the second sample nothing.
    assert rows[1].tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_a_sample_whose_weighted_patterns_leave_nothing_trains_with_what_it_has():
    present = torch.tensor([[True, False]])
    table = torch.from_numpy(make_keep_table(TWO))
    rows = weigh_patterns(present, table, torch.tensor([0.0, 0.0, 1.0]))
    assert rows.tolist() == [[1, 0, 0]]


def test_draw_follows_the_weights():
    weights = torch.tensor([[0.5, 0.25, 0.25]]).expand(20_000, 3)
    drawn = draw_patterns(weights, torch.arange(20_000) / 20_000)
    shares = drawn.bincount(minlength=3) / 20_000
    assert shares.tolist() == pytest.approx([0.5, 0.25, 0.25], abs=0.015)


def test_draw_never_takes_a_pattern_of_weight_zero():
    weights = torch.tensor([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    numbers = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw_patterns(weights, numbers).tolist() == [1, 2]


def test_training_absences_belong_to_the_key_of_a_sample():
    keys = [f"k{i}" for i in range(2000)]
    absent = draw_training_absences(keys, 0, {"audio": 0.3})["audio"]
    assert absent.mean() == pytest.approx(0.3, abs=0.03)
    reversed_keys = draw_training_absences(keys[::-1], 0, {"audio": 0.3})["audio"]
    assert reversed_keys.tolist() == absent[::-1].tolist()
    # A higher missing ratio takes more samples, and all those of a lower one.
    assert (draw_training_absences(keys, 0, {"audio": 0.5})["audio"] >= absent).all()
    assert (draw_training_absences(keys, 0, {"image": 0.3})["image"] != absent).any()
    assert not draw_training_absences(keys, 0, {"audio": 0.0})["audio"].any()
    assert draw_training_absences(keys, 0, {"audio": 1.0})["audio"].all()


def test_training_loses_one_of_two_or_both():
    keys = [f"k{i}" for i in range(4000)]
    one = draw_training_absences(keys, 0, {"image|audio": 0.6})
    assert not (one["audio"] & one["image"]).any()
    assert one["audio"].mean() == pytest.approx(0.3, abs=0.03)
    assert one["image"].mean() == pytest.approx(0.3, abs=0.03)
    both = draw_training_absences(keys, 0, {"image+audio": 0.6})
    assert (both["audio"] == both["image"]).all()
    assert both["audio"].mean() == pytest.approx(0.6, abs=0.03)
    independent = draw_training_absences(keys, 0, {"audio": 0.5, "image": 0.5})
    overlap = independent["audio"] & independent["image"]
    assert overlap.mean() == pytest.approx(0.25, abs=0.03)


# Evaluation. --------------------------------------------------------------------------------------


def test_conditions_are_written_and_read():
    two = [format_missing(missing) for missing in list_conditions(["b", "a"])]
    assert two == ["a", "b", "a|b"]
    three = [format_missing(missing) for missing in list_conditions("abc")]
    assert three == ["a", "b", "c", "a+b", "a+c", "b+c", "a|b|c"]
    assert list_conditions(["a"]) == []
    assert parse_missing(" b + a |c", "abc", "it") == (("a", "b"), ("c",))
    with pytest.raises(UserError, match="it: unknown modality 'd'"):
        parse_missing("d|a", "abc", "it")
    with pytest.raises(UserError, match="nothing is left"):
        parse_missing("a|a+b", "ab", "it")


def test_a_draw_is_by_key_and_even():
    numbers = hash_keys([f"k{i}" for i in range(5000)])
    thresholds, set_index = draw_test_absences(numbers, 0, 0, 2)
    assert (thresholds < 0.5).mean() == pytest.approx(0.5, abs=0.02)
    assert set_index.mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(thresholds, set_index)[0, 1]) < 0.05
    reversed_thresholds, _ = draw_test_absences(numbers[::-1], 0, 0, 2)
    assert (reversed_thresholds[::-1] == thresholds).all()  # not by order
    assert (draw_test_absences(numbers, 0, 1, 2)[0] != thresholds).all()
    assert (draw_test_absences(numbers, 1, 0, 2)[0] != thresholds).all()


def test_a_draw_is_the_same_on_every_machine():
    numbers = hash_keys([f"k{i}" for i in range(12)])
    thresholds, _ = draw_test_absences(numbers, 0, 0, 1)
    assert np.flatnonzero(thresholds < 0.5).tolist() == [2, 3, 7]

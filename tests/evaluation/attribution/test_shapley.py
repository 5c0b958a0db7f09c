"""Shapley values of modalities, beside every order and answers by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from umemma.evaluation.attribution import shapley


def add_up_over_orders(values: np.ndarray) -> np.ndarray:
    """The definition: the mean gain of each modality over all orders of arrival."""
    count = len(values).bit_length() - 1
    orders = list(itertools.permutations(range(count)))
    total = np.zeros((count, *values.shape[1:]))
    for order in orders:
        subset = 0
        for i in order:
            total[i] += values[subset | 1 << i] - values[subset]
            subset |= 1 << i
    return total / len(orders)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_contributions_are_the_mean_gain_over_all_orders(count):
    values = np.random.default_rng(count).normal(size=(2**count, 3, 2))
    shares = shapley.contributions(values)
    np.testing.assert_allclose(shares, add_up_over_orders(values), atol=1e-12)
    np.testing.assert_allclose(shares.sum(0), values[-1] - values[0], atol=1e-12)


def test_two_modalities_that_tell_the_same_get_equal_shares():
    # Nothing, a, b, both, then the same with a third that tells nothing.
    values = np.array([0.0, 4.0, 4.0, 4.0, 0.0, 4.0, 4.0, 4.0])
    assert shapley.contributions(values).tolist() == [2.0, 2.0, 0.0]
    pairs = shapley.interactions(values)
    assert pairs[0, 1] == pairs[1, 0] == -4.0  # all that they tell is told twice
    assert pairs[2].tolist() == [0.0, 0.0, 0.0]


def test_what_only_two_together_tell_is_a_synergy_by_hand():
    values = np.array([1.0, 1.0, 1.0, 7.0])  # an exclusive or
    assert shapley.contributions(values).tolist() == [3.0, 3.0]
    assert shapley.interactions(values).tolist() == [[0.0, 6.0], [6.0, 0.0]]


def test_an_interaction_is_a_mean_over_what_else_is_there():
    # The pair (0, 1) has a synergy of 2 without the third and of 6 with it.
    values = np.array([0.0, 1.0, 1.0, 4.0, 0.0, 1.0, 1.0, 8.0])
    assert shapley.interactions(values)[0, 1] == pytest.approx(4.0)

"""Intervals by resampling groups, by hand and against one grouping alone."""

from __future__ import annotations

import numpy as np
import pytest

from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.metrics import Stats

CROSSED = {
    "image": list("aabbccddee"),
    "voice": list("vwxyzvwxyz"),
}  # 5 groups each, no two samples in both alike


FIVE = (
    (5 / 4) ** 0.5 * 2.77645 / 1.95996
)  # what few groups cost: Student's t with 4 degrees of freedom


def test_bootstrap_resamples_groups():
    values = np.array([1.0, 1, 1, 1, 0, 0, 0, 0])
    alone = Bootstrap({"sample": [str(i) for i in range(8)]}, 0, 2000).interval(values)
    grouped = Bootstrap(
        {"group": list("aaaabbbb")},
        0,
        2000,
    ).interval(values)
    assert grouped == (0.0, 1.0)  # two groups: a quarter of the draws take the same one twice
    assert 0 < alone[0] < 0.5 < alone[1] < 1
    assert Bootstrap(
        {"group": ["a", "b"]},
        0,
        50,
    ).interval(np.array([1.0, np.nan])) == (1.0, 1.0)


def test_many_groups_are_put_together_and_the_interval_stays(monkeypatch):
    names = [f"g{i // 2}" for i in range(4000)]
    values = np.repeat(np.random.default_rng(0).normal(size=2000), 2)
    exact = np.array(
        Bootstrap(
            {"group": names},
            0,
            2000,
        ).interval(values)
    )
    monkeypatch.setattr(Bootstrap, "LIMIT", 500)
    coarse = Bootstrap({"group": names}, 0, 2000)
    assert coarse.clusterings[0].weights.shape == (2000, 500)
    low, high = exact
    assert coarse.interval(values) == pytest.approx(exact, abs=0.1 * (high - low))


def test_resamples_count_every_group_as_often_as_it_is_drawn():
    bootstrap = Bootstrap({"group": list("aab")}, 0, 100)
    (totals,) = bootstrap.totals(
        Stats(
            np.arange(2),
            np.array([[1.0, 1], [2, 1], [10, 1]]),
            2,
        ),
        np.ones(3),
    )
    assert {tuple(row) for row in totals.tolist()} == {(6.0, 4.0), (13.0, 3.0), (20.0, 2.0)}
    assert (bootstrap.clusterings[0].weights.sum(1) == 2).all()


def test_variances_of_crossed_groupings_by_hand():
    """Draws of two values, 1 apart on either side of the estimate or 2: variances of 4, 1 and 2
    give 4 + 1 - 2 = 3, which is less than the largest; with 4, 3 and 1 it is 6, half again.
    """
    bootstrap = Bootstrap(CROSSED, 0, 4)
    assert [(one.weights.shape, one.sign) for one in bootstrap.clusterings] == [
        ((4, 5), 1),
        ((4, 5), 1),
        ((4, 10), -1),
    ]
    assert bootstrap.counts == [5, 5]
    sides = np.array([-1.0, -1, 1, 1])

    def bounds(*variances: float) -> tuple[float, float]:
        return bootstrap.bounds(10 + np.sqrt(np.array(variances))[:, None] * sides, 10.0)

    assert bounds(
        4,
        1,
        2,
    ) == pytest.approx((10 - 2 * FIVE, 10 + 2 * FIVE), abs=1e-3)
    assert (
        bounds(4, 3, 1)
        == bounds(3, 4, 1)
        == pytest.approx((10 - 6**0.5 * FIVE, 10 + 6**0.5 * FIVE), abs=1e-3)
    )
    assert bounds(0, 0, 0) == (10, 10)


def test_three_groupings_are_added_by_inclusion_and_exclusion():
    groups = CROSSED | {"day": list("1211212122")}
    signs = [one.sign for one in Bootstrap(groups, 0, 2).clusterings]
    assert signs == [1, 1, 1, -1, -1, -1, 1]


def test_a_grouping_within_another_adds_nothing():
    values = np.arange(10.0)
    fine = {"pair": list("0123456789"), "half": list("0011223344")}
    coarse = {"half": fine["half"]}
    assert Bootstrap(
        fine,
        0,
        100,
    ).interval(values) == Bootstrap(coarse, 0, 100).interval(values)
    assert Bootstrap(
        fine | {"again": fine["half"]},
        0,
        100,
    ).interval(values) == Bootstrap(coarse, 0, 100).interval(values)


def test_few_groups_and_unequal_ones_widen_the_interval():
    assert Bootstrap(
        {"a": list("abcde")},
        0,
        2,
    ).stretches == pytest.approx([FIVE], abs=1e-4)
    (uneven,) = Bootstrap(
        {"a": list("aaaabc")}, 0, 2
    ).stretches  # 6 * 6 / (16 + 1 + 1) = 2 groups of equal size
    assert uneven == pytest.approx(2**0.5 * 12.7062 / 1.95996, abs=1e-4)
    assert np.isnan(
        Bootstrap(
            {"a": list("aaa")},
            0,
            10,
        ).interval(np.arange(3.0))
    ).all()  # one group tells nothing
    assert Bootstrap(
        {"a": list("ab")},
        0,
        50,
    ).interval(np.arange(2.0)) == (
        0,
        1,
    )  # no mean is beyond its values
    assert np.isnan(
        Bootstrap(
            {"a": list("ab")},
            0,
            50,
        ).interval(np.full(2, np.nan))
    ).all()


def test_one_effect_of_two_groupings_is_found_whichever_has_it():
    """50 images and 50 voices, every pair; the values are those of the image, or of the voice,
    so the interval is as wide as that of the one grouping alone, and much wider than that of
    the samples.
    """
    number = np.arange(2500)
    groups = {"image": [str(n // 50) for n in number], "voice": [str(n % 50) for n in number]}
    of_image = np.repeat(np.random.default_rng(0).normal(size=50), 50)
    of_voice = of_image.reshape(50, 50).T.ravel()
    width = {}
    for name, values in (("image", of_image), ("voice", of_voice)):
        low, high = Bootstrap(groups, 0, 500).interval(values)
        width[name] = high - low
    low, high = Bootstrap(
        {"image": groups["image"]},
        0,
        500,
    ).interval(of_image)
    assert width["image"] == pytest.approx(high - low, rel=0.15)
    assert width["voice"] == pytest.approx(high - low, rel=0.15)
    low, high = Bootstrap({"sample": [str(n) for n in number]}, 0, 500).interval(of_image)
    assert width["image"] > 5 * (high - low)

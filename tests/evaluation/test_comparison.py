"""The columns of a comparison by hand, and which differences are tested."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from toys.predictions import OURS, THEIRS, predictions_in_letters

from umemma.evaluation.comparison import (
    ALONE,
    AVERAGE,
    LESSER,
    PRIOR,
    WORST,
    AbsenceColumn,
    ExperimentResult,
    MethodDifference,
    compare_methods,
    curve_points,
    list_columns,
    make_references,
    summarize_experiment,
    summarize_scores,
)

ONE_OF = AbsenceColumn((("audio",), ("image",)), 0.5)


def experiment(method: str, seed: int, right: dict[str, str]) -> ExperimentResult:
    return summarize_experiment(
        "complete", method, seed, predictions_in_letters(right), ["accuracy"], [0.0, 1.0], ONE_OF
    )


def test_columns_by_hand():
    """One of the two missing from half of the samples: of samples 0, 1 and 3, which have both,
    complete 2/3 right, with audio 1/3, with image 1/3; half of 2/3 and a quarter of each of the
    others.
    """
    found = {
        s.column: s.mean
        for s in summarize_scores([experiment("ours", 0, OURS)])
        if s.method == "ours"
    }
    assert list(found) == [
        WORST,
        "audio+image",
        "audio",
        "image",
        "audio|image missing from 50 %",
        LESSER,
    ]
    assert set(found) == set(list_columns(["image", "audio"], ONE_OF))
    expected = [1 / 2, 3 / 4, 1 / 2, 1 / 3, 1 / 2, 5 / 12]
    assert list(found.values()) == pytest.approx(expected)


def test_a_column_is_the_weighted_sum_of_its_parts():
    one = experiment("ours", 0, OURS)
    for column, weights in one.weights.items():
        assert np.nanmean(one.parts, 0) @ weights == pytest.approx(
            one.values["ours", "accuracy", column]
        ), column


def test_means_and_spread_over_seeds_and_the_models_that_all_share():
    found = {
        (s.method, s.column): s
        for s in summarize_scores(
            [
                experiment(
                    "ours",
                    0,
                    OURS,
                ),
                experiment("ours", 1, THEIRS),
            ]
        )
    }
    both = found["ours", "audio+image"]
    assert (both.mean, both.seeds) == (7 / 8, 2)
    assert both.std == pytest.approx(1 / 8 * 2**0.5)
    assert found[ALONE, "audio"].mean == 1
    assert (ALONE, "audio+image") not in found
    (whole, lost) = (p for p in curve_points([experiment("ours", 0, OURS)]) if p.missing == "audio")
    assert (whole.ratio, lost.ratio, lost.score) == (0, 1, pytest.approx(1 / 3))


def test_the_references_by_hand():
    """Audio is right, image is wrong and twice as sure, so the average is wrong where both are.
    Two of three training samples are of class 1, which all four samples here are.
    """
    one = predictions_in_letters(OURS, {"audio": "yyyy", "image": "nn-n"})
    sure = {"audio": one.unimodal["audio"], "image": 2 * one.unimodal["image"]}
    references = make_references(replace(one, unimodal=sure, prior=[1 / 3, 2 / 3]))
    scores = {}
    for name, predictions in references.items():
        result = summarize_experiment("complete", name, 0, predictions, ["accuracy"], [], None)
        scores |= result.values
        assert result.weights.keys() == {"audio+image", "audio", "image", LESSER, WORST}
    average = [scores[AVERAGE, "accuracy", c] for c in ("audio+image", "audio", "image", WORST)]
    assert average == [1 / 4, 1, 0, 1 / 4]
    assert {scores[PRIOR, "accuracy", c] for c in ("audio+image", "audio", "image", WORST)} == {1}
    np.testing.assert_allclose(references[PRIOR].ensemble["audio"][0], np.log([1 / 3, 2 / 3]))
    assert np.isnan(references[PRIOR].ensemble["image"][2]).all()
    # Of labels that aren't exclusive: the logits of their shares.
    target = np.array([[1, 0]] * 4, np.float32)
    sets = replace(one, target=target, prior=[0.75, 0.0])
    rare = np.log(1e-6) - np.log1p(-1e-6)
    np.testing.assert_allclose(sets.class_prior()[3], [np.log(3), rare])
    # Unknown shares: no row.
    assert make_references(one).keys() == {AVERAGE}


def test_the_average_is_tested_and_the_prior_is_not():
    made = [experiment("ours", 0, OURS), experiment(AVERAGE, 0, THEIRS)]
    made.append(experiment(PRIOR, 0, THEIRS))
    assert {baseline for baseline, _ in found_in(made)} == {AVERAGE}


def found_in(
    made: list,
    baseline: str | None = None,
) -> dict[tuple[str, str], MethodDifference]:
    groups = {"group": [f"k{i}" for i in range(4)]}
    return {
        (d.baseline, d.column): d
        for d in compare_methods(made, "ours", "multiclass", groups, baseline)
    }


def test_the_method_is_tested_against_every_baseline_in_every_column():
    made = [
        experiment("ours", 0, OURS),
        experiment("all", 0, THEIRS),
        experiment("parts", 0, dict(OURS, **{"audio+image": "nnnn"})),
    ]
    found = found_in(made)
    assert list(found) == [
        (name, column) for name in ("all", "parts") for column in made[0].weights
    ]
    assert found["all", "audio+image"].difference == pytest.approx(-1 / 4)
    assert found["parts", "audio+image"].difference == pytest.approx(3 / 4)
    assert found["parts", "image"][5:9] == (0, 0, 0, 0)
    smallest = min(found.values(), key=lambda d: d.p)
    assert smallest.p_holm == pytest.approx(min(1, 12 * smallest.p))
    fixed = found_in(made, "parts")
    assert list(fixed) == [("parts", column) for column in made[0].weights]
    assert fixed["parts", "audio+image"].p == found["parts", "audio+image"].p
    assert fixed["parts", "audio+image"].p_holm == pytest.approx(
        6 * fixed["parts", "audio+image"].p
    )
    assert not found_in(made[:1])


def test_seeds_are_paired_and_those_that_contradict_one_another_are_no_difference():
    better, worse = dict(OURS, **{"audio+image": "yyyy"}), dict(OURS, **{"audio+image": "nnnn"})
    made = [
        experiment("ours", 0, better),
        experiment("ours", 1, worse),
        experiment("theirs", 1, better),
        experiment("theirs", 0, worse),
    ]
    one = found_in(made)["theirs", "audio+image"]
    assert (one.difference, one.error, one.seed_share, one.p) == pytest.approx((0, 1, 1, 1))
    assert (one.low, one.high) == pytest.approx((-stats.t.isf(0.025, 1), stats.t.isf(0.025, 1)))

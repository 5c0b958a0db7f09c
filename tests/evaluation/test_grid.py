"""The fast grid against the slow way, and its numbers by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toys.predictions import four_samples, logits, random_predictions
from toys.reports import noisy_predictions

from umemma.encoders import build
from umemma.errors import UserError
from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.grid import Grid
from umemma.evaluation.metrics import score
from umemma.evaluation.predictions import Predictions
from umemma.missing import (
    draw_test_absences,
    list_conditions,
    list_patterns,
    make_keep_table,
    parse_missing,
)
from umemma.models.late_fusion import LateFusion
from umemma.system.seeds import hash_keys
from umemma.types import Batch, ImageInput, format_pattern

NAMES = ["audio", "image", "video"]


def ratios(
    predictions: Predictions,
    what: str,
    shares: list[float],
    draws: int = 0,
    seed: int = 0,
    names=("accuracy",),
):
    """The rows of the ensemble."""
    grid = Grid(predictions, seed, draws, 50, names)
    _, rows = grid.rows(
        [
            parse_missing(
                what,
                predictions.modalities,
                "it",
            )
        ],
        shares,
    )
    return [row for row in rows if row.model == "ensemble"]


def test_subsets_by_hand():
    rows = {
        (row.model, row.left): row
        for row in Grid(
            four_samples(),
            0,
            2,
            50,
            ["accuracy"],
        ).rows([], [])[0]
    }
    assert rows["ensemble", "audio+image"].value == 0.75
    assert rows["ensemble", "audio"].value == 0.25
    assert rows["ensemble", "image"].value == pytest.approx(2 / 3)
    assert (rows["ensemble", "image"].n, rows["ensemble", "image"].refused) == (3, 1)
    assert rows["unimodal", "audio"].value == 0.5
    assert rows["unimodal", "image"].value == pytest.approx(1 / 3)
    assert (
        rows["average", "audio+image"].value == 0.25
    )  # a is right, b and c are undecided (the first class), d is wrong
    assert len(rows) == 7 + 3  # the gaps and the worst case


def test_the_log_loss_of_a_subset_is_of_the_samples_that_have_it():
    predictions = four_samples()
    (row,) = [
        row
        for row in Grid(predictions, 0, 0, 50, ["accuracy", "log_loss"]).rows([], [])[0]
        if (row.model, row.left, row.metric) == ("ensemble", "image", "log_loss")
    ]
    there = ~np.isnan(predictions.ensemble["image"][:, 0])
    assert there.sum() == row.n == 3
    two_logits = predictions.ensemble["image"][there].astype(float)
    right = two_logits[np.arange(3), predictions.target[there]]
    losses = np.log(np.exp(two_logits).sum(1)) - right
    assert row.value == pytest.approx(losses.mean())
    assert row.low <= row.value <= row.high


def test_the_class_prior_is_scored_on_the_samples_of_the_complete_set():
    predictions = replace(four_samples(), prior=[0.1, 0.9])
    rows, _ = Grid(predictions, 0, 0, 50, ["accuracy", "log_loss"]).rows([], [])
    prior = {row.metric: row for row in rows if row.model == "prior"}
    assert (prior["accuracy"].left, prior["accuracy"].value) == ("audio+image", 1)
    assert prior["log_loss"].value == pytest.approx(-np.log(0.9))


def test_the_worst_case_by_hand():
    """Right under every subset that a sample has: only a.

    By the F1 of sets of labels: the smallest.
    """
    row = Grid(four_samples(), 0, 0, 200).worst()
    assert (row.missing, row.left, row.metric, row.value, row.n) == (
        "any",
        "worst",
        "accuracy",
        0.25,
        4,
    )
    assert row.low == 0 < row.value < row.high
    target = np.array([[1, 0], [1, 1]], dtype=np.float32)
    tables = {
        "a": logits([0, 1]),
        "b": logits([1, 1]),
        "a+b": logits([0, 0]),
    }  # F1: 1 2/3, 0 2/3, 1 2/3
    sets = Predictions(
        list("xy"), {"sample": list("xy")}, target, tables, {m: tables[m] for m in "ab"}
    )
    assert Grid(
        sets,
        0,
        0,
        50,
    ).worst().value == pytest.approx((0 + 2 / 3) / 2)


def test_gaps_by_hand():
    """All samples lie in groups of one; only in b the ensemble with audio differs from audio's
    own model. So a resample's gap is -k / 4, where b is drawn k times: -3/4 and 0 are the
    quantiles (k > 3 has 0.4 %, k > 2 has 5 %), the gap is -1/4.
    """
    one = four_samples()
    one.ensemble["audio"], one.unimodal["audio"] = logits([1, 0, 0, 0]), logits([1, 1, 0, 0])
    rows = {row.left: row for row in Grid(one, 0, 0, 2000).rows([], [])[0] if row.model == "gap"}
    few = (4 / 3) ** 0.5 * 3.18245 / 1.95996  # Student's t with 3 degrees of freedom
    assert rows["audio"].value == -0.25
    assert rows["audio"].low == -1.0  # -0.25 - few * 0.5 is less than a share can differ by
    assert rows["audio"].high == pytest.approx(-0.25 + few * 0.25, abs=1e-4)
    assert rows["audio+image"].value == 0.75 - 0.5  # the better of 1/2 and 1/3
    assert (rows["audio+image"].missing, rows["audio"].missing, rows["audio"].metric) == (
        "",
        "image",
        "accuracy",
    )
    one.unimodal["image"] = logits([1, 1, 1, None])
    grid = Grid(one, 0, 0, 50)
    assert next(grid.gaps(grid.metrics[0])).value == 0.75 - 1  # now the image's model is the better
    one.ensemble["audio"] = one.unimodal["audio"]
    same = next(
        row
        for row in Grid(
            one,
            0,
            0,
            50,
        ).gaps(Grid(one, 0, 0, 50).metrics[0])
        if row.left == "audio"
    )
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_intervals_of_the_grid_are_those_of_its_groups():
    one = random_predictions(200)
    groups = {
        "image": [f"i{n // 2}" for n in range(200)],
        "voice": [f"v{n % 20}" for n in range(200)],
    }
    grouped = Predictions(
        one.keys,
        groups,
        one.target,
        one.ensemble,
        one.unimodal,
    )
    row = Grid(
        grouped,
        0,
        0,
        300,
    ).rows([], [])[0][0]
    right = score(one.ensemble["audio+image"], one.target)
    assert (row.low, row.high) == pytest.approx(
        Bootstrap(
            groups,
            0,
            300,
        ).interval(right)
    )
    assert (row.low, row.high) != pytest.approx(
        Bootstrap({"sample": one.keys}, 0, 300).interval(right)
    )


def test_a_share_stays_a_share():
    """Two groups tell so little that the interval is stretched ninefold."""
    one = four_samples()
    grouped = Predictions(
        one.keys,
        {"group": list("aabb")},
        one.target,
        one.ensemble,
        one.unimodal,
    )
    rows = Grid(
        grouped,
        0,
        0,
        200,
        ["accuracy", "log_loss"],
    ).rows([], [])[0]
    whole = {row.metric: row for row in rows if (row.model, row.missing) == ("ensemble", "")}
    assert (whole["accuracy"].low, whole["accuracy"].high) == (0, 1)
    assert whole["log_loss"].low < 0 < 1 < whole["log_loss"].high  # which is no share


def test_ratios_by_hand():
    assert [row.value for row in ratios(four_samples(), "image", [0.0, 0.5, 1.0])] == [
        0.75,
        0.5,
        0.25,
    ]
    rows = ratios(four_samples(), "audio", [0.0, 0.5, 1.0])
    assert [row.value for row in rows] == pytest.approx(
        [1.0, 5 / 6, 2 / 3]
    )  # sample d would have nothing left
    assert {row.n for row in rows} == {3}


def test_one_of_two_by_hand():
    """Of samples a, b, c: complete 1 1 1, without audio 1 1 0, without image 1 0 0; each is
    taken from half of the share.
    """
    rows = ratios(four_samples(), "audio|image", [0.0, 0.5, 1.0])
    assert [row.value for row in rows] == pytest.approx(
        [1.0, (0.5 * 3 + 0.25 * 2 + 0.25 * 1) / 3, 0.5]
    )
    assert {(row.missing, row.left, row.n) for row in rows} == {("audio|image", "image|audio", 3)}


def test_a_sample_that_could_lose_everything_is_refused_at_every_ratio_and_draw():
    rows = ratios(
        four_samples(),
        "audio",
        [0.0, 0.3, 1.0],
        draws=4,
    )
    assert {(row.n, row.refused) for row in rows} == {(3, 1)}


@pytest.mark.parametrize(
    "metric",
    ["accuracy", "top_2", "f1_macro", "f1_weighted", "log_loss", "ece", "map", "auroc", "mcc"],
)
@pytest.mark.parametrize("what", ["image", "audio|image"])
def test_draws_are_what_one_gets_by_mixing_the_answers(metric, what):
    """The fast way, by sums of levels, against taking the answers of a draw and scoring them."""
    predictions = random_predictions(300)
    shares = [0.7, 0.3, 0.3]  # in any order
    names = ["accuracy", metric] if metric != "accuracy" else ["accuracy"]
    rows = [row for row in ratios(predictions, what, shares, 2, 3, names) if row.metric == metric]
    for number in range(2):
        lost, which = draw_test_absences(hash_keys(predictions.keys), 3, number, 2)
        for share, row in zip(shares, [row for row in rows if row.draw == number], strict=True):
            left = (
                np.where(
                    which == 0,
                    "image",
                    "audio",
                )
                if "|" in what
                else np.full(300, "audio")
            )
            mixed = np.stack(
                [
                    predictions.ensemble["audio+image" if lost[i] >= share else left[i]][i]
                    for i in range(300)
                ]
            )
            ensemble = {**predictions.ensemble, "audio+image": mixed}
            whole = replace(predictions, ensemble=ensemble)
            direct = next(
                r
                for r in Grid(
                    whole,
                    0,
                    0,
                    10,
                    names,
                ).rows([], [])[0]
                if r.metric == metric
            )
            assert row.value == pytest.approx(direct.value, abs=1e-9)


def test_draws_average_to_the_expectation():
    (expected, *rows) = ratios(
        random_predictions(400),
        "image",
        [0.3],
        20,
    )
    assert np.mean([row.value for row in rows]) == pytest.approx(expected.value, abs=0.02)
    assert np.isnan(rows[0].low)  # the spread is over draws


def test_a_set_that_leaves_no_sample_is_refused():
    predictions = four_samples()
    predictions.ensemble["image"][:] = np.nan
    with pytest.raises(UserError, match="no sample of the split has image"):
        ratios(predictions, "audio", [0.5])


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_fast_grid_is_the_slow_way(absent):
    """Blank the input and encode again, for every pattern of three modalities, some of them
    really absent.
    """
    torch.manual_seed(0)
    spec = ImageInput(size=8, channels=1)
    modules: dict[str, nn.Module] = {}
    for name in NAMES:
        modules[name], dim = build("cnn:small", "image", spec)
    blanks = {name: torch.full((1, 8, 8), -2.0) for name in NAMES}
    model = LateFusion(
        modules,
        dict.fromkeys(NAMES, dim),
        blanks,
        5,
        absent,
    )
    if absent == "learned":
        for vector in model.vectors.values():
            nn.init.normal_(vector)
    inputs = {name: torch.randn(12, 1, 8, 8) for name in NAMES}
    present = torch.rand(12, 3) > 0.3
    present[:, 0] |= ~present.any(1)
    whole = Batch(
        inputs,
        present,
        torch.zeros(12, dtype=torch.int64),
    )
    fast = model.eval().pattern_logits(whole, torch.from_numpy(make_keep_table(NAMES)))

    def slow(keep: torch.Tensor, sample: int) -> torch.Tensor:
        total = torch.zeros(5)
        for i, name in enumerate(NAMES):
            x = inputs[name][sample] if keep[i] else blanks[name]
            feature, head = model.encoders[name](x[None])[0], model.heads[name]
            if not keep[i] and absent != "blank":
                feature = model.vectors[name] if absent == "learned" else torch.zeros(dim)
            counts = keep[i] or absent == "blank"
            total += head(feature) if counts else head.weight @ feature
        return total / (len(NAMES) if absent == "blank" else keep.sum())

    with torch.no_grad():
        for s, pattern in enumerate(list_patterns(NAMES)):
            for sample in range(12):
                keep = present[sample] & torch.tensor([name in pattern for name in NAMES])
                if keep.any():
                    assert torch.allclose(
                        fast[sample, s],
                        slow(keep, sample),
                        atol=1e-5,
                    ), format_pattern(pattern)
                else:
                    assert fast[sample, s].isnan().all()


def test_of_many_modalities_each_one_and_all_but_each_one_go_missing():
    names = [f"view{i}" for i in range(6)]
    conditions = list_conditions(names)
    assert [len(taken) for (taken, *_) in conditions] == [1] * 6 + [5] * 6 + [1]
    assert len(conditions[-1]) == 6  # one of all
    assert len(list_conditions(names[:4])) == 14 + 1  # of a few, every set


def test_of_many_modalities_every_subset_has_a_value_and_some_have_intervals():
    """Five modalities: 31 subsets, of which tables list 1 + 5 + 5."""
    names = [f"view{i}" for i in range(5)]
    predictions = noisy_predictions(names, 4, 60)
    rows, _ = Grid(predictions, 0, 0, 20).rows(list_conditions(names), [0.0, 1.0])
    ours = [row for row in rows if row.model == "ensemble" and row.missing != "any"]
    lead = {row.left: row for row in ours if row.metric == "accuracy"}
    others = {row.left: row for row in ours if row.metric == "f1_macro"}
    assert len(lead) == len(others) == 31
    assert not any(math.isnan(row.low) for row in lead.values())
    without = {left for left, row in others.items() if math.isnan(row.low)}
    assert {len(left.split("+")) for left in without} == {2, 3}
    assert len(without) == 20
    for left, row in lead.items():
        hits = predictions.ensemble[left].argmax(1) == predictions.target
        assert row.value == pytest.approx(hits.mean())

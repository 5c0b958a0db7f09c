"""Calibration against sources whose true probabilities are known, and where a fit could run
away.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from umemma.evaluation import calibration
from umemma.evaluation.calibration import Calibration, _is_lower, fit, probabilities
from umemma.evaluation.metrics import log_loss, score_correct

N = 6000
GROUPS = {"group": [f"g{i // 3}" for i in range(N)]}


def first(count: int) -> dict[str, list[str]]:
    return {name: own[:count] for name, own in GROUPS.items()}


def source(
    task: str,
    shift: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) logits and a target drawn from the very probabilities they state, each class's
    logit off by 0, 1, -1 `shift`.
    """
    chance = np.random.default_rng(1)
    logits = chance.normal(scale=1.5, size=(N, 3))
    if task == "multiclass":
        target = (logits + chance.gumbel(size=logits.shape)).argmax(1)
    else:
        target = (chance.random(logits.shape) < expit(logits)).astype(np.float32)
    return (logits + shift * np.array([0.0, 1.0, -1.0])).astype(np.float32), target


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_scaled_logits_give_the_scale_back(task):
    logits, target = source(task)
    found = fit(4 * logits, target, GROUPS, 0)
    assert found.temperature == pytest.approx(4, rel=0.05)
    assert np.abs(found.bias).max(initial=0) < 0.15
    found = fit(logits / 4, target, GROUPS, 0)
    assert found.temperature == pytest.approx(1 / 4, rel=0.05)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_scaled_and_shifted_logits_give_both_back(task):
    logits, target = source(task, shift=1.0)
    found = fit(2 * logits, target, GROUPS, 0)
    assert found.temperature == pytest.approx(2, rel=0.05)
    assert found.bias == pytest.approx((0, -1, 1), abs=0.15)
    assert log_loss(found.apply(2 * logits), target).mean() < log_loss(logits, target).mean()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_what_is_calibrated_stays(task):
    logits, target = source(task)
    assert fit(logits, target, GROUPS, 0) == Calibration()


def test_probabilities_after_it_are_shares():
    logits, target = source("multiclass")
    sure = probabilities(
        fit(
            4 * logits,
            target,
            GROUPS,
            0,
        ).apply(4 * logits),
        "multiclass",
    ).max(1)
    assert sure.mean() == pytest.approx(score_correct(logits, target).mean(), abs=0.01)


def test_a_temperature_changes_no_answer():
    logits, target = source("multiclass")
    found = Calibration(fit(4 * logits, target, GROUPS, 0).temperature)
    assert (found.apply(logits).argmax(1) == logits.argmax(1)).all()
    assert found.undo(found.apply(logits)) == pytest.approx(logits, abs=1e-5)


def test_the_order_of_samples_does_not_matter():
    logits, target = source("multiclass", shift=1.0)
    order = np.random.default_rng(0).permutation(N)
    assert fit(
        logits[order], target[order], {"group": [GROUPS["group"][i] for i in order]}, 7
    ) == fit(logits, target, GROUPS, 7)


def test_samples_without_logits_do_not_count():
    logits, target = source("multiclass", shift=1.0)
    whole = fit(
        logits[:3000],
        target[:3000],
        first(3000),
        0,
    )
    logits[3000:] = np.nan
    assert fit(logits, target, GROUPS, 0) == whole != Calibration()


def test_too_little_to_know_from():
    logits, target = source("multiclass", shift=2.0)
    assert (
        fit(
            np.full_like(logits, np.nan),
            target,
            GROUPS,
            0,
        )
        == Calibration()
    )
    assert (
        fit(
            logits[:49],
            target[:49],
            first(49),
            0,
        )
        == Calibration()
    )
    assert (
        fit(
            logits,
            target,
            {"group": ["one"] * N},
            0,
        )
        == Calibration()
    )
    assert fit(logits, target, GROUPS, 0) != Calibration()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("many", [60, N])
def test_perfect_separation_and_a_class_that_never_occurs_end_somewhere(task, many):
    target = np.arange(many) % 2  # of three classes
    logits = np.eye(3, dtype=np.float32)[target]
    logits[:, 2] = 0.5
    if task == "multilabel":
        target = np.eye(3, dtype=np.float32)[target]
    found = fit(logits, target, first(many), 0)
    assert found != Calibration()
    assert 0.05 <= found.temperature <= 1
    assert np.abs(found.apply(logits)).max() < 10
    assert log_loss(found.apply(logits), target).mean() < log_loss(logits, target).mean()


def test_dependent_samples_are_not_counted_as_evidence():
    """Twelve groups of 500 equal samples know no more than twelve samples, which can't tell
    that a bias helps.
    """
    chance = np.random.default_rng(3)
    logits = np.repeat(
        chance.normal(size=(12, 3)).astype(np.float32),
        500,
        axis=0,
    )
    target = np.repeat(chance.integers(0, 3, 12), 500)
    alone = [str(i) for i in range(N)]
    grouped = [str(i // 500) for i in range(N)]
    assert fit(logits, target, {"sample": alone}, 0).bias
    assert not fit(logits, target, {"group": grouped}, 0).bias


def test_of_several_groupings_the_one_that_says_least_decides():
    """As before, crossed with a grouping of which each sample is a group of its own."""
    chance = np.random.default_rng(3)
    logits = np.repeat(
        chance.normal(size=(12, 3)).astype(np.float32),
        500,
        axis=0,
    )
    target = np.repeat(chance.integers(0, 3, 12), 500)
    both = {"image": [str(i) for i in range(N)], "voice": [str(i // 500) for i in range(N)]}
    assert fit(
        logits,
        target,
        both,
        0,
    ) == fit(logits, target, {"voice": both["voice"]}, 0)
    assert not fit(logits, target, both, 0).bias
    assert (
        fit(
            logits,
            target,
            {"image": both["image"], "voice": ["one"] * N},
            0,
        )
        == Calibration()
    )


def test_a_difference_is_weighed_against_that_of_groups_by_hand():
    """Group means -3 and 1: the mean is -1, its standard error sqrt(2 * 100**2 * 2**2) / 200 =
    1.41; 0.14 of samples.
    """
    than = np.zeros(200)
    losses = np.repeat([-3.0, 1.0], 100)
    pairs, alone = np.repeat([0, 1], 100), np.arange(200)
    assert not _is_lower(losses, than, [pairs], 3)
    assert not _is_lower(losses, than, [pairs], 1)
    assert _is_lower(losses, than, [pairs], 0.7)
    assert _is_lower(losses, than, [alone], 3)
    assert not _is_lower(losses, than, [alone, pairs], 3)  # whichever says least
    assert not _is_lower(than, than, [alone], 3)


def count_errors(logits: np.ndarray, target: np.ndarray) -> float:
    """Return the standard errors by which a temperature is better on held-out samples."""
    each = np.arange(len(target))
    alone = np.ones(1)
    fitted = calibration._minimize(alone, logits, target)
    held_out = calibration._held_out_losses(fitted, logits, target, each)
    gain = calibration._compute_losses(alone, logits, target) - held_out
    return float(gain.mean() / calibration.standard_error(gain, [each]))


def test_less_sure_needs_less_evidence_than_surer():
    """Of the same 150 samples, told too surely and not surely enough, both by about two errors."""
    logits, target = source("multiclass")
    logits, target = logits[:150], target[:150]
    groups = {"sample": [str(i) for i in range(150)]}
    sure, unsure = 1.9 * logits, logits / 1.9
    assert 1 < count_errors(sure, target) < 3
    assert 1 < count_errors(unsure, target) < 3
    found = fit(sure, target, groups, 0)
    assert found.temperature == pytest.approx(1.9, rel=0.2)
    assert found.bias == ()
    assert fit(unsure, target, groups, 0) == Calibration()


def test_json_there_and_back():
    one = Calibration(2.5, (0.5, -0.5))
    assert Calibration.of(one.as_json()) == one
    for wrong in ({"temperature": 0.0, "bias": []}, {"temperature": 1.0, "bias": [float("inf")]}):
        with pytest.raises(ValueError, match="no calibration"):
            Calibration.of(wrong)

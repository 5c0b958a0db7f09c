"""Folds that are scored together, and the test over them, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from toys.predictions import OURS, THEIRS, predictions_in_letters

from umemma.evaluation.comparison import summarize_experiment, summarize_folds
from umemma.evaluation.paired_test import (
    FOLD,
    inflate_for_folds,
    run_paired_test,
    sample_contributions,
)
from umemma.evaluation.tables.folds import pool_folds


def test_folds_together_have_every_sample_once():
    first = replace(predictions_in_letters(OURS, groups="aabb"), prior=[0.5, 0.5])
    second = replace(
        predictions_in_letters(THEIRS, groups="cdef"), prior=[0.25, 0.75], keys=list("wxyz")
    )
    pooled = pool_folds([first, second])
    assert pooled.keys == ["k0", "k1", "k2", "k3", *"wxyz"]
    assert pooled.groups == {"group": list("aabbcdef")}
    assert pooled.prior == [0.375, 0.625]
    complete = pooled.ensemble["audio+image"]
    assert (complete.argmax(1) == pooled.target).mean() == 7 / 8  # 3 of 4, and 4 of 4
    assert np.isnan(pooled.ensemble["image"][:, 0]).tolist() == [False, False, True, False] * 2
    assert pool_folds([first]) is first


def test_folds_that_lack_a_probe_or_a_prior_have_none_together():
    fold = predictions_in_letters(OURS)
    probed = replace(fold, probes={"audio": fold.ensemble["audio"]}, prior=[0.5, 0.5])
    pooled = pool_folds([fold, probed])
    assert (pooled.probes, list(pooled.prior)) == ({}, [])
    assert pool_folds([probed, probed]).probes["audio"].shape == (8, 2)


def test_mean_and_spread_are_over_folds():
    """A fold with two seeds counts once: 3/4 and 4/4 make 7/8, beside 4/4."""
    results = {}
    for fold, answers in enumerate([(OURS, THEIRS), (THEIRS, THEIRS)]):
        results[fold] = []
        for seed, letters in enumerate(answers):
            predictions = predictions_in_letters(letters)
            results[fold].append(
                summarize_experiment("complete", "ume", seed, predictions, None, (), None)
            )
    scores = {(s.method, s.metric, s.column): s for s in summarize_folds(results)}
    found = scores["ume", "accuracy", "audio+image"]
    assert (found.mean, found.seeds) == (15 / 16, 2)
    assert found.std == pytest.approx(math.sqrt(2) / 16)


def test_folds_are_tested_as_nadeau_and_bengio_do():
    """Four folds of three samples each, of which six train; no group is in two folds."""
    apart = np.random.default_rng(0).normal(0.5, 0.1, (4, 3)) + np.arange(-1, 3)[:, None]
    contributions = sample_contributions(apart.reshape(1, 12, 1), np.ones((1, 1)))
    groups = {FOLD: np.repeat(list("0123"), 3), "group": list("aabccdeefggh")}
    inflation = inflate_for_folds([6] * 4, [3] * 4)
    assert inflation == 3
    found = run_paired_test(*contributions, groups, inflation)
    folds = apart.mean(1)
    error = math.sqrt((1 / 4 + 3 / 6) * folds.var(ddof=1))
    assert found.difference[0] == pytest.approx(folds.mean())
    assert found.error[0] == pytest.approx(error)
    assert found.p[0] == pytest.approx(2 * stats.t.sf(abs(folds.mean()) / error, 3))


def test_nothing_overlaps_where_there_is_one_fold_or_none():
    assert inflate_for_folds([6], [3]) == inflate_for_folds([], []) == 1
    assert inflate_for_folds([6, 4], [3, 1]) == 1 + 1 / 2 + 1 / 4

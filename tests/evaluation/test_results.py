"""The outcome of an evaluation: what machines read, and what figures have room for."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from toys import reports

from umemma.evaluation.results import (
    MAX_CURVES,
    find_best_model,
    find_ceiling,
    mean_and_std,
    summarize,
    to_json,
)
from umemma.system.files import replace_nan


def test_what_has_no_number_is_null():
    data = {"a": [float("nan"), 1.0], "b": (float("inf"), "x")}
    assert replace_nan(data) == {"a": [None, 1.0], "b": [None, "x"]}
    outcome = reports.evaluate(reports.four_toads(), metrics=["accuracy", "map"])
    json.dumps(replace_nan(summarize(outcome)), allow_nan=False)


def test_the_answer_for_machines_by_hand():
    outcome = reports.evaluate(reports.four_toads(), [1.0], ["accuracy", "log_loss"])
    answer = to_json(outcome)
    json.dumps(answer, allow_nan=False)
    entries = {(entry["missing"], entry["metric"]): entry for entry in answer["results"]}
    assert {entry["draws"]["count"] for entry in entries.values()} == {2}
    entry = entries["audio", "accuracy"]
    assert entry["complete"] == 0.75
    assert entry["value"] == 0.5
    assert entry["unimodal_ceiling"] == 0.25
    right = np.log1p(np.exp(-1))
    wrong = np.log1p(np.exp(1))
    entry = entries["audio|image", "log_loss"]  # of which less is better
    assert entry["complete"] == pytest.approx((3 * right + wrong) / 4)
    audio = (right + wrong) / 2
    image = (right + 3 * wrong) / 4
    assert entry["unimodal_ceiling"] == pytest.approx((audio + image) / 2)


def test_the_settings_are_in_the_answer_under_their_names():
    outcome = reports.evaluate(reports.four_toads())
    settings = outcome.settings.to_dict()
    names = [field.name for field in dataclasses.fields(outcome.settings)]
    # These are only there with folds, and in an audit.
    assert [*settings, "folds", "source"] == names
    assert settings["train_missing"] == {"audio": 0.5}
    assert settings.items() <= to_json(outcome).items()


def test_the_title_has_the_variant():
    outcome = reports.evaluate(reports.four_toads())
    assert outcome.title == "frogs| test, ume-mma"
    settings = dataclasses.replace(outcome.settings, variant="wild")
    assert dataclasses.replace(outcome, settings=settings).title == "frogs| (wild) test, ume-mma"


def test_the_ceiling_is_the_best_of_what_is_left():
    unimodal = {"a": 0.2, "b": 0.6, "c": 0.4}
    assert find_ceiling("a+b", unimodal) == 0.6
    assert find_ceiling("a+b", unimodal, higher=False) == 0.2
    assert find_ceiling("a+b|c", unimodal) == 0.5


def test_the_best_model_is_the_one_of_the_gap():
    outcome = reports.evaluate(reports.noisy_predictions("abc", 3, 60))
    rows = outcome.lead()
    for left, gap in outcome.lead("gap").items():
        model = find_best_model(outcome, left)
        assert model.left in left.split("+")
        assert rows[left].value - model.value == pytest.approx(gap.value)


@pytest.mark.slow
def test_figures_show_each_modality_missing_and_the_lowest_values():
    outcome = reports.evaluate(reports.noisy_predictions("abcd", 40, 300))
    assert len(outcome.shown) == 1 + MAX_CURVES
    complete, *others = outcome.shown
    assert complete == "a+b+c+d"
    assert others[:4] == sorted(others[:4])
    assert all(left.count("+") == 2 for left in others[:4])
    assert min(outcome.lead().values(), key=lambda row: row.value).left == others[4]


def test_mean_and_standard_deviation():
    assert mean_and_std([]) == (0.0, 0.0)
    assert mean_and_std([3.0]) == (3.0, 0.0)
    assert mean_and_std([1.0, 3.0]) == (2.0, 2**0.5)

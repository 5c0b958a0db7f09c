"""The search of settings: its space, and the trials of a study."""

from __future__ import annotations

import math
import shutil
import sqlite3

import pytest
from toys.project import quick

from umemma.errors import UserError
from umemma.evaluation.search.space import (
    Choice,
    Range,
    check_space,
    format_sets,
    parse_space,
    retarget,
)
from umemma.evaluation.search.study import FILE, find_best, open_study

SPACE = parse_space(
    [
        "finetune.learning_rate=1e-4..1e-2 log",
        "finetune.batch_size=[16, 32]",
        "finetune.epochs=2..9",
    ]
)


def test_a_list_is_a_choice_and_two_dots_are_a_range():
    assert {
        "finetune.learning_rate": Range(1e-4, 1e-2, log=True),
        "finetune.batch_size": Choice(("16", "32")),
        "finetune.epochs": Range(2, 9),
    } == SPACE
    assert SPACE["finetune.epochs"].is_integer
    words = parse_space(["augment.image=[{}, {flip: 0.5}]"])["augment.image"]
    assert words.ends() == [{}, {"flip": 0.5}]
    assert format_sets({"a.b": {"flip": 0.5}, "c": 1e-5}) == ['a.b={"flip": 0.5}', "c=1e-05"]


def test_a_drawn_number_has_three_digits_and_stays_in_its_range():
    assert Range(1e-4, 1e-2).round(0.00123456) == 0.00123
    assert Range(0.10004, 1).round(0.10004) == 0.10004
    assert Range(1000, 20000).round(12345) == 12345


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finetune.epochs", "name a setting once"),
        ("finetune..epochs=1..2", "name a setting once"),
        ("finetune.epochs=5", "neither a list nor a range"),
        ("finetune.epochs=[5]", "two values or more"),
        ("finetune.epochs=[5, 5]", "two values or more"),
        ("finetune.epochs=[5, 6", "can't be read"),
        ("finetune.epochs=9..2", "has to rise"),
        ("finetune.epochs=0..2 log", "above 0"),
        ("finetune.epochs=a..b", "no number"),
        ("finetune.epochs=1..inf", "not finite"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_examples(text, message):
    with pytest.raises(UserError, match=message) as error:
        parse_space([text])
    assert "1e-4..1e-2 log" in error.value.hint
    assert error.value.exit_status == 2


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("evaluate.split", "can't be searched"),
        ("preprocess.shard_size", "can't be searched"),
        ("finetune", "can't be searched"),
        ("missing.train", "can't be searched"),
        ("finetune.preset", "what the validation score measures"),
        ("finetune.pattern_weights.audio", "what the validation score measures"),
        ("finetune.logit_adjustment", "what the validation score measures"),
    ],
)
def test_the_samples_and_the_score_are_the_same_for_every_trial(key, message):
    with pytest.raises(UserError, match=message):
        check_space({key: Choice(("1", "2"))}, quick())
    if key == "finetune.logit_adjustment":
        check_space({key: Choice(("1", "2"))}, quick("finetune.select=balanced_accuracy"))


def test_a_rival_from_scratch_has_its_own_rate_and_epochs():
    assert retarget(SPACE, quick()) == SPACE
    rival = retarget(SPACE, quick("finetune.preset=modality-dropout"))
    assert list(rival) == [
        "finetune.scratch.learning_rate",
        "finetune.batch_size",
        "finetune.scratch.epochs",
    ]


def test_a_stopped_search_continues_as_if_it_had_not_been_stopped(tmp_path):
    drawn = []
    with open_study(tmp_path / "whole", SPACE, 0) as study:
        for number in range(12):
            if number in (2, 11):
                shutil.copytree(tmp_path / "whole", tmp_path / str(number))
            drawn.append(study.draw())
            study.add(drawn[-1], drawn[-1]["finetune.learning_rate"])
        assert [dict(trial.settings) for trial in study.list_trials()] == drawn
    assert len({tuple(settings.values()) for settings in drawn}) > 10
    for number in (2, 11):  # among the random ones, and where the scores decide
        with open_study(tmp_path / str(number), SPACE, 0) as study:
            assert study.draw() == drawn[number]
        with open_study(tmp_path / str(number), SPACE, 1) as study:
            assert study.draw() != drawn[number]


def test_a_failed_trial_keeps_its_reason_and_is_never_the_best(tmp_path):
    with open_study(tmp_path, SPACE, 0) as study:
        study.add(study.draw(), math.nan, "the loss is not finite")
        assert find_best(study.list_trials()) is None
        study.add(study.draw(), 0.5)
        study.add(study.draw(), 0.5)
    with open_study(tmp_path, SPACE, 0) as study:
        failed, best, tie = study.list_trials()
    assert (failed.failed, failed.reason, best.reason) == (True, "the loss is not finite", "")
    assert find_best([failed, best, tie]) is best


def test_a_file_that_is_no_study_is_one_message(tmp_path):
    (tmp_path / FILE).write_text("not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(UserError, match="not a study of Optuna"), open_study(tmp_path, SPACE, 0):
        pass


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE trial_params SET param_name = param_name || 'x'",
        "UPDATE trials SET datetime_complete = NULL",
        "UPDATE trials SET datetime_start = '{}'",
        "DELETE FROM study_directions",
        "UPDATE trial_params SET distribution_json = NULL",
    ],
)
def test_a_study_that_was_damaged_is_one_message(tmp_path, change):
    with open_study(tmp_path, SPACE, 0) as study:
        study.add(study.draw(), 0.5)
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute(change)
    database.close()
    with pytest.raises(UserError, match="not a study of Optuna"), open_study(tmp_path, SPACE, 0):
        pass

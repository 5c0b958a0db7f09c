"""umemma compare: the numbers of its table by hand, its cells, its processes, and DVC really running it."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from ruamel.yaml import YAML
from scipy import stats
from toys.commands import run, stages_run
from toys.project import QUICK, ROOT, quick

from umemma import cli, config
from umemma.config import Params
from umemma.data import shard_reader
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.evaluation import experiments, metrics
from umemma.evaluation.comparison import (
    ALONE,
    AVERAGE,
    LESSER,
    WORST,
    MethodDifference,
    Score,
    adjust_holm,
    compare_methods,
    curve_points,
    list_columns,
    run_paired_test,
    sample_contributions,
    summarize_experiment,
    summarize_scores,
)
from umemma.evaluation.experiments import Experiment
from umemma.evaluation.predictions import Predictions
from umemma.models import saved_model
from umemma.reports import comparison
from umemma.reports.comparison import Standings
from umemma.stages import compare, compare_table
from umemma.system import subprocesses
from umemma.system.files import write_json
from umemma.system.subprocesses import Command, Ended

# The numbers. ----------------------------------------------------------------------------------------------------------


def predictions(
    right: dict[str, str], alone: dict[str, str] | None = None, groups: str = "abcd"
) -> Predictions:
    """Of 4 samples of two classes, all of class 1: a letter says whether each answer is right (y), wrong (n), or none (-), and
    of which group it is."""
    logits = {"y": [0.0, 1.0], "n": [1.0, 0.0], "-": [np.nan, np.nan]}
    tables = [
        {subset: np.array([logits[c] for c in row], np.float32) for subset, row in one.items()}
        for one in (right, alone or {"audio": "yyyy", "image": "nnnn"})
    ]
    keys = [f"k{i}" for i in range(4)]
    return Predictions(keys, {"group": list(groups)}, np.ones(4, np.int64), *tables, ["a", "b"])


ONE_OF = ((("audio",), ("image",)), 0.5)
OURS = {"audio+image": "yyyn", "audio": "ynyn", "image": "yn-n"}
THEIRS = {"audio+image": "yyyy", "audio": "ynnn", "image": "nn-n"}


def cell(method: str, seed: int, right: dict[str, str]):
    return summarize_experiment(
        "complete", method, seed, predictions(right), ["accuracy"], [0.0, 1.0], ONE_OF
    )


def test_columns_by_hand():
    """One of the two missing from half of the samples: of samples 0, 1 and 3, which have both, complete 2/3 right, with audio
    1/3, with image 1/3; half of 2/3 and a quarter of each of the others."""
    found = {
        s.column: s.mean for s in summarize_scores([cell("ours", 0, OURS)]) if s.method == "ours"
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
    one = cell("ours", 0, OURS)
    for column, weights in one.weights.items():
        assert np.nanmean(one.parts, 0) @ weights == pytest.approx(
            one.values["ours", "accuracy", column]
        ), column


def test_means_and_spread_over_seeds_and_the_models_that_all_share():
    found = {
        (s.method, s.column): s
        for s in summarize_scores([cell("ours", 0, OURS), cell("ours", 1, THEIRS)])
    }
    both = found["ours", "audio+image"]
    assert (both.mean, both.seeds) == (7 / 8, 2)
    assert both.std == pytest.approx(1 / 8 * 2**0.5)
    assert found[ALONE, "audio"].mean == found[AVERAGE, "audio"].mean == 1
    assert (ALONE, "audio+image") not in found
    (whole, lost) = (p for p in curve_points([cell("ours", 0, OURS)]) if p.missing == "audio")
    assert (whole.ratio, lost.ratio, lost.score) == (0, 1, pytest.approx(1 / 3))


def test_holm_by_hand():
    assert adjust_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust_holm([0.5, 0.9]) == [1.0, 1.0]


def tried(apart: list, groups: dict[str, str] | None = None):
    """Of (S, N) differences in one column; groups: {grouping: a letter per sample}."""
    found = run_paired_test(
        *sample_contributions(np.array(apart, float)[..., None], np.ones((1, 1))),
        groups_of(groups or {}),
    )
    return type(found)(*(float(one[0]) for one in found))


def groups_of(letters: dict[str, str]) -> dict[str, list[str]]:
    return {name: list(row) for name, row in letters.items()}


def test_one_seed_is_a_t_test_of_the_samples_or_of_their_groups():
    apart = np.random.default_rng(0).normal(0.3, 1, 24)
    found, right = tried([apart]), stats.ttest_1samp(apart, 0)
    assert (found.p, found.seed_share) == (pytest.approx(right.pvalue), 0)
    assert (found.low, found.high) == pytest.approx(tuple(right.confidence_interval()))
    found, right = (
        tried([apart], {"voice": "abcdef" * 4}),
        stats.ttest_1samp(apart.reshape(4, 6).mean(0), 0),
    )
    assert found.p == pytest.approx(right.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(right.confidence_interval()))


def test_seeds_that_alone_differ_are_a_t_test_of_the_seeds():
    seeds = np.array([1.0, 2.0, 6.0])
    found, right = tried(np.repeat(seeds[:, None], 5, 1)), stats.ttest_1samp(seeds, 0)
    assert (found.difference, found.seed_share) == (3, 1)
    assert found.p == pytest.approx(right.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(right.confidence_interval()))


@pytest.mark.parametrize(
    ("apart", "variance", "seed_share"),
    [
        (
            [[3, 1], [1, -1]],
            1 + 1,
            1 / 2,
        ),  # means of seeds 2 and 0, of samples 2 and 0; nothing else differs
        (
            [[5, 1], [0, 0]],
            1 + 2.25 - 1,
            2.25 / 3.25,
        ),  # what each training does on each sample adds 1 to both
        ([[3, -1], [1, 1]], 1, 0),  # seeds alike: not less than by the samples alone
    ],
)
def test_the_variance_of_seeds_and_samples_by_hand(apart, variance, seed_share):
    found = tried(apart)
    assert found.error**2 == pytest.approx(variance)
    assert found.seed_share == pytest.approx(seed_share)
    # One degree of freedom on either side: the Cauchy distribution.
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(found.difference / found.error))
    assert found.high == pytest.approx(found.difference + math.tan(0.475 * math.pi) * found.error)


def test_p_is_a_weighted_mean_of_two_t_tests_and_the_interval_is_its_own():
    apart = np.random.default_rng(1).normal(0, 1, (3, 1)) + np.random.default_rng(2).normal(
        2.4, 5, (3, 40)
    )
    found = tried(apart)
    assert 0.2 < found.seed_share < 0.8
    for t, p in (
        (found.difference / found.error, found.p),
        ((found.high - found.difference) / found.error, 0.05),
    ):
        few, many = 2 * stats.t.sf(t, 2), 2 * stats.t.sf(t, 39)
        assert p == pytest.approx(found.seed_share * few + (1 - found.seed_share) * many)


@pytest.mark.parametrize(
    ("apart", "variance"),
    [
        ([3, 1, 1, -1], 1 + 1 - 2 / 3),
        ([4, 2, 0, -2], 4),
    ],  # the second: 4 + 1 - 5 / 3 would be less than by voice alone
)
def test_groupings_that_cross_by_hand(apart, variance):
    crossed = {"voice": "aabb", "image": "xyxy"}
    found = tried([apart], crossed)
    assert found.error**2 == pytest.approx(variance)
    assert found.p == pytest.approx(
        1 - 2 / math.pi * math.atan(1 / variance**0.5)
    )  # 2 voices: one degree of freedom
    assert tried([apart], crossed | {"site": "nnnn"}) == found  # one site says nothing of others
    nested = tried([apart], {"voice": "aabb", "clip": "abcd"})
    assert nested.error == pytest.approx(tried([apart], {"voice": "aabb"}).error)


def test_unequal_groups_count_for_less_than_they_are():
    """Of 8 samples 4, 2, 1, 1 belong together: as many as 64 / 22 equal groups."""
    found = tried([[4, 0, 0, 0, 0, 0, 0, 0]], {"voice": "aaaabbcd"})
    sums = np.array([2, -1, -1 / 2, -1 / 2]) / 8
    assert found.error**2 == pytest.approx((sums**2).sum() / (1 - 22 / 64))
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / found.error, 64 / 22 - 1))


def test_a_column_of_two_means_over_different_samples():
    """Half of each mean: of samples 0 and 1, and of all four. What sample 1 adds: half of its distance to the first
    mean in two, and half of that to the second in four."""
    apart = np.array([[[1, 1], [0, 1], [np.nan, 0], [np.nan, -1]]])
    values, beyond, share = sample_contributions(apart, np.array([[0.5, 0.5]]))
    assert values.tolist() == [[0.5 * 0.5 + 0.5 * 0.25]]
    assert beyond[0, :, 0] == pytest.approx(
        [0.25 / 2 + 0.375 / 4, -0.25 / 2 + 0.375 / 4, -0.125 / 4, -0.625 / 4]
    )
    assert share[:, 0] == pytest.approx([3 / 8, 3 / 8, 1 / 8, 1 / 8])
    lost = np.array([[[1, np.nan], [0, np.nan]]])
    assert np.isnan(sample_contributions(lost, np.array([[1, 0], [0.5, 0.5]]))[0]).tolist() == [
        [False, True]
    ]


def test_nothing_is_surer_than_its_groups_are_many():
    always = tried([[1, 1, 1, 1]])
    assert (always.difference, always.error) == (1, 1 / 4)
    assert always.p == pytest.approx(2 * stats.t.sf(4, 3))
    assert tried([[0, 0, 0, 0]])[:4] == (0, 0, 0, 0)
    assert tried([[0, 0, 0, 0]]).p == tried([[0.1, -0.1, 0.1, -0.1]], {"voice": "aabb"}).p == 1
    single = tried([[1, 1, 0, 1]], {"voice": "aaaa"})
    assert (single.difference, single.p, math.isnan(single.low)) == (0.75, 1, True)


def found_in(made: list, baseline: str | None = None) -> dict[tuple[str, str], MethodDifference]:
    groups = {"group": [f"k{i}" for i in range(4)]}
    return {
        (d.baseline, d.column): d
        for d in compare_methods(made, "ours", "multiclass", groups, baseline)
    }


def test_the_method_is_tested_against_every_baseline_in_every_column():
    made = [
        cell("ours", 0, OURS),
        cell("all", 0, THEIRS),
        cell("parts", 0, dict(OURS, **{"audio+image": "nnnn"})),
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
        cell("ours", 0, better),
        cell("ours", 1, worse),
        cell("theirs", 1, better),
        cell("theirs", 0, worse),
    ]
    one = found_in(made)["theirs", "audio+image"]
    assert (one.difference, one.error, one.seed_share, one.p) == pytest.approx((0, 1, 1, 1))
    assert (one.low, one.high) == pytest.approx((-stats.t.isf(0.025, 1), stats.t.isf(0.025, 1)))


@pytest.fixture
def false_alarms(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("false_alarms")


@pytest.mark.parametrize(
    ("kind", "spread", "runs", "groups"),
    [
        ("AND_GROUPS", 0.0, 3, 25),
        ("AND_GROUPS", 3.0, 3, 400),
        ("ALL", 1.0, 5, 25),
        ("ONLY_NOISE", 3.0, 5, 400),
        ("AND_NOISE", 3.0, 10, 25),
    ],
)
def test_a_test_of_equal_methods_is_wrong_in_about_one_of_twenty(
    false_alarms, kind, spread, runs, groups
):
    """The standard error is 0.7 points. Without the seeds' variance the second is wrong in a third, with a normal
    distribution in 15 %; docs/compare.md has all of it."""
    design = false_alarms.Design(getattr(false_alarms, kind), spread, runs, groups)
    share = false_alarms.measure_alarms(design, 1000)
    assert 0.03 <= share <= 0.07


def test_a_test_of_equal_methods_by_voice_and_image(false_alarms):
    assert 0.02 <= false_alarms.measure_crossed_alarms(0.02, 0.05, 1.0, 5, 500) <= 0.07


def test_a_table_of_equal_methods_has_a_false_alarm_in_at_most_one_of_twenty(false_alarms):
    chance = np.random.default_rng(0)
    design = false_alarms.Design(false_alarms.ALL, 3.0, 3, 25)
    found = [false_alarms.apply_both_rules(chance, design) for _ in range(3)]
    new, old = np.mean(found, (0, 1))
    assert new <= 0.05
    assert old > 0.1  # as it was


def test_what_the_table_says(tmp_path):
    """Every baseline is a row. The terminal has 100 columns for it."""
    names = ["audio+image", "audio", "image", LESSER, WORST]

    def made(train, baseline, column, difference, p_holm):
        numbers = (difference / 2, difference - 0.1, difference + 0.1, 0.5, p_holm / 10, p_holm)
        return MethodDifference(
            train, "ume-mma", column, baseline, "accuracy", difference, *numbers
        )

    own = [
        made("complete", name, column, 0.0123, 0.4)
        for name in ("late-fusion", "modality-dropout")
        for column in names
    ]
    own[1] = made("complete", "late-fusion", "audio", 0.1388, 0.01)
    own[2] = made("complete", "late-fusion", "image", 0.2, 0.049)
    own[6] = made("complete", "modality-dropout", "audio", -0.0364, 0.02)
    own[9] = MethodDifference(
        "complete", "ume-mma", WORST, "modality-dropout", "accuracy", 0.1, *[math.nan] * 4, 1.0, 1.0
    )
    about = {"dataset": "digits", "variant": "", "split": "test"}
    mean = [Score("complete", "ume-mma", "accuracy", column, 0.8, 0.01, 3) for column in names]
    metric = metrics.get("accuracy", "multiclass", 10)
    outcome = Standings(
        about, [metric], "ume-mma", [0, 1, 2], {"complete": names}, mean, [], own, {}
    )
    assert comparison.format_headline(outcome) == (
        "By accuracy, ume-mma is better in 2 (late-fusion: audio, image), worse in 1 (modality-dropout: audio); in the other "
        "7 of 10 tests the difference may be chance (p after Holm's adjustment, 5 %)."
    )
    both = [*own, made("audio=0.7", "late-fusion", "audio", 0.2, 0.01)]
    several = Standings(
        about,
        [metric],
        "ume-mma",
        [0],
        dict.fromkeys(["complete", "audio=0.7"], names),
        mean,
        [],
        both,
        {},
    )
    assert "late-fusion trained with audio=0.7 missing: audio)" in comparison.format_headline(
        several
    )
    assert any("One seed" in note for note in several.notes)
    assert any("other seeds and other samples. With 3 seeds" in note for note in outcome.notes)
    assert not any(
        "Holm" in note for note in Standings(about, [], "ume-mma", [0], {}, [], [], [], {}).notes
    )
    console = Console(width=100, file=io.StringIO())
    _, tests = comparison.format_tables(outcome)
    console.print(tests)
    lines = console.file.getvalue().splitlines()
    rows = [
        [word.strip() for word in line.split("│")[1:-1]] for line in lines if line.startswith("│")
    ]
    assert ["late-fusion", "+1.2", "+13.9*", "+20.0*", "+1.2", "+1.2"] in rows
    assert [
        "",
        "-8.8 to 11.2",
        "3.9 to 23.9",
        "10.0 to 30.0",
        "-8.8 to 11.2",
        "-8.8 to 11.2",
    ] in rows
    comparison.write(tmp_path / "compare", outcome)
    text = (tmp_path / "compare/compare.md").read_text()
    assert "| modality-dropout | +1.2 (-8.8 to 11.2) | -3.6\\* (-13.6 to 6.4) |" in text
    assert "| +10.0 (unknown) |" in text
    rows = list(csv.DictReader((tmp_path / "compare/differences.csv").read_text().splitlines()))
    assert (rows[1]["baseline"], rows[1]["column"], rows[1]["p_holm"]) == (
        "late-fusion",
        "audio",
        "0.010000",
    )
    assert (
        json.loads((tmp_path / "compare/compare.json").read_text())["differences"][9]["low"] is None
    )


# The cells. ------------------------------------------------------------------------------------------------------------


def test_a_cell_has_settings_and_a_place_of_its_own(tmp_path):
    params = quick(
        "compare.train=['audio|image=0.7,audio=0.1']", "seed=9", "evaluate.metrics=[f1_macro]"
    )
    own = experiments.experiment_params(
        params, Experiment("audio|image=0.7,audio=0.1", 1, "umt"), 0.5
    )
    assert (own.seed, own.missing.train) == (1, {"audio|image": 0.7, "audio": 0.1})
    assert (own.finetune.preset, own.finetune.scratch.learning_rate) == ("umt", 0.5)
    assert own.finetune.learning_rate == params.finetune.learning_rate
    place = "digits/compare/audio|image=0.7,audio=0.1/1"
    assert own.paths.pretrain("audio") == Path(f"models/{place}/pretrain/audio")
    assert (own.paths.ensemble, own.paths.results) == (
        Path(f"models/{place}/umt"),
        Path(f"results/{place}/umt"),
    )
    write_json(tmp_path / "params.json", own.model_dump(mode="json"))
    assert config.load_params(tmp_path / "params.json") == own
    assert params.paths.ensemble == Path("models/digits/ensemble")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("compare.presets=[ume, ume-mm]", "Did you mean 'ume-mma'?"),
        ("compare.presets=[]", "compare.presets"),
        ("compare.seeds=[0, 0]", "compare.seeds"),
        ("compare.train=[complete, audio]", "cannot read 'audio'"),
        ("compare.train=['audio=0.7/../x']", "cannot read"),
        ("compare.train=['audio=1.5']", "less than or equal to 1"),
        ("compare.train=['audio=0.1.2']", "no number"),
        ("compare.train=['audio=0.1,audio=0.2']", "twice"),
        ("compare.train=['audio|image=0.5', 'image|audio=0.50']", "twice"),
        ("compare.train=['sound=0.5']", "unknown modality 'sound'"),
        ("compare.baseline=um", "Did you mean 'umt'?"),
        ("compare.baseline=ume-mma", "is the method itself"),
        ("finetune.mma=all", "would be the same for every preset"),
        ("place=../x", "place"),
    ],
)
def test_settings_that_make_no_comparison_are_refused(change, message):
    with pytest.raises(UserError, match=r".") as error:
        experiments.plan_experiments(quick(change))
    assert message in str(error.value)
    assert error.value.exit_status == 2


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--preset", "um"), 2, "Did you mean 'umt'?"),
        (("--seed", "7"), 2, "unknown seed '7'"),
        (("--train", "audio=0.5"), 2, "unknown train"),
        (("--table", "--seed", "0"), 2, "don't go together"),
        (("--table",), 1, "cells aren't done with these settings"),
    ],
)
def test_what_is_put_in_wrong_is_one_message(project, capsys, words, status, message):
    sets = [word for change in QUICK for word in ("--set", change)]
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *sets, *words])
    assert stop.value.code == status
    assert message in capsys.readouterr().err
    assert not (project / "results").exists()


class Toy:
    """Does what the commands of a cell do to the disk: a model whose score is by its learning rate, and predictions."""

    def __init__(self, params: Params, index: str) -> None:
        self.params, self.index, self.done = params, index, list[str]()

    def drive(self, cell: Experiment, fails: bool = False) -> None:
        job = compare._cell(self.params, cell, self.index, {})
        ended = None
        try:
            while True:
                command = next(job) if ended is None else job.send(ended)
                self.carry_out(command)
                ended = Ended(0 if not fails else 1, 1.0, 1.0, 0.5)
        except StopIteration:
            pass

    def carry_out(self, command: Command) -> None:
        own = config.load_params(Path(command.words[-1]))
        rate = own.finetune.learning_rate
        self.done.append(f"{command.words[3]} {rate:g}")
        if command.words[3] == "finetune-ensemble":
            folder = own.paths.ensemble
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.safetensors").write_text(f"{rate}")
            model(
                folder,
                own.ensemble_settings(self.index),
                f"{rate}",
                {"val_score": 1 - abs(rate - 0.2)},
            )
        else:
            right = THEIRS if own.finetune.preset == "umt" else OURS
            predictions(right, groups="aabb").save(own.paths.results / "predictions.parquet", "toy")


def model(folder: Path, settings: dict, weights: str, scores: dict[str, float]) -> None:
    started = {m: f"{m} alone" for m in settings.get("starts_from", {})}
    about = {
        "settings": settings,
        "weights_sha256": weights,
        "started_from": started,
        "scores": scores,
    }
    about |= {"format": saved_model.FORMAT, "calibration": {}, "hf": {}}
    about |= {"classes": ["no", "yes"], "task": "multiclass", "media": {}}
    write_json(folder / "model.json", about)


def test_validation_chooses_the_learning_rate_and_what_is_done_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params, cell = (
        quick("compare.learning_rates=[0.1, 0.2, 0.4]"),
        Experiment("complete", 0, "ume-mma"),
    )
    own, toy = experiments.experiment_params(params, cell), Toy(params, "shards")
    for m in params.modalities:
        model(own.paths.pretrain(m), own.unimodal_settings(m, "shards"), f"{m} alone", {})
    toy.drive(cell)
    trained = [f"finetune-ensemble {rate}" for rate in (0.1, 0.2, 0.4)]
    assert toy.done == [*trained, "evaluate-missing 0.2"]
    assert (own.paths.ensemble / "model.safetensors").read_text() == "0.2"
    mark = experiments.read_marker(params, cell, "shards")
    assert mark["learning_rate"] == 0.2
    assert mark["learning_rates"] == pytest.approx({"0.1": 0.9, "0.2": 1.0, "0.4": 0.8})
    # Another rate: the cell isn't done, but only that rate is trained. Other shards: everything is.
    more = quick("compare.learning_rates=[0.1, 0.2, 0.4, 0.25]")
    assert experiments.read_marker(more, cell, "shards") is None
    again = Toy(more, "shards")
    again.drive(cell)
    assert again.done == ["finetune-ensemble 0.25", "evaluate-missing 0.2"]
    assert experiments.read_marker(more, cell, "other shards") is None
    # Uni-modal models that were trained anew.
    model(own.paths.pretrain("audio"), own.unimodal_settings("audio", "shards"), "new", {})
    assert experiments.read_marker(more, cell, "shards") is None
    toy.done.clear()
    toy.drive(cell)
    assert toy.done == [*trained, "evaluate-missing 0.2"]
    # Predictions that somebody replaced.
    assert experiments.read_marker(params, cell, "shards")
    predictions(OURS).save(own.paths.results / "predictions.parquet", "another evaluation")
    assert experiments.read_marker(params, cell, "shards") is None


def test_a_process_that_fails_is_told_with_its_own_words_and_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params, cell = (
        quick("compare.presets=[umt]", "compare.seeds=[0]"),
        Experiment("complete", 0, "umt"),
    )
    log = tmp_path / "runs/digits/compare/complete/0/umt/log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("starts\nError: the loss is not finite\nLower the rate.\n")
    with pytest.raises(UserError, match=r"^the loss is not finite\nLower the rate\. \(log: runs/"):
        Toy(params, "shards").drive(cell, fails=True)
    (line,) = csv.DictReader((tmp_path / "runs/digits/compare/costs.csv").read_text().splitlines())
    assert (line["what"], line["command"], line["status"]) == ("umt", "finetune-ensemble", "1")
    assert compare.costs(params).row_count == 1
    assert compare.costs(quick("finetune.epochs=7")) is None  # other settings: another cell's costs


def test_the_table_is_of_the_cells_by_group_and_against_the_baseline_of_the_settings(project):
    """umt is right on one more sample of four, which is in one of two groups."""
    sets = ["compare.presets=[late-fusion, umt, ume-mma]", "compare.seeds=[0]"]
    params = quick(*sets, "compare.baseline=umt")
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    for one in experiments.plan_experiments(params):
        own = experiments.experiment_params(params, one)
        for m in params.modalities:
            model(
                own.paths.pretrain(m), own.unimodal_settings(m, index.fingerprint), f"{m} alone", {}
            )
        Toy(params, index.fingerprint).drive(one)
    found = compare_table.run(params).differences
    assert [(d.method, d.baseline) for d in found] == [("ume-mma", "umt")] * 5
    assert (found[0].column, found[0].difference) == ("audio+image", -1 / 4)
    assert found[0].low == tried([[0, 0, 0, -1]], {"group": "aabb"}).low
    outcome = compare_table.run(quick(*sets))
    assert [d.baseline for d in outcome.differences] == ["late-fusion"] * 5 + ["umt"] * 5
    assert outcome.about["samples"] == 4


# The processes. --------------------------------------------------------------------------------------------------------


def shell(*scripts: str, log: Path):
    for script in scripts:
        ended = yield Command(["sh", "-c", script], log)
        if ended.status:
            raise UserError(f"status {ended.status}")


def test_jobs_run_beside_one_another_and_a_failed_one_stops_only_itself(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    log = tmp_path / "logs" / "log.txt"
    jobs = {
        "one": shell("sleep 0.2", 'echo "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS"', log=log),
        "bad": shell("exit 3", "echo never", log=log),
        "two": shell("kill -9 $$", log=log),
        "idle": shell(log=log),
    }
    found = {name: error and error.what for name, error in subprocesses.run(jobs, 2, ["4", "5"])}
    assert found == {"one": None, "bad": "status 3", "two": "status -9", "idle": None}
    assert next(iter(found)) == "bad"  # it didn't wait for the first
    assert log.read_text() == f"4 {max(1, len(os.sched_getaffinity(0)) // 2)}\n"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_however_it_ends_its_children_end_in_order(tmp_path, number, status):
    """They are asked to, may save what they have, and no further command begins."""
    script = """
import sys
from pathlib import Path
from umemma.system import subprocesses as processes
from umemma.errors import UserError
def job():
    yield processes.Command(["sh", "-c", "trap 'echo saved; exit 75' TERM; echo begun; sleep 30 & wait"], Path("log"))
    yield processes.Command(["sh", "-c", "echo next"], Path("log"))
try:
    list(processes.run({"a": job()}, 1))
except UserError as error:
    sys.exit(error.exit_status)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(compare.__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    log = tmp_path / "log"
    wait_for(lambda: log.exists() and "begun" in log.read_text())
    parent.send_signal(number)
    assert parent.wait(20) == status
    wait_for(lambda: "saved" in log.read_text())
    assert log.read_text() == "begun\nsaved\n"


def wait_for(true) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


# All of it. ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))], ids=lambda p: p.stem
)
def test_every_recipe_has_what_the_pipelines_name(file):
    """compare/dvc.yaml is read along with the project's own: without these keys neither would run."""
    written = YAML(typ="safe").load(file)
    assert set(written["compare"]) == set(config.Compare.model_fields)
    assert {"split", "calibrate", "batch_size"} <= set(written["evaluate"])


def test_dvc_trains_each_cell_once(trained, tmp_path):
    """The pipeline in compare/, and then one more preset."""
    clone = tmp_path / "clone"
    run(tmp_path, "git", "init", "-q", str(clone))
    for name in (
        ".dvc/config",
        ".dvc/plots/compare.json",
        ".dvcignore",
        ".gitignore",
        "compare/dvc.yaml",
        "umemma",
    ):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(ROOT / name, clone / name)
    os.symlink(trained / "data", clone / "data")
    params = quick("compare.presets=[late-fusion]", "compare.seeds=[3]", "finetune.preset=ume")

    def write():
        settings = params.model_dump(mode="json", exclude={"place"})
        (clone / "params.yaml").write_text(json.dumps(settings))

    write()
    done = run(clone, "dvc", "repro", "compare/dvc.yaml")
    cells_run = ["compare-unimodal@complete-3-audio", "compare-unimodal@complete-3-image"]
    cells_run += ["compare-cell@complete-3-late-fusion", "compare-table"]
    assert sorted(stages_run(done)) == sorted(f"compare/dvc.yaml:{name}" for name in cells_run)
    assert "late-fusion alone" in (clone / "results/digits/compare/compare.md").read_text()
    assert stages_run(run(clone, "dvc", "repro", "compare/dvc.yaml")) == []
    params = quick("compare.presets=[late-fusion, ume]", "compare.seeds=[3]", "finetune.preset=ume")
    write()
    done = run(clone, "dvc", "repro", "compare/dvc.yaml")
    assert stages_run(done) == [
        "compare/dvc.yaml:compare-cell@complete-3-ume",
        "compare/dvc.yaml:compare-table",
    ]
    results = clone / "results/digits/compare"
    found = json.loads((results / "compare.json").read_text())
    assert {(d["method"], d["baseline"]) for d in found["differences"]} == {("ume", "late-fusion")}
    tests = list(csv.DictReader((results / "differences.csv").read_text().splitlines()))
    assert [row["column"] for row in tests] == [d["column"] for d in found["differences"]]
    rows = list(csv.DictReader((results / "compare.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == {"late-fusion", "ume", ALONE, AVERAGE}
    own = json.loads((results / "complete/3/ume/metrics.json").read_text())
    (mean,) = (
        float(r["mean"])
        for r in rows
        if (r["method"], r["metric"], r["column"]) == ("ume", "accuracy", "audio")
    )
    assert mean == pytest.approx(own["accuracy"]["audio"], abs=1e-6)
    run(clone, "dvc", "plots", "show", "compare/dvc.yaml")

"""Folds through every stage: each fold has models and results of its own, and one table of all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from toys.experiments import ToyCommands, write_unimodal_models
from toys.folds import make_project
from toys.models import call
from toys.predictions import OURS, THEIRS

from umemma import config
from umemma.data import shard_reader
from umemma.errors import UserError
from umemma.evaluation import experiments
from umemma.evaluation.paired_test import inflate_for_folds
from umemma.evaluation.predictions import Predictions, read_made_by
from umemma.reports.doctor.folds import make_fold_table
from umemma.stages import (
    download,
    evaluate,
    finetune,
    preprocess,
    pretrain,
)
from umemma.stages.compare import cells, table
from umemma.stages.compare.cells import Inputs
from umemma.system.storage import Store


@pytest.fixture
def folded(tmp_path, monkeypatch) -> config.Params:
    """A project in the current directory: 36 samples of 9 persons in three folds, packed."""
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    params = config.load_params()
    preprocess.run(params, workers=1)
    return params


def complete(params: config.Params, right: dict) -> experiments.Experiment:
    """Complete all experiments of all folds without training. Return the last one."""
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    shards = {n: index.select_fold(n).fingerprint for n in range(3)}
    toy = ToyCommands(params, index.fingerprint, shards)
    toy.right = right
    for experiment in experiments.plan_experiments(params, [0, 1, 2]):
        write_unimodal_models(params, experiment, shards[experiment.fold])
        toy.drive(experiment)
    return experiment


@pytest.mark.slow
def test_every_fold_is_trained_by_itself_and_all_are_scored_together(folded, capsys):
    right, total = 0, 0
    for fold in range(3):
        params = config.load_params(sets=[f"fold={fold}"])
        for modality in params.modalities:
            pretrain.run(params, modality)
        finetune.run(params)
        outcome = evaluate.run(params)
        assert params.paths.ensemble == Path(f"models/manifest/{fold}/ensemble")
        about = json.loads((params.paths.ensemble / "model.json").read_text())
        assert about["settings"]["fold"] == fold
        assert outcome.settings.folds == (fold,)
        path = params.paths.results / "predictions.parquet"
        of_fold = Predictions.load(path, read_made_by(path))
        right += (of_fold.ensemble["image+text"].argmax(1) == of_fold.target).sum()
        total += len(of_fold.keys)
        assert outcome.complete.n == len(of_fold.keys) == 12
    assert total == 36
    outcome = evaluate.run_all_folds(config.load_params())
    assert (outcome.complete.value, outcome.complete.n) == (pytest.approx(right / 36), 36)
    assert outcome.title == "manifest test (3 folds together), ume-mma"
    numbers = json.loads(Path("results/manifest/metrics.json").read_text())
    mean = sum(numbers["by_fold"]["image+text"].values()) / 3
    assert mean == pytest.approx(right / 36)  # folds of one size
    assert "Folds" in Path("results/manifest/report.md").read_text()
    assert call("evaluate-missing", "--all-folds", "--missing", "text") == 2
    assert call("evaluate-missing", "--all-folds", "--set", "fold=1") == 0
    assert "accuracy over folds" in capsys.readouterr().out
    # The models of one fold are not those of another.
    Path("models/manifest/1/ensemble").rename("models/manifest/1/mine")
    Path("models/manifest/0/ensemble").rename("models/manifest/1/ensemble")
    with pytest.raises(UserError, match="fold: 0 there, 1 here"):
        evaluate.run(config.load_params(sets=["fold=1"]))


def test_a_fold_that_is_not_evaluated_is_one_message(folded):
    with pytest.raises(UserError, match=r"(?s)fold 0: .*Run each stage with --set fold=0"):
        evaluate.run_all_folds(folded)


def test_a_comparison_scores_all_folds_together(folded):
    """ume is right on 3 of 4 in fold 0, on all in 1 and 2: 11 of 12, and 3/4, 1, 1 by fold."""
    ours = {"image+text": OURS["audio+image"], "image": OURS["audio"], "text": OURS["image"]}
    theirs = {"image+text": "yyyy", "image": THEIRS["audio"], "text": THEIRS["image"]}
    right = {("ume-mma", fold): ours for fold in range(3)}
    right |= {("ume", 0): ours, ("ume", 1): theirs, ("ume", 2): theirs}
    complete(folded, right)
    report = table.run(folded)
    assert report.folds == [0, 1, 2]
    assert report.setup.samples == 12
    scores = {(s.method, s.column): s for s in report.scores if s.metric == "accuracy"}
    assert scores["ume", "image+text"].mean == pytest.approx(11 / 12)
    assert scores["ume-mma", "image+text"].mean == pytest.approx(9 / 12)
    spread = {(s.method, s.column): s for s in report.fold_scores if s.metric == "accuracy"}
    assert spread["ume", "image+text"].mean == pytest.approx(11 / 12)
    assert spread["ume", "image+text"].std == pytest.approx((1 / 48) ** 0.5)
    assert spread["ume", "image+text"].seeds == 3
    assert report.inflation == inflate_for_folds([12] * 3, [12] * 3) == 4
    tested = {d.column: d for d in report.differences if d.baseline == "ume"}
    assert tested["image+text"].difference == pytest.approx(-2 / 12)
    page = Path("results/manifest/compare/compare.md").read_text()
    assert "mean and standard deviation over 3 folds" in page
    assert "counts 4.00 times" in page
    about = json.loads(Path("results/manifest/compare/compare.json").read_text())
    assert about["folds"]["numbers"] == [0, 1, 2]


def test_experiments_of_a_fold_are_complete_by_themselves(folded):
    last = complete(folded, {})
    index = shard_reader.read_index(Store(folded.paths.shards), folded.shard_settings())
    view = index.select_fold(last.fold)
    assert str(last) == "ume-mma, seed 0, complete, fold 2"
    assert experiments.read_marker(folded, last, view.fingerprint)
    assert experiments.read_marker(folded, last, index.fingerprint) is None
    other = last._replace(fold=1)
    assert experiments.read_marker(folded, other, view.fingerprint) is None
    folder = Path("models/manifest/compare/complete/0/2/ume-mma")
    assert experiments.experiment_params(folded, last).paths.ensemble == folder
    assert cells._run_folder(folded, last, "ume-mma") == Path(
        "runs/manifest/compare/complete/0/2/ume-mma"
    )
    lines = Path("runs/manifest/compare/costs.csv").read_text().splitlines()
    costs = list(csv.DictReader(lines))
    assert len(costs) == 12  # two presets, three folds, training and evaluation
    assert Inputs(folded, "all", {}, {0: "a"}).shards_of(0) == "a"


@pytest.mark.parametrize(
    ("sets", "words", "message"),
    [
        (["compare.folds=[0, 3]"], (), "there is no fold 3; the data has 0 to 2"),
        (['compare.folds=[""]'], (), "there is no fold ''"),
        (["compare.folds=[1, 1]"], (), "has to name each once"),
        ([], ("--fold", "7"), "unknown fold '7'"),
        (["compare.folds=some"], (), "compare.folds"),
    ],
)
def test_folds_that_there_are_not_are_one_message(folded, capsys, sets, words, message):
    words = [*words, *(word for change in sets for word in ("--set", change))]
    assert call("compare", *words) == 2
    assert message in capsys.readouterr().err


def test_preprocess_and_doctor_show_the_folds(folded, capsys):
    """Persons have two samples of each class, and one of class c is alone."""
    table = Path("data/raw/manifest/table.csv")
    table.write_text(table.read_text().replace("word 3,b,p0", "word 3,c,p0"))
    download.run("manifest", folded.preprocess.options, "", folded.modalities)
    changes = ("--set", "preprocess.options.folds={by: person}")
    assert call("preprocess", *changes) == 0
    printed = capsys.readouterr().out
    assert "36 samples in 9 folds" in printed
    rows = [line.replace(" ", "").split("│")[1:-1] for line in printed.splitlines()]
    assert ["fold-0", "p0", "4", "2", "1", "1"] in rows
    assert ["fold-8", "p8", "4", "2", "2", "0"] in rows
    assert call("doctor", *changes) == 0
    printed = capsys.readouterr().out
    rows = [line.replace(" ", "").split("│")[1:-1] for line in printed.splitlines()]
    assert ["fold-0", "p0", "4", "2", "1", "1"] in rows
    assert "fold-0: classes that are tested and not trained: 1 (c)." in printed


def test_many_classes_have_one_column():
    classes = {f"c{i}": {"fold-0": i + 1} for i in range(20)}
    table = make_fold_table({"fold-0": ""}, {"fold-0": 210}, classes)
    assert [str(column.header) for column in table.columns] == ["fold", "samples", "rarest class"]
    assert [str(cell) for cell in table.columns[2].cells] == ["c0 1"]


def test_what_the_samples_say_is_found_in_the_training_samples_of_each_fold(tmp_path, monkeypatch):
    """The vector of a sample of fold k is [k]: a mean of 1.0 is that of folds 0 and 2."""
    monkeypatch.chdir(tmp_path)
    Path("data/raw/manifest").mkdir(parents=True)
    rows = ["v,label,fold"]
    rows += [f"[{fold}],{'ab'[i % 2]},{fold}" for fold in range(4) for i in range(6)]
    Path("data/raw/manifest/table.csv").write_text("\n".join(rows))
    Path("params.yaml").write_text(
        "dataset: manifest\nmodalities: {numbers: vector}\nencoders: {numbers: mlp:linear}\n"
        "preprocess: {options: {columns: {numbers: v}, folds: {column: fold}}}\n"
    )
    params = config.load_params()
    download.run("manifest", params.preprocess.options, "", params.modalities)
    index = preprocess.run(params, workers=1)
    means = {}
    for fold in range(4):
        view = index.select_fold(fold)
        means[fold] = view.inputs["numbers"]["mean"]
        trained = {0, 1, 2, 3} - {fold, (fold + 1) % 4}  # the next fold validates
        assert means[fold] == [sum(trained) / 2]
        assert view.fold_inputs == {}

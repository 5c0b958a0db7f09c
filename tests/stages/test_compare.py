"""umemma compare: its experiments, its messages, and DVC really running it."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from toys.commands import run, stages_run
from toys.experiments import ToyCommands, params_of, write_model, write_unimodal_models
from toys.predictions import OURS, predictions_in_letters
from toys.project import QUICK, ROOT, quick

from umemma import cli, config
from umemma.errors import UserError
from umemma.evaluation import experiments
from umemma.evaluation.comparison import ALONE, AVERAGE, PRIOR
from umemma.evaluation.experiments import Experiment
from umemma.reports.comparison.costs import format_costs
from umemma.stages.compare import cells
from umemma.stages.compare.cells import Inputs
from umemma.system import subprocesses


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--preset", "um"), 2, "Did you mean 'umt'?"),
        (("--seed", "7"), 2, "unknown seed '7'"),
        (("--train", "audio=0.5"), 2, "unknown train"),
        (("--table", "--seed", "0"), 2, "cannot be combined"),
        (("--table",), 1, "experiments aren't complete with these settings"),
    ],
)
def test_what_is_put_in_wrong_is_one_message(project, capsys, words, status, message):
    sets = [word for change in QUICK for word in ("--set", change)]
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *sets, *words])
    assert stop.value.code == status
    assert message in capsys.readouterr().err
    assert not (project / "results").exists()


def test_validation_chooses_the_learning_rate_and_what_is_complete_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = quick("compare.learning_rates=[0.1, 0.2, 0.4]")
    experiment = Experiment("complete", 0, "ume-mma")
    paths = params_of(params, experiment).paths
    toy = ToyCommands(params, "shards")
    write_unimodal_models(params, experiment, "shards")
    toy.drive(experiment)
    trained = [f"finetune-ensemble {rate}" for rate in (0.1, 0.2, 0.4)]
    assert toy.done == [*trained, "evaluate-missing 0.2"]
    assert (paths.ensemble / "model.safetensors").read_text() == "0.2"
    marker = experiments.read_marker(params, experiment, "shards")
    assert marker.learning_rate == 0.2
    assert marker.learning_rates == pytest.approx({"0.1": 0.9, "0.2": 1.0, "0.4": 0.8})
    # Another rate: the experiment isn't complete, but only that rate is trained.
    more = quick("compare.learning_rates=[0.1, 0.2, 0.4, 0.25]")
    assert experiments.read_marker(more, experiment, "shards") is None
    toy_of_more = ToyCommands(more, "shards")
    toy_of_more.drive(experiment)
    assert toy_of_more.done == ["finetune-ensemble 0.25", "evaluate-missing 0.2"]
    # Other shards: everything is.
    assert experiments.read_marker(more, experiment, "other shards") is None
    # A uni-modal model that was trained again.
    settings = params_of(params, experiment).unimodal_settings("audio", "shards")
    write_model(paths.pretrain("audio"), settings, "new", {})
    assert experiments.read_marker(more, experiment, "shards") is None
    toy.done.clear()
    toy.drive(experiment)
    assert toy.done == [*trained, "evaluate-missing 0.2"]
    # Predictions that somebody replaced.
    assert experiments.read_marker(params, experiment, "shards")
    replacement = predictions_in_letters(OURS)
    replacement.save(paths.results / "predictions.parquet", "another evaluation")
    assert experiments.read_marker(params, experiment, "shards") is None


def test_a_unimodal_model_has_the_learning_rate_that_validation_chose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = quick("compare.learning_rates=[0.1, 0.2, 0.4]", "compare.presets=[ume]")
    experiment = Experiment("complete", 0, "ume")
    toy = ToyCommands(params, "shards")
    toy.pretrain(experiment, "audio")
    assert toy.done == [f"pretrain-unimodal {rate}" for rate in (0.1, 0.2, 0.4)]
    folder = params_of(params, experiment).paths.pretrain("audio")
    assert (folder / "model.safetensors").read_text() == "0.2"
    scores = json.loads((folder / "rates.json").read_text())
    assert scores == pytest.approx({"0.1": 0.9, "0.2": 1.0, "0.4": 0.8})
    # Ensembles start from that model; the other modality has no rate of its own yet.
    chosen = params_of(params, experiment).pretrain
    assert chosen.of("audio").learning_rate == 0.2
    assert chosen.of("image").learning_rate == params.pretrain.learning_rate
    inputs = Inputs(params, "shards", {})
    assert cells._is_pretrained(inputs, experiment, "audio")
    assert not cells._is_pretrained(inputs, experiment, "image")
    # Another rate: only that rate is trained. Without any, the model is of other settings.
    more = quick("compare.learning_rates=[0.4, 0.2, 0.1, 0.25]", "compare.presets=[ume]")
    assert not cells._is_pretrained(Inputs(more, "shards", {}), experiment, "audio")
    toy_of_more = ToyCommands(more, "shards")
    toy_of_more.pretrain(experiment, "audio")
    assert toy_of_more.done == ["pretrain-unimodal 0.25"]
    assert params_of(more, experiment).pretrain.of("audio").learning_rate == 0.2
    none = quick("compare.learning_rates=[]", "compare.presets=[ume]")
    assert not cells._is_pretrained(Inputs(none, "shards", {}), experiment, "audio")
    # Weights that somebody exchanged after the choice.
    settings = params_of(more, experiment).unimodal_settings("audio", "shards")
    write_model(folder, settings | {"seed": 7}, "0.2", {})
    assert not cells._is_pretrained(Inputs(more, "shards", {}), experiment, "audio")


def test_the_marker_keeps_its_keys(tmp_path, monkeypatch):
    """Experiments that an older version completed stay complete."""
    monkeypatch.chdir(tmp_path)
    params = quick("compare.presets=[umt]", "compare.seeds=[0]")
    experiment = Experiment("complete", 0, "umt")
    write_unimodal_models(params, experiment, "shards")
    ToyCommands(params, "shards").drive(experiment)
    text = (params_of(params, experiment).paths.results / "cell.json").read_text()
    data = json.loads(text)
    assert list(data) == ["learning_rate", "learning_rates", "made_from", "predictions"]
    assert data["made_from"] == experiments.input_fingerprint(params, experiment, "shards")
    assert (data["learning_rate"], data["learning_rates"], data["predictions"]) == (None, {}, "toy")


def test_a_process_that_fails_is_reported_in_its_own_words_and_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = quick("compare.presets=[umt]", "compare.seeds=[0]")
    log = tmp_path / "runs/digits/compare/complete/0/umt/log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("starts\nError: the loss is not finite\nLower the rate.\n")
    with pytest.raises(UserError, match=r"^the loss is not finite\nLower the rate\. \(log: runs/"):
        ToyCommands(params, "shards").drive(Experiment("complete", 0, "umt"), fails=True)
    lines = (tmp_path / "runs/digits/compare/costs.csv").read_text().splitlines()
    assert lines[0] == "train,seed,what,command,status,seconds,cpu_seconds,peak_gib,settings"
    (line,) = csv.DictReader(lines)
    assert (line["what"], line["command"], line["status"]) == ("umt", "finetune-ensemble", "1")
    assert (line["seconds"], line["cpu_seconds"], line["peak_gib"]) == ("1.000", "1.000", "0.500")
    assert format_costs(params).row_count == 1
    other_settings = quick("finetune.epochs=7")
    assert format_costs(other_settings) is None


def test_on_a_cluster_each_model_is_a_command_of_its_own(trained, tmp_path, monkeypatch):
    """The executor is one that notes the commands, fails one and loses another."""
    monkeypatch.chdir(tmp_path)
    os.symlink(trained / "data", tmp_path / "data")
    params = quick("compare.presets=[late-fusion, ume, umt]", "compare.seeds=[3]")
    commands = {}

    def note(function, jobs, workers):
        assert function is subprocesses.run_alone
        for name, command in jobs:
            commands[name] = " ".join(command.words[3:])
            if name.startswith("umt"):
                yield name, UserError("it broke")
            elif not name.startswith("ume"):
                yield name, None

    with pytest.raises(UserError) as error:
        cells.run(params, executor=note)
    settings = "compare --params runs/digits/compare/params.json"
    place = "--seed 3 --train complete --fold"
    assert {name: command.strip() for name, command in commands.items()} == {
        "audio alone, seed 3, complete": f"{settings} --modality audio {place}",
        "image alone, seed 3, complete": f"{settings} --modality image {place}",
        "late-fusion, seed 3, complete": f"{settings} --preset late-fusion {place}",
        "ume, seed 3, complete": f"{settings} --preset ume {place}",
        "umt, seed 3, complete": f"{settings} --preset umt {place}",
    }
    assert error.value.what == (
        "2 failed\numt, seed 3, complete: it broke\n"
        "ume, seed 3, complete: its worker was lost each time"
    )
    assert config.load_params(Path("runs/digits/compare/params.json")) == params


@pytest.mark.parametrize(
    "file", [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))], ids=lambda p: p.stem
)
def test_every_recipe_has_what_the_pipelines_name(file):
    """compare/dvc.yaml is read along with the project's own: without these keys neither would
    run.
    """
    written = YAML(typ="safe").load(file)
    assert set(written["compare"]) == set(config.Compare.model_fields)
    assert {"split", "calibrate", "batch_size"} <= set(written["evaluate"])


@pytest.mark.slow
def test_dvc_trains_each_experiment_once(trained, tmp_path):
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
    # The last part of a name is the fold, and these data have none.
    stage_names = ["compare-unimodal@complete-3-audio-", "compare-unimodal@complete-3-image-"]
    stage_names += ["compare-cell@complete-3-late-fusion-", "compare-table"]
    assert sorted(stages_run(done)) == sorted(f"compare/dvc.yaml:{name}" for name in stage_names)
    page = (clone / "results/digits/compare/compare.md").read_text()
    assert "uni-modal average" in page
    assert re.search(r"\| class prior \| 10\.\d \|", page)  # ten classes, nearly alike
    assert stages_run(run(clone, "dvc", "repro", "compare/dvc.yaml")) == []
    params = quick("compare.presets=[late-fusion, ume]", "compare.seeds=[3]", "finetune.preset=ume")
    write()
    done = run(clone, "dvc", "repro", "compare/dvc.yaml")
    assert stages_run(done) == [
        "compare/dvc.yaml:compare-cell@complete-3-ume-",
        "compare/dvc.yaml:compare-table",
    ]
    results = clone / "results/digits/compare"
    found = json.loads((results / "compare.json").read_text())
    assert {(d["method"], d["baseline"]) for d in found["differences"]} == {
        ("ume", "late-fusion"),
        ("ume", AVERAGE),
    }
    tests = list(csv.DictReader((results / "differences.csv").read_text().splitlines()))
    assert [row["column"] for row in tests] == [d["column"] for d in found["differences"]]
    rows = list(csv.DictReader((results / "compare.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == {
        "late-fusion",
        "ume",
        ALONE,
        AVERAGE,
        PRIOR,
    }
    own = json.loads((results / "complete/3/ume/metrics.json").read_text())
    (mean,) = (
        float(r["mean"])
        for r in rows
        if (r["method"], r["metric"], r["column"]) == ("ume", "accuracy", "audio")
    )
    assert mean == pytest.approx(own["accuracy"]["audio"], abs=1e-6)
    run(clone, "dvc", "plots", "show", "compare/dvc.yaml")

"""umemma compare: the numbers of its table by hand, its cells, its processes, and DVC really running it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, ROOT, quick
from ruamel.yaml import YAML
from test_pipeline import run, stages_run

from umemma import cells, cli, config, processes
from umemma.cells import Cell
from umemma.comparison import ALONE, AVERAGE, LESSER, WORST, boil_down, columns, differences, holm, points, scores
from umemma.config import Params
from umemma.errors import UserError
from umemma.files import write_json
from umemma.metrics import Bootstrap
from umemma.predictions import Predictions
from umemma.processes import Command, Ended
from umemma.stages import compare

# The numbers. ----------------------------------------------------------------------------------------------------------


def predictions(right: dict[str, str], alone: dict[str, str] | None = None) -> Predictions:
    """Of 4 samples of two classes, all of class 1: a letter says whether each answer is right (y), wrong (n), or none (-)."""
    logits = {"y": [0.0, 1.0], "n": [1.0, 0.0], "-": [np.nan, np.nan]}
    tables = [
        {subset: np.array([logits[c] for c in row], np.float32) for subset, row in one.items()}
        for one in (right, alone or {"audio": "yyyy", "image": "nnnn"})
    ]
    keys = [f"k{i}" for i in range(4)]
    return Predictions(keys, {"sample": keys}, np.ones(4, np.int64), *tables, ["a", "b"])


ONE_OF = ((("audio",), ("image",)), 0.5)
OURS = {"audio+image": "yyyn", "audio": "ynyn", "image": "yn-n"}
THEIRS = {"audio+image": "yyyy", "audio": "ynnn", "image": "nn-n"}


def cell(method: str, seed: int, right: dict[str, str]):
    return boil_down("complete", method, seed, predictions(right), ["accuracy"], [0.0, 1.0], ONE_OF)


def test_columns_by_hand():
    """One of the two missing from half of the samples: of samples 0, 1 and 3, which have both, complete 2/3 right, with audio
    1/3, with image 1/3; half of 2/3 and a quarter of each of the others."""
    found = {s.column: s.mean for s in scores([cell("ours", 0, OURS)]) if s.method == "ours"}
    assert list(found) == [WORST, "audio+image", "audio", "image", "audio|image missing from 50 %", LESSER]
    assert set(found) == set(columns(["image", "audio"], ONE_OF))
    expected = [1 / 2, 3 / 4, 1 / 2, 1 / 3, 1 / 2, 5 / 12]
    assert list(found.values()) == pytest.approx(expected)


def test_a_column_is_the_weighted_sum_of_its_parts():
    one = cell("ours", 0, OURS)
    for column, weights in one.weights.items():
        assert np.nanmean(one.parts, 0) @ weights == pytest.approx(one.values["ours", "accuracy", column]), column


def test_means_and_spread_over_seeds_and_the_models_that_all_share():
    found = {(s.method, s.column): s for s in scores([cell("ours", 0, OURS), cell("ours", 1, THEIRS)])}
    both = found["ours", "audio+image"]
    assert (both.mean, both.seeds) == (7 / 8, 2)
    assert both.std == pytest.approx(1 / 8 * 2**0.5)
    assert found[ALONE, "audio"].mean == found[AVERAGE, "audio"].mean == 1
    assert (ALONE, "audio+image") not in found
    (whole, lost) = (p for p in points([cell("ours", 0, OURS)]) if p.missing == "audio")
    assert (whole.ratio, lost.ratio, lost.score) == (0, 1, pytest.approx(1 / 3))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def difference(ours: list[dict[str, str]], theirs: list[dict[str, str]], times: int = 199):
    made = [cell("ours", seed, one) for seed, one in enumerate(ours)]
    made += [cell("theirs", seed, one) for seed, one in enumerate(theirs)]
    boot = Bootstrap({"sample": [f"k{i}" for i in range(4)]}, 0, times)
    return {one.column: one for one in differences(made, "ours", "multiclass", boot, 0)}


def test_a_difference_that_every_resample_shows_and_none():
    always = {"audio+image": "yyyy", "audio": "yyyy", "image": "yy-y"}
    never = {"audio+image": "nnnn", "audio": "yyyy", "image": "nn-n"}
    found = difference([always], [never])
    assert found["audio+image"][3:9] == ("theirs", "accuracy", 1.0, 1.0, 1.0, 2 / 200)
    assert found["audio"][5:9] == (0.0, 0.0, 0.0, 1.0)
    assert found["audio+image"].p_holm == pytest.approx(6 * 2 / 200)  # the smallest of six
    assert found["image"][5:8] == (1.0, 1.0, 1.0)  # the sample without an image isn't counted


def test_seeds_that_contradict_one_another_are_no_difference():
    """With one seed each is sure; with both, resamples that have one of them only go either way, stretched by root 2."""
    better, worse = dict(OURS, **{"audio+image": "yyyy"}), dict(OURS, **{"audio+image": "nnnn"})
    both = difference([better, worse], [worse, better])["audio+image"]
    assert (both.difference, both.low, both.high) == pytest.approx((0.0, -(2**0.5), 2**0.5))
    assert both.p > 0.5


def test_the_best_baseline_is_chosen_column_by_column():
    made = [cell("ours", 0, OURS), cell("all", 0, THEIRS), cell("parts", 0, dict(OURS, **{"audio+image": "nnnn"}))]
    found = {d.column: d for d in differences(made, "ours", "multiclass", Bootstrap({"sample": list("abcd")}, 0, 9), 0)}
    assert (found["audio+image"].baseline, found["audio"].baseline) == ("all", "parts")
    assert found["audio+image"].difference == pytest.approx(-1 / 4)
    assert not list(differences(made[:1], "ours", "multiclass", Bootstrap({"group": ["a"] * 4}, 0, 9), 0))


# The cells. ------------------------------------------------------------------------------------------------------------


def test_a_cell_has_settings_and_a_place_of_its_own(tmp_path):
    params = quick("compare.train=['audio|image=0.7,audio=0.1']", "seed=9", "evaluate.metrics=[f1_macro]")
    own = cells.settings(params, Cell("audio|image=0.7,audio=0.1", 1, "umt"), 0.5)
    assert (own.seed, own.missing.train) == (1, {"audio|image": 0.7, "audio": 0.1})
    assert (own.finetune.preset, own.finetune.scratch.learning_rate) == ("umt", 0.5)
    assert own.finetune.learning_rate == params.finetune.learning_rate
    place = "digits/compare/audio|image=0.7,audio=0.1/1"
    assert own.paths.pretrain("audio") == Path(f"models/{place}/pretrain/audio")
    assert (own.paths.ensemble, own.paths.results) == (Path(f"models/{place}/umt"), Path(f"results/{place}/umt"))
    write_json(tmp_path / "params.json", own.model_dump(mode="json"))
    assert config.load(tmp_path / "params.json") == own
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
        ("finetune.mma=all", "would be the same for every preset"),
        ("place=../x", "place"),
    ],
)
def test_settings_that_make_no_comparison_are_refused(change, message):
    with pytest.raises(UserError, match=r".") as error:
        cells.planned(quick(change))
    assert message in str(error.value)
    assert error.value.exit_status == 2


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--preset", "um"), 2, "Did you mean 'umt'?"),
        (("--seed", "7"), 2, "unknown seed '7'"),
        (("--train", "audio=0.5"), 2, "unknown train"),
        (("--table", "--seed", "0"), 2, "don't go together"),
        (("--table",), 1, "24 of 24 cells aren't done"),
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

    def drive(self, cell: Cell, fails: bool = False) -> None:
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
        own = config.load(Path(command.words[-1]))
        rate = own.finetune.learning_rate
        self.done.append(f"{command.words[3]} {rate:g}")
        if command.words[3] == "finetune-ensemble":
            folder = own.paths.ensemble
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.safetensors").write_text(f"{rate}")
            model(folder, own.ensemble_settings(self.index), f"{rate}", {"val_score": 1 - abs(rate - 0.2)})
        else:
            predictions(OURS).save(own.paths.results / "predictions.parquet", "toy")


def model(folder: Path, settings: dict, weights: str, scores: dict[str, float]) -> None:
    started = {m: f"{m} alone" for m in settings.get("starts_from", {})}
    about = {"settings": settings, "weights_sha256": weights, "started_from": started, "scores": scores}
    write_json(folder / "model.json", about | {"calibration": {}})


def test_validation_chooses_the_learning_rate_and_what_is_done_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params, cell = quick("compare.learning_rates=[0.1, 0.2, 0.4]"), Cell("complete", 0, "ume-mma")
    own, toy = cells.settings(params, cell), Toy(params, "shards")
    for m in params.modalities:
        model(own.paths.pretrain(m), own.unimodal_settings(m, "shards"), f"{m} alone", {})
    toy.drive(cell)
    trained = [f"finetune-ensemble {rate}" for rate in (0.1, 0.2, 0.4)]
    assert toy.done == [*trained, "evaluate-missing 0.2"]
    assert (own.paths.ensemble / "model.safetensors").read_text() == "0.2"
    mark = cells.done(params, cell, "shards")
    assert mark["learning_rate"] == 0.2
    assert mark["learning_rates"] == pytest.approx({"0.1": 0.9, "0.2": 1.0, "0.4": 0.8})
    # Another rate: the cell isn't done, but only that rate is trained. Other shards: everything is.
    more = quick("compare.learning_rates=[0.1, 0.2, 0.4, 0.25]")
    assert cells.done(more, cell, "shards") is None
    again = Toy(more, "shards")
    again.drive(cell)
    assert again.done == ["finetune-ensemble 0.25", "evaluate-missing 0.2"]
    assert cells.done(more, cell, "other shards") is None
    # Uni-modal models that were trained anew.
    model(own.paths.pretrain("audio"), own.unimodal_settings("audio", "shards"), "new", {})
    assert cells.done(more, cell, "shards") is None
    toy.done.clear()
    toy.drive(cell)
    assert toy.done == [*trained, "evaluate-missing 0.2"]
    # Predictions that somebody replaced.
    assert cells.done(params, cell, "shards")
    predictions(OURS).save(own.paths.results / "predictions.parquet", "another evaluation")
    assert cells.done(params, cell, "shards") is None


def test_a_process_that_fails_is_told_with_its_own_words_and_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params, cell = quick("compare.presets=[umt]", "compare.seeds=[0]"), Cell("complete", 0, "umt")
    log = tmp_path / "runs/digits/compare/complete/0/umt/log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("starts\nError: the loss is not finite\nLower the rate.\n")
    with pytest.raises(UserError, match=r"^the loss is not finite\nLower the rate\. \(log: runs/"):
        Toy(params, "shards").drive(cell, fails=True)
    (line,) = csv.DictReader((tmp_path / "runs/digits/compare/costs.csv").read_text().splitlines())
    assert (line["what"], line["command"], line["status"]) == ("umt", "finetune-ensemble", "1")
    assert compare.costs(params).row_count == 1
    assert compare.costs(quick("finetune.epochs=7")) is None  # other settings: another cell's costs


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
    found = {name: error and error.what for name, error in processes.run(jobs, 2, ["4", "5"])}
    assert found == {"one": None, "bad": "status 3", "two": "status -9", "idle": None}
    assert next(iter(found)) == "bad"  # it didn't wait for the first
    assert log.read_text() == f"4 {max(1, len(os.sched_getaffinity(0)) // 2)}\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_however_it_ends_its_children_end_in_order(tmp_path, number, status):
    """They are asked to, may save what they have, and no further command begins."""
    script = """
import sys
from pathlib import Path
from umemma import processes
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
    for name in (".dvc/config", ".dvc/plots/compare.json", ".dvcignore", ".gitignore", "compare/dvc.yaml", "umemma"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(ROOT / name, clone / name)
    os.symlink(trained / "data", clone / "data")
    params = quick("compare.presets=[late-fusion]", "compare.seeds=[3]", "finetune.preset=ume")
    write = lambda: (clone / "params.yaml").write_text(json.dumps(params.model_dump(mode="json", exclude={"place"})))  # noqa: E731
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
    assert stages_run(done) == ["compare/dvc.yaml:compare-cell@complete-3-ume", "compare/dvc.yaml:compare-table"]
    results = clone / "results/digits/compare"
    found = json.loads((results / "compare.json").read_text())
    assert {(d["method"], d["baseline"]) for d in found["differences"]} == {("ume", "late-fusion")}
    rows = list(csv.DictReader((results / "compare.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == {"late-fusion", "ume", ALONE, AVERAGE}
    own = json.loads((results / "complete/3/ume/metrics.json").read_text())
    (mean,) = (
        float(r["mean"]) for r in rows if (r["method"], r["metric"], r["column"]) == ("ume", "accuracy", "audio")
    )
    assert mean == pytest.approx(own["accuracy"]["audio"], abs=1e-6)
    run(clone, "dvc", "plots", "show", "compare/dvc.yaml")

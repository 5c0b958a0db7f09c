"""The stages one after another on a small version of the digits, as a user runs them."""

from __future__ import annotations

import ast
import csv
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from toys.project import QUICK, ROOT, quick

from umemma import cli
from umemma.errors import UserError
from umemma.stages import evaluate, finetune, preprocess, pretrain


def umemma(*words: str) -> int:
    """Run a command line in this process and return its exit status."""
    command, *rest = words
    settings: list[str] = []
    if command not in ("download", "datasets"):
        for change in QUICK:
            settings += ["--set", change]
    try:
        cli.main([command, *settings, *rest])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return {path: content} of all files below a folder."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            contents[str(path.relative_to(folder))] = path.read_bytes()
    return contents


def read_tree_without_logs(folder: Path) -> dict[str, bytes]:
    tree = read_tree(folder)
    return {name: data for name, data in tree.items() if not name.startswith("logs")}


@pytest.mark.slow
def test_the_whole_way_and_its_files(project):
    assert umemma("finetune-ensemble") == 0
    assert umemma("evaluate") == 0
    results = project / "results" / "digits"
    assert {path.name for path in results.iterdir()} == {
        "metrics.json",
        "information.json",
        "grid.parquet",
        "predictions.parquet",
        "robustness.csv",
        "robustness.png",
        "information.csv",
        "per_class.csv",
        "confusion.csv",
        "report.md",
        "report.html",
    }
    metrics = json.loads((results / "metrics.json").read_text())
    assert set(metrics["accuracy"]) == {"audio+image", "audio", "image"}
    assert metrics["prior"] == {"audio+image": pytest.approx(0.1, abs=0.01)}  # of ten classes
    assert set(metrics["unimodal"]) == set(metrics["gap_to_ceiling"]) == {"audio", "image"}
    gap = metrics["accuracy"]["audio"] - metrics["unimodal"]["audio"]
    assert metrics["gap_to_ceiling"]["audio"] == gap
    assert metrics["preset"] == "ume-mma"
    assert metrics["absent"] == "learned"
    assert metrics["dataset"] == "digits"
    rows = pq.read_table(results / "grid.parquet").to_pylist()
    # 4 metrics of 3 subsets, 2 uni-modal models and their average, and of 3 things to miss at 11
    # ratios: the expectation, the draws, the average's expectation; the 3 gaps; the worst case.
    assert len(rows) == 4 * (7 + 3 * 11 * (1 + 2 + 1)) + 3 + 1
    gaps = {row["left"]: row["value"] for row in rows if row["model"] == "gap"}
    assert {m: gaps[m] for m in ("audio", "image")} == pytest.approx(metrics["gap_to_ceiling"])
    predictions = pq.read_table(results / "predictions.parquet")
    group_columns = [name for name in predictions.column_names if name.startswith("group")]
    assert group_columns == ["group_image", "group_voice"]
    lines = (results / "robustness.csv").read_text().splitlines()
    table = list(csv.DictReader(lines))
    assert [row["ratio"] for row in table[:11]] == [f"{i / 10:g}" for i in range(11)]
    assert table[10]["missing"] == "audio"
    assert float(table[10]["score"]) == pytest.approx(metrics["accuracy"]["image"], abs=1e-6)
    assert (results / "robustness.png").read_bytes()[:4] == b"\x89PNG"
    assert "| audio+image |" in (results / "report.md").read_text()


@pytest.mark.slow
def test_every_number_can_be_made_from_the_predictions(project, capsys):
    """The code in docs/evaluation.md computes them."""
    assert umemma("finetune-ensemble") == 0
    status = umemma(
        "evaluate",
        "--set",
        "evaluate.draws=3",
        "--set",
        "evaluate.bootstrap=1000",
        "--set",
        "evaluate.smallest_effect=0.2",
    )
    assert status == 0
    information = json.loads((project / "results/digits/information.json").read_text())
    assert information["smallest_effect"] == 0.2
    metrics = json.loads((project / "results/digits/metrics.json").read_text())
    rows = pq.read_table(project / "results/digits/grid.parquet").to_pylist()
    capsys.readouterr()
    scope: dict[str, Any] = {}
    text = (ROOT / "docs" / "evaluation.md").read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(code, scope)
    table, half, worst, bits, drawn, interval = capsys.readouterr().out.splitlines()
    scores = ast.literal_eval(table)
    for subset, accuracy in metrics["accuracy"].items():
        assert scores[f"ensemble/{subset}"] == pytest.approx(accuracy)
    for m, accuracy in metrics["unimodal"].items():
        assert scores[f"unimodal/{m}"] == pytest.approx(accuracy)
    assert float(worst) == pytest.approx(metrics["worst_case"]["value"])
    assert float(bits) == pytest.approx(metrics["information"]["audio"], abs=1e-6)

    def find_row(draw: int, ratio: float) -> dict[str, Any]:
        key = {
            "model": "ensemble",
            "metric": "accuracy",
            "missing": "audio",
            "ratio": ratio,
            "draw": draw,
        }
        return next(row for row in rows if key.items() <= row.items())

    assert float(half) == pytest.approx(find_row(-1, 0.5)["value"])
    assert float(drawn) == pytest.approx(find_row(2, 0.5)["value"])
    row = find_row(-1, 1.0)
    assert ast.literal_eval(interval) == pytest.approx((row["low"], row["high"]))


@pytest.mark.slow
def test_same_seed_same_bytes(project):
    """Shards, models and results of two runs; nothing holds a time, a host or a path."""
    params = quick()
    finetune.run(params)
    evaluate.run(params)
    first = read_tree(project)
    for folder in ("data/shards", "models", "results"):
        shutil.rmtree(project / folder)
    preprocess.run(params, workers=1)
    for modality in params.modalities:
        pretrain.run(params, modality)
    finetune.run(params)
    evaluate.run(params)
    assert read_tree(project) == first


@pytest.mark.slow
@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_every_rule_of_absence_reaches_the_results(project, absent, capsys):
    change = ("--set", f"finetune.absent={absent}")
    assert umemma("finetune-ensemble", *change) == 0
    assert umemma("evaluate", *change) == 0
    assert json.loads(Path("results/digits/metrics.json").read_text())["absent"] == absent
    assert set(pq.read_table("results/digits/grid.parquet")["absent"].to_pylist()) == {absent}


@pytest.mark.slow
def test_asking_answers_from_stored_predictions_and_changes_nothing(project, capsys):
    assert umemma("finetune-ensemble") == 0
    assert umemma("evaluate") == 0
    before = read_tree_without_logs(project)
    capsys.readouterr()
    started = time.perf_counter()
    assert umemma("evaluate", "--missing", "audio", "--ratio", "0.5", "--ratio", "1", "--json") == 0
    assert time.perf_counter() - started < 3
    answer = json.loads(capsys.readouterr().out)  # nothing else on stdout
    metrics = json.loads(Path("results/digits/metrics.json").read_text())
    half, full = [one for one in answer["results"] if one["metric"] == "accuracy"]
    assert (half["ratio"], full["ratio"], half["left"]) == (0.5, 1.0, "image")
    assert full["value"] == metrics["accuracy"]["image"]
    accuracy = metrics["accuracy"]
    assert half["value"] == pytest.approx((accuracy["image"] + accuracy["audio+image"]) / 2)
    assert half["low"] <= half["value"] <= half["high"]
    assert half["complete"] == metrics["accuracy"]["audio+image"]
    assert half["unimodal_ceiling"] == metrics["unimodal"]["image"]
    assert half["draws"]["count"] == 2
    assert answer["absent"] == "learned"
    assert read_tree_without_logs(project) == before


@pytest.mark.slow
def test_asking_without_json_says_it_in_words(project, capsys):
    umemma("finetune-ensemble")
    umemma("evaluate")
    capsys.readouterr()
    assert umemma("evaluate-missing", "--missing", "image", "--ratio", "0.5") == 0
    text = capsys.readouterr().out
    for word in ("image", "0.5", "95 % interval", "uni-modal", "a learned feature vector"):
        assert word in text


@pytest.mark.slow
def test_one_of_two_lies_between(project, capsys):
    assert umemma("finetune-ensemble") == 0
    capsys.readouterr()
    assert umemma("evaluate", "--missing", "image|audio", "--ratio", "1", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    row = next(one for one in answer["results"] if one["metric"] == "accuracy")
    assert row["missing"] == "audio|image"
    accuracy = answer["accuracy"]
    assert row["value"] == pytest.approx((accuracy["audio"] + accuracy["image"]) / 2)


@pytest.mark.slow
def test_predictions_of_other_weights_are_not_used(project, capsys):
    """After a new training the answer comes from the new model, not from stored predictions."""
    finetune.run(quick())
    evaluate.run(quick())
    kept = evaluate.ask(quick(), "audio", [1.0])
    finetune.run(quick("finetune.epochs=3"))
    fresh = evaluate.ask(quick("finetune.epochs=3"), "audio", [1.0])
    whole = evaluate.run(quick("finetune.epochs=3"))
    assert fresh.subsets == whole.subsets != kept.subsets


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("evaluate", "--ratio", "1.5"), 2, "1.5 is not in 0..1"),
        (("evaluate", "--ratio", "nan"), 2, "nan is not in 0..1"),
        (("evaluate", "--ratio", "half"), 2, "--ratio"),
        (("evaluate", "--missing", "audio,image"), 2, "nothing is left"),
        (("evaluate", "--missing", "audio|image+audio"), 2, "nothing is left"),
        (("evaluate", "--missing", "sound"), 2, "unknown modality 'sound'"),
        (
            ("evaluate", "--set", "evaluate.metrics=[f1_samples]"),
            2,
            "f1_samples doesn't fit: the task is multiclass",
        ),
        (("evaluate", "--missing", "imgae"), 2, "Did you mean 'image'?"),
        (("evaluate", "--set", "finetune.prest=ume"), 2, "Did you mean 'preset'?"),
        (("evaluate", "--params", "nowhere.yaml"), 2, "no such file"),
        (("evaluate",), 1, "Run: umemma finetune-ensemble"),
        (("evaluate", "--set", "preprocess.options.snr_db=0"), 1, "snr_db: -4.0 there, 0 here"),
        (("evaluate", "--set", "dataset=digit"), 2, "Did you mean 'digits'?"),
        (("finetune-ensemble", "--preset", "ume-mm"), 2, "Did you mean 'ume-mma'?"),
        (
            ("finetune-ensemble", "--set", "pretrain.epochs=2"),
            1,
            "pretrain.epochs: 1 there, 2 here",
        ),
        (("finetune-ensemble", "--set", "seed=5"), 1, "seed: 0 there, 5 here"),
        (("finetune-ensemble", "--set", "encoders.image.input.sise=9"), 2, "Did you mean 'size'?"),
        (("pretrain-unimodal", "--modality", "vido"), 2, "unknown modality 'vido'"),
        (("pretrain-unimodal", "--set", "encoders.image.input.sise=9"), 2, "Did you mean 'size'?"),
        (("pretrain-unimodal", "--set", "encoders.audio=cn:small"), 2, "Did you mean 'cnn'?"),
        (("pretrain-unimodal", "--set", "encoders.audio=cnn:smal"), 2, "Did you mean 'cnn:small'?"),
        (
            ("preprocess", "--set", "preprocess.options.snr=1"),
            2,
            "unknown key 'preprocess.options.snr'",
        ),
        (("preprocess", "--set", "dataset=digit"), 2, "Did you mean 'digits'?"),
        (("preprocess", "--set", "modalities=[video]"), 2, "unknown modality 'video'"),
        (("download", "digts"), 2, "Did you mean 'digits'?"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_what_is_put_in_wrong_is_one_message(project, capsys, words, status, message):
    before = read_tree_without_logs(project)
    assert umemma(*words) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert read_tree_without_logs(project) == before


def test_a_stage_before_its_inputs_names_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert umemma("preprocess") == 1
    assert "Run: umemma download digits" in capsys.readouterr().err
    assert umemma("pretrain-unimodal") == 1
    assert "Run: umemma preprocess" in capsys.readouterr().err
    shards = tmp_path / "data" / "shards"
    assert not shards.exists() or not list(shards.iterdir())


@pytest.mark.slow
def test_altered_files_are_refused(project):
    params = quick()
    finetune.run(params)
    weights = params.paths.ensemble / "model.safetensors"
    shard = Path(params.paths.shards) / "test-000000.tar"
    raw = params.paths.raw / "images.parquet"
    for path, run, message in (
        (weights, evaluate.run, "weights differ from model.json"),
        (shard, evaluate.run, "truncated or altered"),
        (raw, preprocess.run, "differs from download.json"),
    ):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(UserError, match=message) as error:
            run(params)
        assert error.value.exit_status == 1
        path.write_bytes(whole)
    assert not params.paths.results.exists()


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"settings": 3}'])
def test_damaged_descriptions_are_refused(project, content):
    params = quick()
    for path, run in (
        (params.paths.pretrain("image") / "model.json", finetune.run),
        (params.paths.raw / "download.json", preprocess.run),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match="damaged") as error:
            run(params)
        assert error.value.hint.startswith("Run: umemma")


def test_a_failing_stage_leaves_what_was_there(project):
    params = quick()
    shutil.rmtree(project / "runs")  # figures of trainings, for whoever wants to know
    before = read_tree(project)
    with pytest.raises(UserError, match="utterances"):
        preprocess.run(quick("preprocess.options.utterances=0"), workers=1)
    with pytest.raises(UserError, match=r"the loss is not finite at step"):
        pretrain.run(quick("pretrain.learning_rate=1e30", "pretrain.warmup=0.0"), "image")
    shutil.rmtree(project / "runs")
    assert read_tree(project) == before
    assert pretrain.run(params, "image") > 0.1

"""The stages one after another on a small version of the digits, the way a user runs them; and everything put in wrong."""

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
    """The command line in this process; its exit status."""
    sets = (
        [word for change in QUICK for word in ("--set", change)]
        if words[0] not in ("download", "datasets")
        else []
    )
    try:
        cli.main([words[0], *sets, *words[1:]])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_whole_way_and_its_files(project):
    assert umemma("finetune-ensemble") == 0
    assert umemma("evaluate") == 0
    results = project / "results" / "digits"
    names = {
        "metrics.json",
        "information.json",
        "grid.parquet",
        "predictions.parquet",
        "robustness.csv",
    }
    names |= {
        "robustness.png",
        "information.csv",
        "per_class.csv",
        "confusion.csv",
        "report.md",
        "report.html",
    }
    assert {path.name for path in results.iterdir()} == names
    metrics = json.loads((results / "metrics.json").read_text())
    assert set(metrics["accuracy"]) == {"audio+image", "audio", "image"}
    assert set(metrics["unimodal"]) == set(metrics["gap_to_ceiling"]) == {"audio", "image"}
    assert (
        metrics["gap_to_ceiling"]["audio"]
        == metrics["accuracy"]["audio"] - metrics["unimodal"]["audio"]
    )
    assert {metrics[name] for name in ("preset", "absent", "dataset")} == {
        "ume-mma",
        "learned",
        "digits",
    }
    rows = pq.read_table(results / "grid.parquet").to_pylist()
    # 4 metrics of 3 subsets, 2 uni-modal models and their average, and of 3 things to miss at 11 ratios: the expectation, the
    # draws, the average's expectation; the 3 gaps; the worst case.
    assert len(rows) == 4 * (6 + 3 * 11 * (1 + 2 + 1)) + 3 + 1
    gaps = {row["left"]: row["value"] for row in rows if row["model"] == "gap"}
    assert {m: gaps[m] for m in ("audio", "image")} == pytest.approx(metrics["gap_to_ceiling"])
    predictions = pq.read_table(results / "predictions.parquet")
    assert [name for name in predictions.column_names if name.startswith("group")] == [
        "group_image",
        "group_voice",
    ]
    table = list(csv.DictReader((results / "robustness.csv").read_text().splitlines()))
    assert [row["ratio"] for row in table[:11]] == [f"{i / 10:g}" for i in range(11)]
    assert table[10]["missing"] == "audio"
    assert float(table[10]["score"]) == pytest.approx(metrics["accuracy"]["image"], abs=1e-6)
    assert (results / "robustness.png").read_bytes()[:4] == b"\x89PNG"
    assert "| audio+image |" in (results / "report.md").read_text()


def test_every_number_can_be_made_from_the_predictions(project, capsys):
    """By what the documents say."""
    assert umemma("finetune-ensemble") == 0
    assert (
        umemma(
            "evaluate",
            "--set",
            "evaluate.draws=3",
            "--set",
            "evaluate.bootstrap=1000",
            "--set",
            "evaluate.smallest_effect=0.2",
        )
        == 0
    )
    assert (
        json.loads((project / "results/digits/information.json").read_text())["smallest_effect"]
        == 0.2
    )
    metrics = json.loads((project / "results/digits/metrics.json").read_text())
    rows = pq.read_table(project / "results/digits/grid.parquet").to_pylist()
    capsys.readouterr()
    scope: dict[str, Any] = {}
    for code in re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(), re.S
    ):
        exec(code, scope)
    table, half, worst, bits, drawn, interval = capsys.readouterr().out.splitlines()
    found = ast.literal_eval(table)
    assert {m: found[f"ensemble/{m}"] for m in metrics["accuracy"]} == pytest.approx(
        metrics["accuracy"]
    )
    assert {m: found[f"unimodal/{m}"] for m in metrics["unimodal"]} == pytest.approx(
        metrics["unimodal"]
    )
    assert float(worst) == pytest.approx(metrics["worst_case"]["value"])
    assert float(bits) == pytest.approx(metrics["information"]["audio"])

    def row(draw: int, ratio: float) -> dict[str, Any]:
        wanted = {
            "model": "ensemble",
            "metric": "accuracy",
            "missing": "audio",
            "ratio": ratio,
            "draw": draw,
        }
        return next(row for row in rows if wanted.items() <= row.items())

    assert float(half) == pytest.approx(row(-1, 0.5)["value"])
    assert float(drawn) == pytest.approx(row(2, 0.5)["value"])
    assert ast.literal_eval(interval) == pytest.approx((row(-1, 1.0)["low"], row(-1, 1.0)["high"]))


def test_same_seed_same_bytes(project):
    """Shards, models and results of two runs; nothing holds a time, a host or a path."""
    params = quick()
    finetune.run(params)
    evaluate.run(params)
    first = tree(project)
    for folder in ("data/shards", "models", "results"):
        shutil.rmtree(project / folder)
    preprocess.run(params, workers=1)
    for modality in params.modalities:
        pretrain.run(params, modality)
    finetune.run(params)
    evaluate.run(params)
    assert tree(project) == first


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_every_rule_of_absence_reaches_the_results(project, absent, capsys):
    change = ("--set", f"finetune.absent={absent}")
    assert umemma("finetune-ensemble", *change) == 0
    assert umemma("evaluate", *change) == 0
    assert json.loads(Path("results/digits/metrics.json").read_text())["absent"] == absent
    assert set(pq.read_table("results/digits/grid.parquet")["absent"].to_pylist()) == {absent}


def test_asking_answers_from_kept_predictions_and_changes_nothing(project, capsys):
    assert umemma("finetune-ensemble") == 0
    assert umemma("evaluate") == 0
    before = {name: data for name, data in tree(project).items() if not name.startswith("logs")}
    capsys.readouterr()
    started = time.perf_counter()
    assert umemma("evaluate", "--missing", "audio", "--ratio", "0.5", "--ratio", "1", "--json") == 0
    assert time.perf_counter() - started < 3
    answer = json.loads(capsys.readouterr().out)  # nothing else on stdout
    metrics = json.loads(Path("results/digits/metrics.json").read_text())
    half, full = [one for one in answer["results"] if one["metric"] == "accuracy"]
    assert (half["ratio"], full["ratio"], half["left"]) == (0.5, 1.0, "image")
    assert full["value"] == metrics["accuracy"]["image"]
    assert half["value"] == pytest.approx(
        (metrics["accuracy"]["image"] + metrics["accuracy"]["audio+image"]) / 2
    )
    assert half["low"] <= half["value"] <= half["high"]
    assert half["complete"] == metrics["accuracy"]["audio+image"]
    assert half["unimodal_ceiling"] == metrics["unimodal"]["image"]
    assert half["draws"]["count"] == 2
    assert answer["absent"] == "learned"
    assert {
        name: data for name, data in tree(project).items() if not name.startswith("logs")
    } == before


def test_asking_without_json_says_it_in_words(project, capsys):
    umemma("finetune-ensemble")
    umemma("evaluate")
    capsys.readouterr()
    assert umemma("evaluate-missing", "--missing", "image", "--ratio", "0.5") == 0
    text = capsys.readouterr().out
    for word in ("image", "0.5", "95 % interval", "uni-modal", "a learned feature vector"):
        assert word in text


def test_one_of_two_lies_between(project, capsys):
    assert umemma("finetune-ensemble") == 0
    capsys.readouterr()
    assert umemma("evaluate", "--missing", "image|audio", "--ratio", "1", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    row = next(one for one in answer["results"] if one["metric"] == "accuracy")
    assert row["missing"] == "audio|image"
    assert row["value"] == pytest.approx(
        (answer["accuracy"]["audio"] + answer["accuracy"]["image"]) / 2
    )


def test_predictions_of_other_weights_are_not_used(project, capsys):
    """Retrained since: the answer comes from the new model, not from the kept predictions."""
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
    before = {name: data for name, data in tree(project).items() if not name.startswith("logs")}
    assert umemma(*words) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert {
        name: data for name, data in tree(project).items() if not name.startswith("logs")
    } == before


def test_a_stage_before_its_inputs_names_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert umemma("preprocess") == 1
    assert "Run: umemma download digits" in capsys.readouterr().err
    assert umemma("pretrain-unimodal") == 1
    assert "Run: umemma preprocess" in capsys.readouterr().err
    assert not (tmp_path / "data" / "shards").exists() or not list(
        (tmp_path / "data" / "shards").iterdir()
    )


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
    before = tree(project)
    with pytest.raises(UserError, match="utterances"):
        preprocess.run(quick("preprocess.options.utterances=0"), workers=1)
    with pytest.raises(UserError, match=r"the loss is not finite at step"):
        pretrain.run(quick("pretrain.learning_rate=1e30", "pretrain.warmup=0.0"), "image")
    shutil.rmtree(project / "runs")
    assert tree(project) == before
    assert pretrain.run(params, "image") > 0.1

"""A regression through the whole product, from a table to answers with intervals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from toys.models import call
from toys.regression import write_project

import umemma
from umemma.data import shard_reader
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.regression import gaussian
from umemma.models.answers import NumberPrediction
from umemma.stages import download, evaluate, finetune, preprocess, pretrain
from umemma.system.storage import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def priced(tmp_path_factory) -> Path:
    """A project folder in which everything is trained and evaluated."""
    folder = tmp_path_factory.mktemp("priced")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = write_project(folder)
        download.run("manifest", params.preprocess.options)
        preprocess.run(params, workers=1)
        for m in params.modalities:
            pretrain.run(params, m)
        finetune.run(params)
        evaluate.run(params)
    return folder


def test_shards_hold_the_numbers_and_fail_what_is_none(priced):
    store = Store(str(priced / "data" / "shards" / "manifest"))
    index = shard_reader.read_index(store)
    assert (index.task, index.classes) == ("regression", ["price", "area"])
    assert index.failures() == "1 x a target is not a finite number"
    records = list(shard_reader.read_split(store, index, "train"))
    labels = np.array([record.label for record in records])
    assert labels.shape == (len(records), 2)
    for scale, values in zip(shard_reader.read_scales(store, index), labels.T, strict=True):
        assert (scale.mean, scale.std) == pytest.approx((values.mean(), values.std()))


def test_answers_stay_near_the_targets_of_training(priced):
    store = Store(str(priced / "data" / "shards" / "manifest"))
    index = shard_reader.read_index(store)
    labels = np.array([record.label for record in shard_reader.read_split(store, index, "train")])
    farthest = np.abs((labels - labels.mean(0)) / labels.std(0)).max(0)
    for model in ("pretrain/image", "pretrain/text", "ensemble"):
        weights = load_file(priced / "models" / "manifest" / model / "model.safetensors")
        np.testing.assert_allclose(weights["bound.reach"], 1.5 * farthest, rtol=1e-5)


def test_two_processes_train_the_same_model(priced, tmp_path):
    project = tmp_path / "priced"
    shutil.copytree(priced, project)
    weights = project / "models" / "manifest" / "ensemble" / "model.safetensors"
    alone = load_file(weights)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "umemma", "finetune-ensemble", "--force"]
    subprocess.run(command, cwd=project, check=True, timeout=240, capture_output=True)
    together = load_file(weights)
    assert together.keys() == alone.keys()
    for name, numbers in alone.items():
        if name.startswith("probes."):  # of features that hardly vary, so rounding moves them
            continue
        torch.testing.assert_close(together[name], numbers, rtol=1e-3, atol=1e-5)


def test_answers_beat_the_constant_and_together_each_alone(priced):
    results = json.loads((priced / "results" / "manifest" / "metrics.json").read_text())
    assert results["metric"] == "r2"
    both, image, text = (results["r2"][left] for left in ("image+text", "image", "text"))
    assert both > image > results["prior"]["image+text"]
    assert both > text
    assert results["mae"]["image+text"] > 0
    report = (priced / "results" / "manifest" / "report.md").read_text()
    for words in ("training mean: ", "## Targets", "Errors in the units", "about the target"):
        assert words in report
    for words in ("class prior", "F1", "recall", "accuracy"):
        assert words not in report


def test_the_model_answers_as_it_was_evaluated(priced, monkeypatch):
    monkeypatch.chdir(priced)
    folder = priced / "models" / "manifest" / "ensemble"
    info = json.loads((folder / "model.json").read_text())
    assert [sorted(scale) for scale in info["scales"]] == [["mean", "std"], ["mean", "std"]]
    path = priced / "results" / "manifest" / "predictions.parquet"
    predictions = Predictions.load(path, read_made_by(path))
    assert predictions is not None
    row = predictions.keys.index(sorted(predictions.keys)[0])
    number = int(predictions.keys[row].removeprefix("row-")) - 1
    answer = umemma.load(folder).predict(image=f"data/raw/manifest/{number}.png")
    assert isinstance(answer, NumberPrediction)
    mean, precision = gaussian.to_gaussian(predictions.ensemble["image"][row])
    for t, name in enumerate(("price", "area")):
        scale = predictions.scales[t]
        value = scale.mean + scale.std * mean[t]
        assert answer.value[name] == pytest.approx(value, rel=1e-3)
        assert answer.deviation[name] == pytest.approx(scale.std / precision[t] ** 0.5, rel=1e-3)
        low, high = answer.interval[name]
        assert (high - low) / answer.deviation[name] == pytest.approx(2 * 1.96, abs=1e-3)
    assert answer.present == ("image",)


def read_made_by(path: Path) -> str:
    return pq.read_schema(path).metadata[b"made_by"].decode()


def test_the_command_line_answers_with_numbers(priced, monkeypatch, capsys):
    monkeypatch.chdir(priced)
    assert call("predict", "--text", "two rooms") == 0
    output = capsys.readouterr().out
    for words in ("price", "area", "standard deviation", "95 % interval"):
        assert words in output
    assert call("predict", "--text", "two rooms", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"value", "deviation", "interval", "present", "broken"}
    columns = ["--columns", "image=picture", "--columns", "text=words"]
    table = ["--manifest", "data/raw/manifest/table.csv", "--out", "p.parquet"]
    assert call("predict", *table, *columns) == 0
    rows = pq.read_table("p.parquet").to_pylist()
    assert len(rows) == 240
    assert rows[5]["low"][0] < rows[5]["value"][0] < rows[5]["high"][0]
    assert json.loads(pq.read_schema("p.parquet").metadata[b"targets"]) == ["price", "area"]


def test_an_export_gives_numbers_in_their_units(priced, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import onnxruntime

    monkeypatch.chdir(priced)
    assert call("export", "--out", "onnx") == 0
    assert "3 of 3 subsets agree" in capsys.readouterr().out
    fusion = json.loads(Path("onnx/export.json").read_text())["fusion"]
    assert fusion["outputs"] == ["mean", "deviation"]
    session = onnxruntime.InferenceSession("onnx/fusion.onnx", providers=["CPUExecutionProvider"])
    features = {}
    for place in session.get_inputs()[:-1]:
        features[place.name] = np.zeros((3, place.shape[1]), np.float32)
    means, deviations = session.run(None, features | {"present": np.ones((3, 2), bool)})
    assert means.shape == deviations.shape == (3, 2)
    assert 0 < deviations[0, 1] < 300  # the area is up to 250


def test_contributions_add_up_to_the_value(priced, monkeypatch):
    monkeypatch.chdir(priced)
    model = umemma.load(priced / "models" / "manifest" / "ensemble")
    media = {"image": "data/raw/manifest/7.png", "text": "two rooms"}
    explanation = model.explain(**media)
    value = model.predict(**media).value
    alone = {m: model.predict(**{m: medium}).value for m, medium in media.items()}
    for t, name in enumerate(("price", "area")):
        start = explanation.prior[name]
        assert start == model.info.scales[t].mean
        image = (alone["image"][name] - start + value[name] - alone["text"][name]) / 2
        assert explanation.contributions["image"][name] == pytest.approx(image, rel=1e-4)
        added = sum(numbers[name] for numbers in explanation.contributions.values())
        assert start + added == pytest.approx(value[name], rel=1e-5)

"""Vectors, series and rows of tables through every stage, and what test rows can't change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from toys.models import call
from toys.numeric import SETTINGS, make_patient, write_patients

import umemma
from umemma import config
from umemma.data.shard_reader import Index
from umemma.errors import UserError
from umemma.models import factory
from umemma.stages import download, evaluate, export, finetune, preprocess, pretrain
from umemma.types import Series


def prepare(folder: Path, **patients) -> Index:
    """Write the table and the shards in the current directory."""
    write_patients(folder / "data" / "raw" / "manifest", **patients)
    Path("params.yaml").write_text(SETTINGS)
    params = config.load_params()
    download.run("manifest", params.preprocess.options, "", params.modalities)
    return preprocess.run(params, workers=1)


def test_what_the_training_samples_say_is_in_the_index(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = prepare(tmp_path)
    params = config.load_params()
    specs = factory.input_specs({m: params.encoder(m) for m in params.modalities}, index.inputs)
    train = [make_patient(i) for i in range(80) if make_patient(i)["side"] == "train"]
    scans = np.array([row["scan"] for row in train if row["scan"]])
    assert specs["scan"].width == 4
    np.testing.assert_allclose(specs["scan"].mean, scans.mean(0), rtol=1e-5)
    np.testing.assert_allclose(specs["scan"].std, scans.std(0), rtol=1e-5)
    assert (specs["wrist"].channels, specs["wrist"].rate, specs["wrist"].steps) == (2, 50, 26)
    ages = [row["age"] for row in train if row["age"] is not None]
    age, notes = specs["chart"].numbers
    assert (age.name, notes.name) == ("age", "notes")
    assert age.mean == pytest.approx(np.mean(ages))
    assert specs["chart"].categories[0].values == ("east", "north", "south")
    assert index.samples("train") == 40


def test_test_rows_cannot_change_what_the_training_samples_say(tmp_path, monkeypatch):
    scores = []
    indexes = []
    weights = []
    for number, change in enumerate((0.0, 1000.0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        indexes.append(prepare(folder, test_change=change))
        params = config.load_params()
        for modality in params.modalities:
            scores.append(pretrain.run(params, modality))
            path = params.paths.pretrain(modality) / "model.safetensors"
            weights.append(path.read_bytes())
    assert indexes[0].inputs == indexes[1].inputs
    assert indexes[0].fingerprint != indexes[1].fingerprint  # the test shards did change
    assert weights[:3] == weights[3:]
    assert scores[:3] == scores[3:]


@pytest.mark.slow
def test_numbers_go_through_every_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    params = config.load_params()
    for modality in params.modalities:
        pretrain.run(params, modality)
    finetune.run(params)
    outcome = evaluate.run(params)
    assert "chart+scan+wrist" in outcome.lead()

    # Without the shards: from Python, from the command line and from a table.
    for file in (tmp_path / "data").rglob("*"):
        if file.is_file():
            file.unlink()
    model = umemma.load(params.paths.ensemble)
    row = make_patient(2)
    wrist = np.column_stack([row["x"], row["y"]])
    chart = {"age": row["age"], "ward": row["ward"]}
    together = model.predict(scan=row["scan"], wrist=(wrist, 50), chart=chart)
    assert together.present == ("chart", "scan", "wrist")
    assert model.predict(scan=np.array(row["scan"])).present == ("scan",)
    np.save("wrist.npy", wrist)
    from_file = model.predict(scan=row["scan"], wrist="wrist.npy", chart=json.dumps(chart))
    assert from_file.probabilities == together.probabilities
    same_rate = model.predict(wrist=Series(wrist, 50.0)).probabilities
    assert model.predict(wrist=wrist.tolist()).probabilities == same_rate
    assert model.predict(wrist=(np.repeat(wrist, 2, 0), 100)).probabilities != same_rate

    with pytest.raises(UserError, match="no modality is present"):
        model.predict(chart={"age": None, "ward": ""})
    with pytest.raises(UserError, match="a vector of 2 numbers, not 4"):
        model.predict(scan=[1.0, 2.0])

    folder = str(params.paths.ensemble)
    words = ["predict", "--model", folder, "--json"]
    scan = json.dumps(row["scan"])
    assert call(*words, "--input", f"scan={scan}", "--input", "wrist=wrist.npy") == 0
    assert json.loads(capsys.readouterr().out)["present"] == ["scan", "wrist"]

    write_patients(tmp_path, 12)
    table = [*words, "--manifest", "table.jsonl", "--out", "out.parquet"]
    columns = ["scan=scan", "wrist=x", "wrist=y", "chart=age", "chart=ward"]
    for column in columns:
        table += ["--columns", column]
    assert call(*table) == 0
    capsys.readouterr()
    rows = pq.read_table("out.parquet").to_pylist()
    assert [row["present"] for row in rows[:3]] == ["wrist", *2 * ["chart+scan+wrist"]]
    expected = list(together.probabilities.values())
    assert rows[2]["probabilities"] == pytest.approx(expected, rel=1e-5)

    assert call(*words[:3], "--manifest", "table.jsonl", "--out", "by-name.parquet") == 0
    present = [row["present"] for row in pq.read_table("by-name.parquet").to_pylist()]
    assert present[:3] == [None, "chart+scan", "chart+scan"]

    said = export.run(params.paths.ensemble, Path("onnx"))
    assert "7 of 7 subsets agree" in said
    made = json.loads(Path("onnx/export.json").read_text())["encoders"]["scan"]["made_as"]
    assert len(made["mean"]) == len(made["std"]) == 4

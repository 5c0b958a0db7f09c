"""Modalities with names of their own: two cameras and a note, through every stage."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from toys.models import call

import umemma
from umemma import config
from umemma.config import Finetune
from umemma.data import shard_reader
from umemma.errors import UserError
from umemma.stages import download, evaluate, export, finetune, preprocess, pretrain
from umemma.system.storage import Store

SETTINGS = """\
dataset: manifest
modalities: {front: image, kitchen: image, note: text}
preprocess:
  shard_size: 20
  options:
    table: table.csv
    columns: {front: front_photo, kitchen: kitchen_photo, note: words}
    label: what
encoders:
  front: {name: cnn:small, input: {size: 8, channels: 1}}
  kitchen: {name: cnn:small, input: {size: 8, channels: 1}}
  note: {name: text:cnn, input: {length: 8}}
pretrain: {epochs: 1, batch_size: 16}
finetune: {epochs: 1, batch_size: 16}
evaluate: {draws: 1, bootstrap: 20}
machine: {workers: 0}
"""


@pytest.fixture
def house(tmp_path, monkeypatch) -> Path:
    """Sixty houses with a photo of the front, one of the kitchen (not all) and a note."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(SETTINGS)
    raw = tmp_path / "data" / "raw" / "manifest"
    raw.mkdir(parents=True)
    chance = np.random.default_rng(0)
    with (raw / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["front_photo", "kitchen_photo", "words", "what"])
        for i in range(60):
            for room in ("front", "kitchen"):
                pixels = chance.integers(0, 255, (9, 9), np.uint8)
                Image.fromarray(pixels).save(raw / f"{room}{i}.png")
            kitchen = f"kitchen{i}.png" if i % 5 else ""
            rows.writerow([f"front{i}.png", kitchen, f"word {i}", "ab"[i % 2]])
    params = config.load_params()
    download.run("manifest", params.preprocess.options, "", params.modalities)
    return raw


def test_two_cameras_and_a_note_go_through_every_stage(house, capsys):
    params = config.load_params()
    index = preprocess.run(params, workers=1)
    assert index.modalities == ["front", "kitchen", "note"]
    assert index.kinds == {"front": "image", "kitchen": "image", "note": "text"}
    records = list(shard_reader.read_split(Store(params.paths.shards), index, "train"))
    assert {"front", "note"} <= set(records[0].media)
    assert sum("kitchen" not in record.media for record in records) > 0
    with tarfile.open(f"{params.paths.shards}/train-000000.tar") as tar:
        suffixes = {name.partition(".")[2] for name in tar.getnames()}
    assert suffixes == {"front.png", "kitchen.png", "note.txt", "json"}

    for modality in params.modalities:
        pretrain.run(params, modality)
    finetune.run(params)
    outcome = evaluate.run(params)
    subsets = {row.left for row in outcome.subsets if row.model == "ensemble"}
    assert len(subsets - {"worst"}) == 7
    assert "front+note" in subsets

    model = str(params.paths.ensemble)
    front = f"front={house}/front0.png"
    assert call("predict", "--model", model, "--input", front, "--text", "word 1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["present"] == ["front", "note"]
    assert call("predict", "--model", model, "--image", f"{house}/front0.png") == 2
    assert "several modalities of that kind: front, kitchen" in capsys.readouterr().err

    table = "table.csv"
    Path(table).write_text(f"note,front\nword 3,{house}/front1.png\n,{house}/front2.png\n")
    assert call("predict", "--model", model, "--manifest", table, "--out", "out.parquet") == 0
    assert "2 predicted" in capsys.readouterr().out
    export.run(params.paths.ensemble, Path("onnx"))
    assert Path("onnx/encoder-kitchen.onnx").is_file()


def test_a_subset_of_named_modalities_needs_no_new_shards(house):
    preprocess.run(config.load_params(), workers=1)
    one = config.load_params(sets=["modalities={front: image}", "encoders={}"])
    assert pretrain.run(one.model_copy(update={"encoders": config.load_params().encoders}), "front")


def test_two_cameras_share_an_encoder(house):
    """They are pretrained together, each alone; the ensemble starts from their average."""
    params = config.load_params(sets=["encoders.kitchen={same_as: front}", "finetune.preset=ume"])
    preprocess.run(params, workers=1)
    scores = {m: pretrain.run(params, m) for m in params.modalities}
    states = {m: load_file(params.paths.pretrain(m) / "model.safetensors") for m in scores}
    weights = "encoders.{}.layers.0.weight"
    assert torch.equal(
        states["front"][weights.format("front")], states["kitchen"][weights.format("kitchen")]
    )
    heads = [states[m][f"heads.{m}.weight"] for m in ("front", "kitchen")]
    assert not torch.equal(*heads)
    made = (params.paths.pretrain("kitchen") / "model.safetensors").stat().st_mtime_ns
    assert pretrain.run(params, "kitchen") == scores["kitchen"]  # trained with front, so kept
    assert (params.paths.pretrain("kitchen") / "model.safetensors").stat().st_mtime_ns == made

    finetune.run(params.model_copy(update={"finetune": Finetune(preset="ume-mma", epochs=1)}))
    model = umemma.load(params.paths.ensemble).model
    assert model.encoders["front"] is model.encoders["kitchen"]
    assert model.encoders["front"] is not model.encoders["note"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("encoders.kitchen={same_as: front, tune: frozen}", "no other key may stand beside it"),
        ("encoders.kitchen={same_as: hall}", "has to be another one of modalities"),
        ("encoders.kitchen={same_as: note}", "is of another kind"),
    ],
)
def test_what_cannot_be_shared_is_said(house, change, message):
    with pytest.raises(UserError, match=message):
        config.load_params(sets=[change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("modalities={front: imagge}", "unknown kind 'imagge'.*did you mean 'image'"),
        ("modalities={front: image, note: text}", "'kitchen' is of the unknown kind 'kitchen'"),
        ("modalities={json: image}", "'json' can't be the name of a modality"),
        ("modalities={a.b: image}", "'a.b' can't be the name of a modality"),
    ],
)
def test_what_is_wrong_with_names_and_kinds_is_said(house, change, message):
    with pytest.raises(UserError, match=message):
        preprocess.run(config.load_params(sets=[change]), workers=1)


def test_a_kind_that_differs_from_the_shards_is_refused(house):
    preprocess.run(config.load_params(), workers=1)
    sets = ["modalities={front: image, kitchen: image, note: audio}", "encoders.note=cnn:small"]
    with pytest.raises(UserError, match="note is of kind 'text' in the data, 'audio'"):
        pretrain.run(config.load_params(sets=sets), "front")

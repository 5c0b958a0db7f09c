"""A modality that the user wrote, in one file: the one of docs/own-modality.md."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from toys import documents
from toys.models import call

from umemma import config, modalities
from umemma.errors import UserError
from umemma.stages import download, evaluate, export, finetune, preprocess, pretrain

SHORT = """
pretrain: {epochs: 1, batch_size: 16}
finetune: {epochs: 1, batch_size: 16}
evaluate: {draws: 1, bootstrap: 20}
machine: {workers: 0}
"""
EXAMPLE = """

def make_example(generator):
    rows = generator.normal(20, 5, (8, 8))
    return "\\n".join(",".join(map(str, row)) for row in rows.tolist()).encode()
"""


@pytest.fixture
def thermal(tmp_path, monkeypatch) -> Path:
    """The file of the page, and a table of forty arrays, one of them broken and one empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "thermal", raising=False)
    code, settings = [block.text for block in documents.blocks("docs/own-modality.md")][:2]
    Path("thermal.py").write_text(code + EXAMPLE)
    Path("params.yaml").write_text(settings + SHORT)
    raw = tmp_path / "data" / "raw" / "manifest"
    raw.mkdir(parents=True)
    chance = np.random.default_rng(0)
    with (raw / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "words", "label"])
        for i in range(40):
            np.savetxt(raw / f"{i}.csv", chance.normal(20 + i % 2, 5, (8, 8)), delimiter=",")
            rows.writerow([f"{i}.csv", f"word {i}", "ab"[i % 2]])
    (raw / "0.csv").write_text("1,2\n3,4\n")
    (raw / "1.csv").write_text("")
    params = config.load_params()
    download.run("manifest", params.preprocess.options, "", params.modalities)
    return raw


def test_the_page_on_own_modalities_is_true(thermal, capsys):
    params = config.load_params(sets=["preprocess.max_failures=0.5"])
    index = preprocess.run(params, workers=2)
    assert index.kinds == {"heat": "import:thermal", "note": "text"}
    assert index.broken() == "1 x heat: not 8 by 8 numbers"
    for modality in params.modalities:
        pretrain.run(params, modality)
    finetune.run(params)
    subsets = {row.left for row in evaluate.run(params).subsets if row.model == "ensemble"}
    assert {"heat", "note", "heat+note"} <= subsets

    model = str(params.paths.ensemble)
    words = ["predict", "--model", model, "--input", f"heat={thermal}/3.csv", "--json"]
    assert call(*words) == 1
    assert "runs code of its author" in capsys.readouterr().err
    assert call(*words, "--trust") == 0
    assert json.loads(capsys.readouterr().out)["present"] == ["heat"]
    export.run(params.paths.ensemble, Path("onnx"), trust=True)
    assert Path("onnx/encoder-heat.onnx").is_file()


def test_a_changed_file_changes_the_shards(thermal):
    params = config.load_params(sets=["preprocess.max_failures=0.5"])
    before = preprocess.run(params, workers=1).list_shards()[0].input_hash
    with Path("thermal.py").open("a") as file:
        file.write("# another line\n")
    assert preprocess.run(params, workers=1).list_shards()[0].input_hash != before


def test_a_file_that_lacks_a_part_is_refused(thermal):
    Path("half.py").write_text("def pack(media, packing):\n    return None\n")
    with pytest.raises(UserError, match="lacks Input, decode, make_blank, finish"):
        modalities.get_module("import:half")
    with pytest.raises(UserError, match="no module 'nowhere'"):
        modalities.get_module("import:nowhere")

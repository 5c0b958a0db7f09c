"""`umemma export`: the files of every modality, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from toys.models import call, save_model
from toys.project import ROOT


@pytest.mark.slow
def test_every_modality_and_family(tmp_path, monkeypatch, capfd):
    """An image by timm, a text by a transformer, a video frame by frame; a multilabel task.

    The command line prints where the files are and how close they are to PyTorch, nothing else.
    """
    monkeypatch.chdir(tmp_path)
    more = {
        "image": {"name": "timm:resnet18", "input": {"size": 32}},
        "text": {"name": "text:transformer"},
    }
    thresholds = {"image": (0.25, 0.5, 0.125)}
    save_model(
        Path("m/model"), "image+text+video", task="multilabel", thresholds=thresholds, **more
    )
    assert call("export", "--model", "m/model") == 0
    captured = capfd.readouterr()
    assert captured.out.startswith(
        "ONNX models are in m/onnx, checked against PyTorch: 7 of 7 subsets agree"
    )
    assert captured.err == ""
    about = json.loads(Path("m/onnx/export.json").read_text())
    assert about["task"] == "multilabel"
    assert about["answer"]["thresholds"] == {"image": [0.25, 0.5, 0.125]}
    assert "above its threshold" in about["answer"]["rule"]
    assert about["fusion"]["present"]["columns"] == ["image", "text", "video"]
    assert about["encoders"]["text"]["input"] == {
        "name": "input",
        "shape": ["batch", 77],
        "type": "int64",
    }
    assert about["encoders"]["video"]["made_as"]["kind"] == "VideoInput"
    assert about["encoders"]["image"]["made_as"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    for path in Path("m/onnx").glob("*.onnx"):
        onnx.checker.check_model(path)
        assert str(ROOT).encode() not in path.read_bytes()


def test_what_is_exported_has_to_be_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("export", "--model", "nowhere") == 1
    assert "nowhere/model.json: not there yet" in capsys.readouterr().err

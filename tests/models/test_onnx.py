"""A trained model as ONNX: the same numbers, for every subset and any batch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from toys.models import save_model

import umemma
from umemma.errors import UserError
from umemma.evaluation.calibration import probabilities
from umemma.missing import make_keep_table
from umemma.models.fusions import FUSIONS
from umemma.models.onnx.export import Fusion, _export_fusion
from umemma.stages import export
from umemma.types import ImageInput


def answers(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path).run(None, inputs)


FITTED = {
    "audio": {"temperature": 0.5, "bias": [1.0, 0.0, -1.0]},
    "image": {"temperature": 3.0, "bias": []},
}


INPUTS = {
    "audio": torch.linspace(-1, 1, 3 * 176).view(3, 1, 16, 11),
    "image": torch.ones(3, 1, 16, 16),
}


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_the_fusion_gives_each_sample_its_own_subset(tmp_path, absent):
    """Compared with the model itself, in one batch of every subset, with NaN as absent features."""
    model = umemma.load(save_model(tmp_path / "model", absent=absent, calibration=FITTED))
    present = torch.from_numpy(make_keep_table(model.modalities))
    features, _ = model.model.encode(INPUTS, torch.ones(3, 2, dtype=torch.bool))
    holed = [f.where(present[:, i, None], torch.nan) for i, f in enumerate(features.values())]
    expected = model.logits(INPUTS, present)
    logits, chances = Fusion(model)(*holed, present)
    np.testing.assert_allclose(logits.detach(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(chances.detach(), probabilities(expected, "multiclass"), atol=1e-6)
    assert Fusion(model)(*holed, present & False)[0].isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("fusion", sorted(FUSIONS.keys() - {"fill-neighbour", "retrieve"}))
def test_other_fusions_are_exported_too(tmp_path, fusion):
    """One batch of every subset, with NaN as absent features, against the model itself."""
    model = umemma.load(save_model(tmp_path / "model", fusion=fusion, calibration=FITTED))
    _export_fusion(model, tmp_path / "fusion.onnx")
    present = torch.from_numpy(make_keep_table(model.modalities))
    features, _ = model.model.encode(INPUTS, torch.ones(3, 2, dtype=torch.bool))
    inputs = {"present": present.numpy()}
    for i, (m, x) in enumerate(features.items()):
        inputs[f"features_{m}"] = x.where(present[:, i, None], torch.nan).detach().numpy()
    logits, _ = answers(tmp_path / "fusion.onnx", **inputs)
    np.testing.assert_allclose(logits, model.logits(INPUTS, present), rtol=1e-4, atol=1e-5)


def test_a_fusion_that_searches_other_samples_is_not_exported(tmp_path):
    for fusion, message in (
        ("fill-neighbour", "preset fill-neighbour has no answer to a sample alone"),
        ("retrieve", "preset retrieve can't be exported"),
    ):
        folder = save_model(tmp_path / fusion, fusion=fusion)
        with pytest.raises(UserError, match=message):
            export.run(folder, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.slow
def test_the_files_give_what_the_model_gives(tmp_path):
    folder = save_model(tmp_path / "model", absent="blank", calibration=FITTED)
    assert "3 of 3 subsets agree" in export.run(folder, tmp_path / "onnx")
    model = umemma.load(folder)
    present, features = make_keep_table(model.modalities), {}
    for i, (m, x) in enumerate(INPUTS.items()):
        result = answers(tmp_path / "onnx" / f"encoder-{m}.onnx", input=x.numpy())[0]
        features[f"features_{m}"] = np.where(present[:, i, None], result, np.nan).astype(np.float32)
    logits, _ = answers(tmp_path / "onnx" / "fusion.onnx", **features, present=present)
    np.testing.assert_allclose(
        logits, model.logits(INPUTS, torch.from_numpy(present)), rtol=1e-4, atol=1e-5
    )


class Undecided(nn.Module):
    """Features that depend on a value, by Python: what no graph can hold."""

    def forward(self, x):
        return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)


class Sly(nn.Module):
    """Features that depend on the batch, by a number that a graph takes for a constant."""

    calls = 0

    def forward(self, x):
        Sly.calls += 1
        return x.flatten(1) + 100 * Sly.calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "message"),
    [(Undecided, "the image encoder can't be exported"), (Sly, "ONNX differs from PyTorch")],
)
def test_an_encoder_that_cannot_be_exported_leaves_nothing(tmp_path, monkeypatch, encoder, message):
    folder = save_model(
        tmp_path / "model",
        "image+text",
        image={"name": "cnn:small", "input": {"size": 8, "channels": 1}},
    )
    spec = ImageInput(size=8, channels=1)
    own = umemma.load(folder)
    own.model.encoders["image"] = nn.Sequential(encoder(), nn.Linear(64, 64)).requires_grad_(False)
    monkeypatch.setattr("umemma.models.predictor.load", lambda *_: own)
    assert own.specs["image"] == spec
    with pytest.raises(UserError, match=message):
        export.run(folder, tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_an_export_takes_the_place_of_an_older_one_and_of_nothing_else(tmp_path):
    folder = save_model(tmp_path / "model", "text")
    for _ in range(2):
        export.run(folder, tmp_path / "onnx")
        names = {"encoder-text.onnx", "fusion.onnx", "export.json", "tokenizer-text"}
        assert {path.name for path in (tmp_path / "onnx").iterdir()} == names
    before = sorted(path.name for path in folder.iterdir())
    for out in (folder, folder / "model.json"):
        with pytest.raises(UserError, match="holds something other than an export"):
            export.run(folder, out)
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{name} is not installed\n.*\[onnx\]"):
        export.run(tmp_path / "model", tmp_path / "onnx")

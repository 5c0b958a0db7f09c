"""finetune-ensemble: what it starts from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys.models import change_about
from toys.project import quick

from umemma.errors import UserError
from umemma.stages import finetune, pretrain
from umemma.system.files import sha256


@pytest.mark.slow
def test_pretrained_weights_are_where_the_baselines_from_scratch_start_too(project):
    pretrain.run(quick(), "image")
    weights = load_file("models/digits/pretrain/image/model.safetensors")
    start = {}
    for name, x in weights.items():
        if name.startswith("encoders"):
            start[name.removeprefix("encoders.image.")] = x
    save_file(start, "start.safetensors")
    params = quick(
        "finetune.preset=late-fusion",
        "encoders.image.weights=start.safetensors",
        "encoders.image.tune=frozen",
    )
    finetune.run(params)
    ensemble = load_file("models/digits/ensemble/model.safetensors")
    assert all(torch.equal(ensemble[f"encoders.image.{name}"], x) for name, x in start.items())


@pytest.mark.slow
def test_a_rival_that_starts_from_unimodal_models_needs_them(project):
    shutil.rmtree("models/digits/pretrain/image")
    with pytest.raises(UserError, match="not there yet") as error:
        finetune.run(quick("finetune.preset=simmlm"))
    assert "pretrain/image" in str(error.value)
    assert "umemma pretrain-unimodal --modality image" in str(error.value)


@pytest.mark.slow
def test_an_ensemble_of_other_unimodal_models_is_trained_again(project):
    """The settings are the same; the weights that it starts from aren't."""
    params = quick("finetune.epochs=1")
    finetune.run(params)
    first = Path("models/digits/ensemble/model.safetensors").read_bytes()
    folder = Path("models/digits/pretrain/image")
    weights = load_file(folder / "model.safetensors")
    save_file({name: x + 0.1 for name, x in weights.items()}, folder / "model.safetensors")
    change_about(folder, {"weights_sha256": sha256(folder / "model.safetensors")})
    finetune.run(params)
    assert Path("models/digits/ensemble/model.safetensors").read_bytes() != first

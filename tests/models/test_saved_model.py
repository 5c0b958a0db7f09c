"""The folder of a trained model: which format is read, and who may read the files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from toys.models import call, change_about, save_model
from toys.project import TESTS, quick

import umemma
from umemma.errors import UserError
from umemma.models import predictor, saved_model
from umemma.stages import evaluate, finetune, pretrain
from umemma.system.files import sha256
from umemma.training.run_folder import Run


@pytest.fixture
def place(tmp_path, monkeypatch, bert) -> Path:
    """The current directory, with the folder "bert" of a tiny text model."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def age(folder: Path) -> None:
    """Make of a folder what earlier versions wrote."""
    about = json.loads((folder / "model.json").read_text())
    del about["format"], about["hf"]
    (folder / "model.json").write_text(json.dumps(about))


@pytest.mark.slow
def test_a_model_of_another_version_is_refused_with_the_cure(project, capsys):
    """By every stage that reads one; the command that the error names makes it good."""
    params = quick()
    finetune.run(params)
    age(params.paths.ensemble)
    other = r"trained by another version of umemma \(format 1, this one reads 2\)"
    with pytest.raises(UserError, match=other) as caught:
        evaluate.run(params)
    assert caught.value.hint == "Run: umemma finetune-ensemble"
    with pytest.raises(UserError, match=other) as caught:
        umemma.load(params.paths.ensemble)
    assert caught.value.hint == predictor.REPAIR_HINT
    assert call("export") == 1
    assert "format 1, this one reads 2" in " ".join(capsys.readouterr().err.split())
    age(params.paths.pretrain("image"))
    with pytest.raises(UserError, match=other) as caught:
        finetune.run(params)
    assert caught.value.hint == "Run: umemma pretrain-unimodal --modality image"
    pretrain.run(params, "image")
    finetune.run(params)
    assert umemma.load(params.paths.ensemble).modalities == ["audio", "image"]


@pytest.mark.parametrize("saved_format", [1, 3, "2", None])
def test_only_this_format_is_read(tmp_path, saved_format):
    folder = save_model(tmp_path / "m", "image")
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | {"format": saved_format}))
    with pytest.raises(UserError, match=f"format {saved_format}, this one reads 2"):
        saved_model.check(folder, about["settings"], "")


def test_a_training_of_another_format_is_not_gone_on_with(tmp_path, monkeypatch):
    machine = quick().machine
    this = Run.from_settings(tmp_path, "x", {}, {}, machine)
    again = Run.from_settings(tmp_path, "x", {}, {}, machine)
    assert this.input_hash == again.input_hash
    monkeypatch.setattr(saved_model, "FORMAT", 1)
    other = Run.from_settings(tmp_path, "x", {}, {}, machine)
    assert other.input_hash != this.input_hash
    assert other.folder != this.folder


SAVING = """
import os, torch
from pathlib import Path
from toys.models import save_model
from umemma.training.run_folder import Run, TrainingState
for umask in (0o022, 0o077):
    os.umask(umask)
    save_model(Path(f"{umask:03o}", "m"), "text", text={"name": "hf:bert", "input": {"length": 8}})
    Run(Path(f"{umask:03o}", "runs"), "a").save_checkpoint(
        {"x": torch.ones(2)}, TrainingState(step=1)
    )
"""


@pytest.mark.slow
def test_files_are_readable_as_the_umask_says(place):
    """Cached features too: tests/training/test_feature_cache.py."""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", SAVING], env=os.environ | {"PYTHONPATH": path}, check=True
    )
    for folder, mode in (("022", 0o644), ("077", 0o600)):
        modes = {
            p.relative_to(folder).parts[0] + p.suffix: oct(p.stat().st_mode & 0o777)
            for p in Path(folder).rglob("*.*")
        }
        assert set(modes) == {"m.safetensors", "m.csv", "m.json", "runs.safetensors"}
        assert set(modes.values()) == {oct(mode)}


def test_every_changed_character_of_a_description_is_found(tmp_path):
    folder = save_model(tmp_path / "m", "image")
    path = folder / "model.json"
    whole = path.read_text()
    settings = json.loads(whole)["settings"]
    assert saved_model.check(folder, settings, "")
    for place, character in enumerate(whole):
        if character.isspace():
            continue
        path.write_text(whole[:place] + chr(ord(character) ^ 1) + whole[place + 1 :])
        with pytest.raises(UserError) as error:
            saved_model.check(folder, settings, "hint")
        assert error.value.hint == "hint"
    save_model(tmp_path / "n", "image")
    change_about(tmp_path / "n", {})  # as before there was a hash
    assert umemma.load(tmp_path / "n").modalities == ["image"]


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    folder = save_model(tmp_path / "m", "image")
    weights = load_file(folder / "model.safetensors")
    weights["heads.image.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    change_about(folder, {"weights_sha256": sha256(folder / "model.safetensors")})
    with pytest.raises(UserError, match=r"the weights heads\.image\.bias are not numbers"):
        umemma.load(folder)

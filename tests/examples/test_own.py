"""The examples of data, encoders and modalities of one's own run as their texts say."""

from __future__ import annotations

import ast
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from toys import documents
from toys.models import call
from toys.project import ROOT

EXAMPLES = ROOT / "examples"
SHORT = ("pretrain.epochs=1", "finetune.epochs=1", "evaluate.draws=1", "evaluate.bootstrap=20")
SHORT += ("machine.workers=0",)
SETTABLE = ("preprocess", "pretrain-unimodal", "finetune-ensemble", "evaluate")


def read_commands(name: str) -> list[str]:
    """Return the command lines of the docstring of an example."""
    text = ast.get_docstring(ast.parse((EXAMPLES / name).read_text()))
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [line for line in lines if line.split()[0] in ("cp", "python", "umemma")]


def run_commands(commands: list[str], monkeypatch) -> None:
    """Run commands in this process, with short trainings."""
    assert len(commands) > 3
    for command in commands:
        program, *words = shlex.split(command.replace("$UMEMMA", str(ROOT)))
        if program == "cp":
            shutil.copy(*words)
        elif program == "python":
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
        else:
            if words[0] in SETTABLE:
                words += [word for change in SHORT for word in ("--set", change)]
            if words[0] == "preprocess":
                words += ["--workers", "1"]
            assert call(*words) == 0, command


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """The folder in which the commands of own_table/README.md have run."""
    folder = tmp_path_factory.mktemp("own")
    (block,) = documents.blocks("examples/own_table/README.md")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_commands(block.commands(), patch)
    return folder


@pytest.fixture
def _fresh(monkeypatch) -> None:
    """Modules that the examples' folder names can be imported once more."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("own_encoder", "own_modality"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.slow
def test_a_table_comes_to_its_report(table):
    assert (table / "results/my-folder/report.html").is_file()
    rows = (table / "my-folder/table.csv").read_text().splitlines()[1:]
    assert any(row.startswith(",") for row in rows)  # no photo
    assert any(",," in row for row in rows)  # no caption


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh")
def test_an_own_encoder_is_trained(table, monkeypatch):
    monkeypatch.chdir(table)
    run_commands(read_commands("own_encoder.py"), monkeypatch)
    about = (table / "models/my-folder/ensemble/model.json").read_text()
    assert "import:own_encoder:make_encoder" in about


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh")
def test_an_own_modality_is_trained_and_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_commands(read_commands("own_modality.py"), monkeypatch)
    assert "from cloud" in capsys.readouterr().out
    about = (tmp_path / "models/clouds/ensemble/model.json").read_text()
    assert "import:own_modality" in about


def test_an_own_dataset_is_a_table_with_its_splits_and_groups(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_commands(read_commands("own_dataset.py"), monkeypatch)
    assert "train 24, val 12, test 12 samples" in capsys.readouterr().out
    settings = (tmp_path / "params.yaml").read_text()
    assert "split: split" in settings
    assert "group: group" in settings

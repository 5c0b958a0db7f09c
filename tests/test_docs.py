"""What the documents tell people to type."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from toys.project import ROOT

from umemma import config, datasets
from umemma._version import __version__
from umemma.cli import app
from umemma.config import PRESETS
from umemma.models.factory import input_specs
from umemma.validation import validate

README = (ROOT / "README.md").read_text()
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    ")]


def test_ci_runs_the_two_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    for words in ("dvc repro", "pytest"):
        (command,) = [
            line for line in COMMANDS if line.startswith("pip install") and line.endswith(words)
        ]
        assert f"{command} || exit 1" in script.splitlines()


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("umemma ")])
def test_umemma_lines_are_understood(line):
    command, *words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "0"))[1:]
    group = typer.main.get_command(app)
    group.commands[command].make_context(command, words)  # type: ignore[attr-defined]  # parses, runs nothing


def test_the_readme_lists_every_command_and_preset():
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"umemma {name}" in README
    for preset, switches in PRESETS.items():
        assert f"| `{preset}` | {' | '.join(switches)} |" in README


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_dataset_has_a_recipe_that_fits_it(name):
    params = config.load_params(ROOT / "recipes" / f"{name}.yaml")
    module = datasets.get_module(name)
    assert params.dataset == module.SPEC.name == name
    validate(module.Options, params.preprocess.options, "settings")
    params.check_modalities(module.SPEC.modalities)
    assert set(params.encoders) == set(params.modalities)
    input_specs({m: params.encoder(m) for m in params.modalities})
    assert f"| `{name}` |" in README


def test_the_shipped_settings_are_those_of_the_digits():
    assert config.load_params(ROOT / "params.yaml") == config.load_params(
        ROOT / "recipes" / "digits.yaml"
    )


def test_constraints_pin_versions_only():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line) for line in lines)


def test_the_changelog_knows_this_version():
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()

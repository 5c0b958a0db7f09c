"""The project run as its users run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from toys.project import QUICK, ROOT

PLOTS = ("robustness", "training", "information", "classes")
TRACKED = [".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml"]
TRACKED += [f".dvc/plots/{name}.json" for name in PLOTS]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that has to succeed.

    This environment's umemma and dvc come first on the path; the user's git settings are left out.
    """
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONWARNINGS": "",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    process = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process


def stages_run(process: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the names of the stages that a `dvc repro` ran."""
    lines = process.stdout.splitlines()
    return [line.split("'")[1] for line in lines if line.startswith("Running stage")]


def copy_pipeline(folder: Path) -> None:
    """Make a git repository with the project's pipeline, and settings for quick trainings."""
    for name in TRACKED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(
        ROOT / "umemma", folder / "umemma", ignore=shutil.ignore_patterns("__pycache__")
    )
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for change in QUICK:
        path, value = change.split("=")
        *sections, key = path.split(".")
        node = params
        for section in sections:
            node = node[section]
        node[key] = int(value)
    yaml.dump(params, folder / "params.yaml")
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", ".")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start")

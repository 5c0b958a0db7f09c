"""The project run as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


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

"""The project run as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command with this environment's umemma and dvc first on the path, and nothing of the user's git settings."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONWARNINGS": "",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def stages_run(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [
        line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")
    ]

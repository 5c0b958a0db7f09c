"""The command as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import umemma

COMMANDS = [
    "download",
    "preprocess",
    "pretrain-unimodal",
    "finetune-ensemble",
    "evaluate-missing",
    "evaluate",
    "datasets",
]


def run(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "umemma", *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_answers_at_once(tmp_path, command):
    words = [command, "--help"] if command else ["--help"]
    times = []
    for _ in range(3):
        before = os.times()
        done = run(*words, folder=tmp_path)
        after = os.times()  # processor time, so that a busy machine doesn't fail the test
        times.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert min(times) < 0.5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["compare", "doctor", "evaluate", "preprocess", "compare_table"])
def test_a_stage_that_can_do_without_torch_does(tmp_path, stage):
    """A question to kept predictions, say, is answered before torch is there."""
    code = f"import sys, umemma.stages.{stage}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_version_and_datasets(tmp_path):
    assert run("--version", folder=tmp_path).stdout == f"umemma {umemma.__version__}\n"
    assert "digits" in run("datasets", folder=tmp_path).stdout


def test_no_arguments_is_help(tmp_path):
    done = run(folder=tmp_path)
    assert done.returncode == 2
    assert "evaluate-missing" in done.stdout + done.stderr


def test_an_error_is_one_message_without_a_traceback(tmp_path):
    done = run("preprocess", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "Error: params.yaml: no such file\nRun umemma in the project root, or name a file with --params.\n"
    )


def test_shell_completion(tmp_path):
    done = run(
        folder=tmp_path, _UMEMMA_COMPLETE="complete_bash", COMP_WORDS="umemma fine", COMP_CWORD="1"
    )
    assert "finetune-ensemble" in done.stdout

"""umemma check: the pipeline on made samples, what fails in it, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

import pytest
from toys.project import ROOT

from umemma import cli
from umemma.stages.inspection import check


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The current directory and the folder of temporary files, both empty."""
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is read again
    return [tmp_path / "here", tmp_path / "temporary"]


def list_leftovers(places):
    return [path for place in places for path in place.iterdir()]


@pytest.mark.slow
def test_the_pipeline_works_here_and_leaves_nothing(places, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["check"])
    text = capsys.readouterr().out
    assert end.value.code == 0, text
    done = re.findall(r"^│ (\S+) +│ works │ +[\d.]+ │$", text, re.MULTILINE)
    assert done == [words[0] for words in check.STAGES]
    assert list_leftovers(places) == []


def test_a_stage_that_fails_ends_it_with_the_message_of_the_stage(places, capsys, monkeypatch):
    stages = [("download", "digit"), ("preprocess",)]
    monkeypatch.setattr(check, "STAGES", stages)
    with pytest.raises(SystemExit) as end:
        cli.main(["check"])
    assert end.value.code == 1
    shown = capsys.readouterr()
    assert "│ download │ failed │" in shown.out
    assert "preprocess" not in shown.out
    assert "Error: umemma download: dataset: unknown dataset 'digit'\nDid you mean" in shown.err
    assert list_leftovers(places) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_check_that_is_stopped_leaves_nothing(places, number, status):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "umemma", "check"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while not list(places[1].glob("*/download.log")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, shown = process.communicate(timeout=60)
    assert process.returncode == status
    assert f"stopped by {signal.Signals(number).name}" in shown.decode()
    assert list_leftovers(places) == []


def test_the_extras_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {}
    for name, packages in project["optional-dependencies"].items():
        if name not in ("dev", "docs"):
            extras[name] = tuple(re.match(r"[\w-]+", package)[0] for package in packages)
    assert extras == check.EXTRAS


def test_an_extra_that_is_not_installed_has_its_command(places, capsys, monkeypatch):
    monkeypatch.setattr(check, "EXTRAS", {"here": ("pytest",), "gone": ("pytest", "no-such")})
    monkeypatch.setattr(check, "STAGES", ())
    check.run()
    text = capsys.readouterr().out
    assert f"│ here  │ pytest {pytest.__version__}" in text
    assert "│ gone  │ not installed: pip install 'umemma[gone]' │" in text


def test_a_codec_needs_a_decoder_that_works_without_a_gpu(monkeypatch):
    assert check.can_decode("flac")
    assert not check.can_decode("no-such-codec")
    monkeypatch.setattr(check, "DECODERS", {"av1": ("no-such-decoder",)})
    assert not check.can_decode("av1")

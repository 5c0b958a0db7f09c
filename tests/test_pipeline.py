"""DVC runs the pipeline of the project, with quick trainings, in a scratch copy of the checkout."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from toys.commands import copy_pipeline, run, stages_run

pytestmark = pytest.mark.slow  # all tests share one run of the pipeline


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A git repository with the project's pipeline and quick settings, after one `dvc repro`."""
    folder = tmp_path_factory.mktemp("clone")
    copy_pipeline(folder)
    done = run(folder, "dvc", "repro")
    assert "accuracy per modality subset" in done.stdout
    assert "report: results/digits/report.md" in done.stdout
    return folder


def test_a_second_repro_does_nothing(clone):
    started = time.perf_counter()
    done = run(clone, "dvc", "repro")
    assert time.perf_counter() - started < 10  # 1 s on an idle machine
    assert "Data and pipelines are up to date." in done.stdout
    assert stages_run(done) == []


def test_asking_leaves_the_pipeline_up_to_date(clone):
    run(clone, "umemma", "evaluate", "--missing", "audio", "--ratio", "0.5")
    assert "Data and pipelines are up to date." in run(clone, "dvc", "repro").stdout


def test_git_sees_no_output_of_a_run_but_the_lock(clone):
    assert run(clone, "git", "status", "--porcelain").stdout.split() == ["??", "dvc.lock"]


def test_metrics_and_plots_are_shown(clone):
    shown = json.loads(run(clone, "dvc", "metrics", "show", "--json").stdout)
    metrics = next(iter(shown.values()))["data"]["results/digits/metrics.json"]["data"]
    assert 0 <= metrics["accuracy"]["audio+image"] <= 1
    run(clone, "dvc", "plots", "show")
    page = (clone / "dvc_plots" / "index.html").read_text()
    assert "share of samples that lose the modality" in page
    shutil.rmtree(clone / "dvc_plots")


def test_a_fine_tuning_value_re_runs_only_what_follows(clone):
    params = clone / "params.yaml"
    before = params.read_text()
    params.write_text(re.sub(r"(?m)^  mma:.*$", "  mma: none", before))
    assert stages_run(run(clone, "dvc", "repro")) == ["finetune-ensemble", "evaluate-missing"]
    metrics = json.loads((clone / "results/digits/metrics.json").read_text())
    assert (metrics["preset"], metrics["mma"]) == ("ume-finetune", "none")
    params.write_text(before)
    assert stages_run(run(clone, "dvc", "repro")) == []  # back from the cache


def test_an_experiment_runs_and_is_shown(clone):
    run(clone, "git", "config", "user.email", "t@t")
    run(clone, "git", "config", "user.name", "t")
    run(clone, "git", "add", ".")
    run(clone, "git", "commit", "-qm", "lock")
    run(clone, "dvc", "exp", "run", "-n", "plain", "-S", "finetune.mma=none")
    shown = run(clone, "dvc", "exp", "show", "--csv").stdout
    assert "plain" in shown
    assert "accuracy.audio+image" in shown

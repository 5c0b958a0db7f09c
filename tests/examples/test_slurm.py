"""The scripts of examples/slurm/ run, on a toy cluster that starts their processes."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from toys.project import ROOT, TESTS

from umemma.stages.inspection import check

SLURM = ROOT / "examples" / "slurm"
CLUSTER = TESTS / "toys" / "slurm"
SCRIPTS = sorted(path.name for path in SLURM.iterdir() if path.suffix in (".sh", ".sbatch"))
# Those of the 32 samples that `umemma check` makes, in four shards.
SETTINGS = {
    **check.SETTINGS,
    "finetune": {"epochs": 12, "batch_size": 8, "patience": 12, "keep_start": 0.0},
    "compare": {"presets": ["frozen"], "seeds": [0]},
    "machine": {"workers": 0, "checkpoint": 0},
}
SETTINGS["preprocess"] = {**check.SETTINGS["preprocess"], "shard_size": 8}


def environment(folder: Path) -> dict[str, str]:
    """Return that of a shell on the toy cluster whose state and socket are in a folder."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    path = os.pathsep.join([str(CLUSTER), str(Path(sys.executable).parent), os.environ["PATH"]])
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {
        **outside,
        "PATH": path,
        "PYTHONPATH": python_path,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PARTS": "2",
        "UMEMMA_SLURM": str(SLURM),
        "SLURM_TOY": str(folder / "cluster"),
        "WARM": str(folder / "socket"),
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Path]:
    """A folder with the settings and the raw files, whose commands run on a toy cluster."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "cluster").mkdir()
    check.write_samples(folder / "samples")
    YAML().dump(SETTINGS, folder / "params.yaml")
    variables = environment(folder)
    server = subprocess.Popen(
        [sys.executable, str(CLUSTER / "warm.py"), "serve", variables["WARM"]],
        env=variables,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with server:
        try:
            assert server.stdout.readline() == b"ready\n"
            call(folder, "umemma", "download", "--from", "samples")
            call(folder, str(SLURM / "submit.sh"))
            yield folder
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # with what it has forked


def call(site: Path, *words: str) -> str:
    """Run a command that has to succeed, and return what it prints."""
    done = subprocess.run(
        words, cwd=site, env=environment(site), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr + read_logs(site)
    return done.stdout


def read_logs(site: Path) -> str:
    logs = sorted((site / "cluster").glob("*.log"))
    return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in logs)


def read_states(site: Path) -> dict[str, str]:
    """Return {script, of an array with the task: how it ended} of all jobs."""
    states = {}
    for path in sorted((site / "cluster").glob("*.state")):
        number, _, task = path.stem.partition("_")
        words = (site / "cluster" / f"{number}.job").read_text().split()
        states[f"{number} {' '.join([Path(words[0]).stem, *words[1:], task])}".strip()] = (
            path.read_text()
        )
    return states


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_the_jobs_come_from_raw_files_to_results(site):
    states = read_states(site)
    assert states.pop("1 preprocess 0") == "FAILED"  # as it ends before the other part is there
    assert states == dict.fromkeys(
        [
            "1 preprocess 1",
            "2 preprocess 0",
            "3 pretrain 0",
            "3 pretrain 1",
            "4 finetune",
            "5 evaluate",
        ],
        "COMPLETED",
    )
    assert (site / "results/manifest/report.html").is_file()
    assert len(list((site / "logs").glob("*-finetune-ensemble*.log"))) == 2  # one per process


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["finetune.sbatch", pytest.param("dvc.sbatch", marks=pytest.mark.drill)]
)
def test_a_job_that_is_stopped_goes_back_into_the_queue_and_resumes(site, script):
    """The signal reaches the batch script alone. The model has the bytes of one without a stop."""
    ensemble = site / "models/manifest/ensemble"
    uninterrupted = read_files(ensemble)
    if script == "dvc.sbatch":  # one process instead of two
        uninterrupted = fine_tune_again(site)
        write_pipeline(site)
    shutil.rmtree(ensemble)
    submitted = subprocess.Popen(
        ["sbatch", str(SLURM / script)],
        cwd=site,
        env=environment(site),
        stdout=subprocess.PIPE,
        text=True,
    )
    with submitted:
        deadline = time.monotonic() + 120
        while find_last_step(site) < 5:
            assert submitted.poll() is None, read_logs(site)
            assert time.monotonic() < deadline, read_logs(site)
            time.sleep(0.01)
        number = max(int(path.stem) for path in (site / "cluster").glob("*.job"))
        os.kill(int((site / "cluster" / f"{number}.pid").read_text()), signal.SIGTERM)
        assert submitted.stdout.read() == f"{number}\n"
    log = (site / "cluster" / f"{number}.log").read_text()
    before, after = log.split("back into the queue")
    assert "at step" in before
    assert "resumes from step" in after
    assert (site / "cluster" / f"{number}.state").read_text() == "COMPLETED"
    assert read_files(ensemble) == uninterrupted


def fine_tune_again(site: Path) -> dict[str, bytes]:
    """Return the files of the ensemble that one process trains."""
    call(site, "umemma", "finetune-ensemble", "--force")
    return read_files(site / "models/manifest/ensemble")


def write_pipeline(site: Path) -> None:
    """Write a dvc.yaml with the stage that is stopped."""
    command = {"cmd": "umemma finetune-ensemble", "outs": ["models/manifest/ensemble"]}
    YAML().dump({"stages": {"finetune-ensemble": command}}, site / "dvc.yaml")
    call(site, "dvc", "init", "--no-scm", "--quiet")


def find_last_step(site: Path) -> int:
    """Return the step of the last checkpoint, 0 without one."""
    paths = site.glob("runs/manifest/*/step-*.safetensors")
    return max((int(path.stem.split("-")[1]) for path in paths), default=0)


@pytest.mark.drill
def test_the_jobs_of_a_comparison_come_to_its_table(site):
    call(site, str(SLURM / "submit.sh"), "compare")
    states = read_states(site)
    failed = {name for name, state in states.items() if state != "COMPLETED"}
    assert failed == {"1 preprocess 0"}  # of the first submission; now the shards are there
    jobs = [name.partition(" ")[2] for name in states if " compare " in name]
    of_modalities = ["compare compare-unimodal 0", "compare compare-unimodal 1"]
    assert sorted(jobs) == ["compare compare 0", *of_modalities, "compare table 0"]
    table = (site / "results/manifest/compare/compare.md").read_text()
    assert "frozen" in table


def test_the_scripts_pass_shellcheck():
    command = [str(Path(sys.executable).with_name("shellcheck")), "-x"]
    command += [str(SLURM / name) for name in SCRIPTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


def test_a_task_of_an_array_is_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(SLURM / "tasks.py"))
    settings = {**SETTINGS, "compare": {"presets": ["ume"], "seeds": [0, 1], "folds": [0, 1]}}
    YAML().dump(settings, Path("params.yaml"))
    assert list(names["list_tasks"]("pretrain")) == ["--modality audio", "--modality image"]
    assert list(names["list_tasks"]("compare")) == [
        "--preset ume --seed 0 --train complete --fold 0",
        "--preset ume --seed 1 --train complete --fold 0",
        "--preset ume --seed 0 --train complete --fold 1",
        "--preset ume --seed 1 --train complete --fold 1",
    ]
    settings["compare"] = {"presets": ["ume"], "seeds": [0], "folds": "all"}
    YAML().dump(settings, Path("params.yaml"))
    assert list(names["list_tasks"]("compare-unimodal")) == [
        "--modality audio --seed 0 --train complete",
        "--modality image --seed 0 --train complete",
    ]


def test_every_script_is_described():
    page = (SLURM / "README.md").read_text()
    for name in [*SCRIPTS, "tasks.py"]:
        assert f"`{name}`" in page

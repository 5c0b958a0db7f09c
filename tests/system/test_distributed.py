"""Several processes give the numbers of one, none waits for ever, and a killed training resumes.

torchrun really runs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from toys.project import QUICK, TESTS, quick
from toys.side_by_side import everything

from umemma.errors import UserError
from umemma.stages import evaluate, finetune
from umemma.system import distributed
from umemma.system.distributed import World

SETS = [word for change in QUICK for word in ("--set", change)]


def torchrun(processes: int, *words: str) -> list[str]:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    return [*launcher, *words]


def environment() -> dict[str, str]:
    """Return that of processes on the CPU, which there may be more of than GPUs."""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


def run(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "world"),
    [
        ({}, World(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, World(3, 8, 1)),
        (
            {"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1"},
            World(9, 16, 1),
        ),
        # A batch script without srun.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"}, World(0, 1, 0)),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "SLURM_PROCID": "5"}, World(0, 2, 0)),
    ],
)
def test_rank_and_world_size_come_from_the_environment(variables, world, monkeypatch):
    slurm = [name for name in os.environ if name.startswith("SLURM_")]
    for name in [*slurm, "RANK", "WORLD_SIZE", "LOCAL_RANK"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.world() == world


@pytest.mark.parametrize("rank", ["two", "2", "-1"])
def test_an_environment_that_makes_no_sense(monkeypatch, rank):
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"no valid rank: RANK={rank}, WORLD_SIZE=2"):
        distributed.world()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu[07-09,12],login1", "gpu07"),
        ("a-b[001,5]", "a-b001"),
        ("x1,x2", "x1"),
    ],
)
def test_the_first_machine_of_a_slurm_step(nodes, first):
    assert distributed._first_host(nodes) == first


def test_processes_that_share_a_gpu_are_named(monkeypatch):
    gpus = ["a", "b", "a", "c"]
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="a")
    )
    monkeypatch.setattr(distributed, "all_gather_object", lambda value: gpus)
    with pytest.raises(UserError, match="0, 2 of 4 processes share a GPU"):
        distributed._check_own_gpu(torch.device("cuda", 0))
    gpus[2] = "d"
    distributed._check_own_gpu(torch.device("cuda", 0))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("alone"))


def srun(processes: int, *words: str) -> None:
    """Start processes as Slurm starts the tasks of a step, each with its own environment."""
    step = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(processes),
        "SLURM_STEP_NODELIST": "localhost",
    }
    tasks = []
    for rank in range(processes):
        task = {**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        tasks.append(subprocess.Popen([sys.executable, *words], env=environment() | task))
    assert [task.wait(120) for task in tasks] == [0] * processes


# What they compute. -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "launcher"), [(2, "slurm"), (3, "torchrun")])
def test_several_processes_get_what_one_gets(tmp_path, alone, processes, launcher):
    words = (str(TESTS / "toys" / "side_by_side.py"), str(tmp_path))
    if launcher == "slurm":
        srun(processes, *words)
    else:
        run(torchrun(processes, *words))
    results = json.loads((tmp_path / "found.json").read_text())
    alone = dict(alone)
    assert results.keys() == alone.keys()
    for name in ("rows of one", "rows of one table"):
        rows_of_one, *rows_of_others = results.pop(name)
        (expected,) = alone.pop(name)
        assert flatten(rows_of_one) == pytest.approx(flatten(expected), rel=1e-4), name
        assert rows_of_others == [[]] * (processes - 1)
    for name, expected in alone.items():
        if name in ("all", "drop", "parts", "holes", "embracenet", "gated", "retrieve"):
            # They add up the same numbers in another order.
            for key, values in expected.items():
                approximate = pytest.approx(flatten(values), rel=1e-4, abs=1e-6)
                assert flatten(results[name][key]) == approximate, (name, key)
        elif "figures" in name or "logits" in name:
            assert flatten(results[name]) == pytest.approx(flatten(expected), rel=1e-4), name
        else:
            assert results[name] == expected, name
    assert results["rows"] == [[i, -i] for i in range(10)]
    assert results["rows in blocks"] == list(range(10))
    assert results["logits in blocks"] == results["logits"]
    assert results["error of one"] == "file: broken here\nMend it."
    assert results["NaN"][0].startswith("the loss is not finite at step")


def flatten(values: Any) -> list[float]:
    if not isinstance(values, list):
        return [values]
    numbers = []
    for value in values:
        numbers.extend(flatten(value))
    return numbers


@pytest.mark.slow
def test_the_evaluation_in_three_processes_scores_as_in_one(project):
    """Each sample is predicted once: the same order of predictions, and the same accuracies."""
    finetune.run(quick())
    results = project / "results" / "digits"
    scores = []
    keys = []
    for processes in (1, 3):
        if processes == 1:
            evaluate.run(quick())
        else:
            text = run(torchrun(processes, "-m", "umemma", "evaluate-missing", *SETS))
            assert text.count("report: ") == 1  # only rank 0 prints results
        scores.append(json.loads((results / "metrics.json").read_text()))
        keys.append(pq.read_table(results / "predictions.parquet")["key"].to_pylist())
    assert scores[0] == scores[1]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == len(keys[0]) == 450


@pytest.mark.slow
def test_an_error_of_all_processes_is_reported_once(project):
    words = ("-m", "umemma", "pretrain-unimodal", *SETS, "--set", "pretrain.batch_size=1")
    done = subprocess.run(
        torchrun(2, *words),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )
    assert done.stderr.count("a batch of 1 leaves some of 2 processes without a sample") == 1
    assert "UserError" not in done.stderr  # the only traceback is torchrun's own


# Killed and resumed. ------------------------------------------------------------------------------


def list_checkpoints(project: Path) -> list[int]:
    """Return the steps of the checkpoints."""
    paths = project.glob("runs/digits/*/step-*.safetensors")
    return sorted(int(path.stem.split("-")[1]) for path in paths)


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def empty_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def stop(
    command: list[str],
    project: Path,
    step: int,
    how: Callable[[subprocess.Popen], None],
) -> int:
    """Start a training, stop it when it has reached `step`, and return its exit status."""
    with subprocess.Popen(
        command,
        env=environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while max(list_checkpoints(project), default=0) < step:
            assert process.poll() is None, "it ended before it was stopped"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        how(process)
        return process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "model"),
    [
        pytest.param(
            "pretrain-unimodal --modality image --set pretrain.epochs=3",
            "pretrain/image",
            marks=pytest.mark.drill,  # which kills it at twenty moments more
        ),
        ("finetune-ensemble --set finetune.epochs=3", "ensemble"),
    ],
)
def test_a_training_killed_at_any_moment_resumes_to_the_same_weights(project, stage, model):
    words = stage.split()
    command = [sys.executable, "-m", "umemma", *words, *SETS, "--set", "machine.checkpoint=0"]
    command += words[-2:]  # the last of two --set wins
    out = project / "models/digits" / model
    run(command)
    uninterrupted = read_files(out)
    empty_folder(out)
    assert stop(command, project, 5, lambda process: process.kill()) == -signal.SIGKILL
    assert stop(command, project, 40, lambda process: process.terminate()) == 75
    assert "resumes from step" in run(command)
    assert read_files(out) == uninterrupted
    assert list_checkpoints(project) == []
    assert "is trained with these settings already" in run(command)


@pytest.mark.slow
def test_a_training_resumes_after_one_of_two_processes_was_killed(project):
    sets = [*SETS, "--set", "machine.checkpoint=0", "--set", "finetune.epochs=2"]
    command = torchrun(2, "-m", "umemma", "finetune-ensemble", *sets)
    out = project / "models/digits/ensemble"
    run(command)
    uninterrupted = read_files(out)
    empty_folder(out)

    def kill_one(launcher: subprocess.Popen) -> None:
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)

    assert stop(command, project, 20, kill_one) != 0
    steps = list_checkpoints(project)
    assert steps
    assert f"resumes from step {steps[-1]}" in run(command)
    assert read_files(out) == uninterrupted


LOSE_ONE = """
import os
import umemma.cli
from umemma.system import distributed

def lose_the_other(arguments):
    distributed.init()
    distributed.all_gather_object(1)
    if os.environ["RANK"] == "1":
        os._exit(9)
    distributed.all_gather_object(2)

umemma.cli.app = lose_the_other
umemma.cli.main([])
"""


def test_the_process_that_is_left_says_so_in_one_message(tmp_path):
    """Without torchrun, which ends all processes with the first, as under srun."""
    script = tmp_path / "lose_one.py"
    script.write_text(LOSE_ONE)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = []
    for rank in ("0", "1"):
        variables = environment() | shared | {"RANK": rank, "LOCAL_RANK": rank}
        command = [sys.executable, str(script)]
        processes.append(
            subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
        )
    (_, errors), _ = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [1, 9]
    assert errors.splitlines() == [
        "Error: process 1 of 2: another process of this run has ended, or can't be reached",
        "Its own message says why. Run the same command to resume.",
    ]


COUNT_THREADS = """
import os, sys
from umemma.cli import main
try:
    main(sys.argv[1:])
finally:
    tasks = [f"/proc/self/task/{task}/comm" for task in os.listdir("/proc/self/task")]
    names = [open(task).read().strip() for task in tasks]
    print("threads of gloo:", names.count("pt_gloo_runloop"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "exit_status", "message"),
    [
        ("finetune.epochs=1", 0, "best of 1 epoch"),
        ("finetune.learning_rate=1e30", 1, "the loss is not finite"),
    ],
)
def test_no_thread_of_gloo_is_left_to_abort_the_end_of_python(
    project, tmp_path, change, exit_status, message
):
    script = tmp_path / "count_threads.py"
    script.write_text(COUNT_THREADS)
    words = ["finetune-ensemble", *SETS, "--set", change]
    command = torchrun(2, "--redirects", "3", "--log-dir", str(tmp_path / "logs"), str(script))
    done = subprocess.run([*command, *words], timeout=240, env=environment(), check=False)
    assert done.returncode == exit_status
    printed = {path: path.read_text() for path in (tmp_path / "logs").rglob("stdout.log")}
    assert len(printed) == 2
    for text in printed.values():
        assert "threads of gloo: 0" in text
    errors = "".join(path.read_text() for path in (tmp_path / "logs").rglob("stderr.log"))
    assert message in errors


def test_the_device_is_that_of_the_settings(monkeypatch):
    for count, wanted, device in ((0, None, "cpu"), (2, "cpu", "cpu"), (2, None, "cuda:0")):
        show_gpus(monkeypatch, count)
        assert str(distributed.init(wanted)) == device
    assert str(distributed.init("cuda:1")) == "cuda:1"
    for count, seen in ((0, "PyTorch sees no GPU"), (2, "PyTorch sees 2, cuda:0 to cuda:1")):
        show_gpus(monkeypatch, count)
        with pytest.raises(UserError, match=f"cuda:2 isn't there: {seen}"):
            distributed.init("cuda:2")


def show_gpus(monkeypatch, count: int) -> None:
    """Make torch see this many GPUs."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)

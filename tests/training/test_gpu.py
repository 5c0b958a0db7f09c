"""On a GPU every precision learns, repeats to the byte, and answers as the CPU does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.models import RATE, get_probabilities, make_noise, make_picture
from toys.project import QUICK, TESTS, quick

from umemma.models.predictor import load
from umemma.stages import finetune, pretrain
from umemma.system.clock import GpuDataClock

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]
PRECISIONS = ("fp32", "bf16", "fp16")
NCCL = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import numpy as np
import torch
from torch import distributed as dist
from toys.training import COMPLETE, toy_model, toy_split
from umemma.system import distributed
from umemma.training.data_parallel import wrap_step
from umemma.training.step import PatternStep

device = torch.device("cuda", 0)
distributed._join_process_group(device)
number = torch.ones(1, device=device)
dist.all_reduce(number)
print(dist.get_backend_config(), "sum", float(number))
(batch,) = toy_split(32).batches([np.arange(32)], device)
gradients = []
for wrap in (False, True):
    model = toy_model().to(device)
    step = PatternStep(model, COMPLETE, draw_one=False)
    if wrap:
        step = wrap_step(step, batch)
    step(batch).backward()
    gradients.append([p.grad for p in model.parameters() if p.grad is not None])
print("equal", all(torch.equal(a, b) for a, b in zip(*gradients, strict=True)))
distributed.shutdown()
"""


def read_weights(project: Path, model: str) -> bytes:
    return (project / "models" / "digits" / model / "model.safetensors").read_bytes()


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_only_what_the_gpu_waits_counts_as_waiting():
    """While it computes, batches may take their time."""

    def make_batches():
        for _ in range(2):
            time.sleep(0.2)
            yield 0

    waited = []
    for cycles in (0, 2**30):  # half a second
        clock = GpuDataClock(make_batches())
        next(clock)
        torch.cuda._sleep(cycles)
        next(clock)
        waited.append(clock.read_waited())
    assert waited == [pytest.approx(0.4, abs=0.1), pytest.approx(0.2, abs=0.1)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_trainings_repeat_to_the_byte(project, precision):
    params = quick(f"pretrain.precision={precision}", f"finetune.precision={precision}")
    weights = []
    for _ in range(2):
        for modality in params.modalities:
            pretrain.run(params, modality, force=True)
        finetune.run(params, force=True)
        weights.append([read_weights(project, m) for m in ("pretrain/image", "ensemble")])
    assert weights[0] == weights[1]
    assert torch.cuda.max_memory_allocated() > 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # by the compiler
@pytest.mark.parametrize(
    "change",
    [*(f"pretrain.precision={name}" for name in PRECISIONS), "pretrain.compile=true"],
)
def test_it_learns_what_the_cpu_learns_in_full_precision(project, monkeypatch, change):
    epochs = "pretrain.epochs=5"
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        expected = pretrain.run(quick(epochs), "image", force=True)
    assert expected > 0.5
    score = pretrain.run(quick(epochs, change), "image", force=True)
    assert score == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stopped_training_resumes_to_the_same_weights(project, precision):
    sets = [*QUICK, "machine.checkpoint=0", "finetune.epochs=4", f"finetune.precision={precision}"]
    words = ["umemma", "finetune-ensemble"]
    for change in sets:
        words += ["--set", change]
    whole = start(*words)
    output = whole.communicate(timeout=240)[0]
    assert whole.returncode == 0, output
    uninterrupted = read_weights(project, "ensemble")
    for file in (project / "models/digits/ensemble").iterdir():
        file.unlink()
    stopped = start(*words)
    deadline = time.monotonic() + 120
    while not list(project.glob("runs/digits/*/step-*5.safetensors")):
        assert stopped.poll() is None, stopped.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stopped.kill()
    stopped.communicate()
    resumed = start(*words)
    output = resumed.communicate(timeout=240)[0]
    assert "resumes from step" in output
    assert read_weights(project, "ensemble") == uninterrupted


def test_it_answers_as_the_cpu_does(place):
    media = {"image": make_picture(), "audio": (make_noise(), RATE)}
    answers = []
    for device in ("cpu", "cuda"):
        model = load(place / "model", device=device)
        for names in (["image"], ["audio"], ["audio", "image"]):
            prediction = model.predict(**{m: media[m] for m in names})
            answers.append(get_probabilities(prediction))
    on_cpu, on_gpu = answers[:3], answers[3:]
    assert np.concatenate(on_gpu) == pytest.approx(np.concatenate(on_cpu), abs=1e-4)


def test_gradients_through_nccl_are_those_of_one_process(tmp_path):
    script = tmp_path / "nccl.py"
    script.write_text(NCCL)
    launcher = start("torch.distributed.run", "--standalone", "--nproc-per-node", "1", str(script))
    output = launcher.communicate(timeout=240)[0]
    assert "cuda:nccl" in output
    assert "sum 1.0" in output
    assert "equal True" in output


def test_two_processes_on_one_gpu_are_told_so(project):
    if torch.cuda.device_count() > 1:
        pytest.skip("this machine has several GPUs")
    words = ["umemma", "finetune-ensemble"]
    for change in QUICK:
        words += ["--set", change]
    launcher = start("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *words)
    output = launcher.communicate(timeout=240)[0]
    assert launcher.returncode == 1
    assert output.count("0, 1 of 2 processes share a GPU") == 1

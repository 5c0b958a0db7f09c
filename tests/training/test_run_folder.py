"""Checkpoints of a training in progress: complete or absent, the newest valid one, no pickles."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from umemma.training.run_folder import MetricRow, Run, TrainingState


def save_checkpoints(folder: Path, steps: list[int], input_hash: str = "a", keep: int = 2) -> Run:
    run = Run(folder, input_hash, keep=keep, seconds=0)
    for step in steps:
        run.save_checkpoint({"weight": torch.full((2,), float(step))}, TrainingState(step=step))
    return run


def test_the_last_few_are_kept_and_the_newest_is_taken(tmp_path):
    run = save_checkpoints(tmp_path, [5, 10, 15])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000010.safetensors",
        "step-000000015.safetensors",
    ]
    tensors, state = run.load_latest_checkpoint()
    assert state == TrainingState(step=15)
    assert tensors["weight"].tolist() == [15.0, 15.0]


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_damaged_one_costs_only_itself(tmp_path, size, messages):
    run = save_checkpoints(tmp_path, [5, 10])
    newest = tmp_path / "step-000000010.safetensors"
    newest.write_bytes(newest.read_bytes()[:size])
    assert run.load_latest_checkpoint().state == TrainingState(step=5)
    assert any("damaged" in message for message in messages)


def test_every_flipped_bit_costs_only_its_checkpoint(tmp_path, messages):
    newest = tmp_path / "step-000000010.safetensors"
    save_checkpoints(tmp_path, [10])
    whole = newest.read_bytes()
    for place in range(len(whole)):
        run = save_checkpoints(tmp_path, [5])
        newest.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        assert run.load_latest_checkpoint().state == TrainingState(step=5), place
        assert not newest.exists()
    assert len(messages) == len(whole)


def test_tensors_of_every_kind_come_back(tmp_path):
    tensors = {
        "scalar": torch.tensor(3.0),
        "none": torch.zeros(0, 4),
        "count": torch.tensor([1, 2]),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }
    run = Run(tmp_path, "a")
    run.save_checkpoint(tensors, TrainingState(step=1))
    loaded = run.load_latest_checkpoint().tensors
    assert {name: x.tolist() for name, x in loaded.items()} == {
        name: x.tolist() for name, x in tensors.items()
    }


def test_tied_weights_are_saved_apart(tmp_path):
    run = Run(tmp_path, "a")
    shared = torch.arange(3.0)
    run.save_checkpoint({"one": shared, "other": shared}, TrainingState(step=1))
    assert run.load_latest_checkpoint().tensors["other"].tolist() == [0.0, 1.0, 2.0]


def test_those_of_other_settings_are_not_taken(tmp_path):
    save_checkpoints(tmp_path, [5], "other")
    assert Run(tmp_path, "a").load_latest_checkpoint() is None


def test_nothing_to_resume_from(tmp_path):
    assert Run(tmp_path / "none", "a").load_latest_checkpoint() is None


def test_at_the_end_the_metrics_remain(tmp_path):
    run = save_checkpoints(tmp_path, [5])
    run.start_metrics([MetricRow(1, 1, "train", "loss", 0.5)])
    run.append_metrics([MetricRow(2, 1, "val", "score", 1.0)])
    run.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    text = (tmp_path / "metrics.csv").read_text()
    assert text.splitlines() == [
        "step,epoch,split,name,value",
        "1,1,train,loss,0.5",
        "2,1,val,score,1.0",
    ]
    assert text.endswith("\n")


def test_a_full_disk_costs_the_new_checkpoint_and_not_the_one_before(tmp_path, messages):
    """Files may grow to 1000 bytes: as where a disk is full."""
    run = save_checkpoints(tmp_path, [5])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        run.save_checkpoint({"weight": torch.zeros(100_000)}, TrainingState(step=10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert run.load_latest_checkpoint().state == TrainingState(step=5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005.safetensors"]
    assert any("No checkpoint at step 10" in message for message in messages)


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from umemma.system.files import new_file\n"
        "with new_file(Path(sys.argv[1]) / 'step-000000009.safetensors') as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    save_checkpoints(tmp_path, [10])
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000010.safetensors"]


def test_only_numbers_and_text_are_read(tmp_path):
    """A pickle under the name of a checkpoint is not opened as one."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save(Evil(), tmp_path / "step-000000001.safetensors")
    assert Run(tmp_path, "a").load_latest_checkpoint() is None
    assert not (tmp_path / "pwned").exists()

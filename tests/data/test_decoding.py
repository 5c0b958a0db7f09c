"""DataLoader workers: errors, signals, and their death."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from toys.loading import CPU, MANY, SPECS, load, many
from toys.project import ROOT, TESTS

from umemma.data.decoding import BatchStream, SampleDataset
from umemma.data.loader import cut_batches
from umemma.data.sample_table import MediaTable, Spans, compute_checksum
from umemma.errors import UserError
from umemma.system.storage import Store


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_decoded_is_named(tmp_path, stay, workers):
    data = b"not a picture"
    (tmp_path / "file").write_bytes(data)
    columns = np.array([[0], [0], [len(data)], [compute_checksum(data)]], np.uint64)
    media = MediaTable(Store(str(tmp_path)), ["bad"], ["file"], {"image": Spans(*columns)})
    dataset = SampleDataset(media, {"image": SPECS["image"]}, "train shards")
    streamed = BatchStream(dataset, workers, stay)
    with pytest.raises(UserError, match="sample 'bad': not a readable image") as error:
        list(streamed.iterate_batches([np.array([0])]))
    assert "Traceback" not in str(error.value)


KILLED = """
import contextlib, os, pathlib, signal, sys, time
import torch
from toys.loading import CPU, MANY, load, many
from umemma.errors import UserError
from umemma.data.decoding import watch_workers
from umemma.data.loader import cut_batches

if __name__ == "__main__":
    with contextlib.ExitStack() as stay:
        folder = pathlib.Path(sys.argv[1])
        split = load(folder, stay, MANY, many(folder), memory=0.0, workers=1)
        batches = split.batches(cut_batches(range(40), 1), CPU)
        next(batches)
        try:
            with watch_workers():
                os.kill(split.stream.loader._iterator._workers[0].pid, signal.SIGKILL)
                for _ in batches:
                    time.sleep(0.1)
        except UserError as error:
            for _ in range(2):  # torch may raise its complaint once more, in between
                with contextlib.suppress(RuntimeError):
                    print(error, flush=True)
            os._exit(0)
"""


@pytest.mark.slow
def test_a_killed_decoding_process_is_one_message(tmp_path):
    """In a process of its own: torch goes on to complain of the worker to whoever runs next."""
    (tmp_path / "killed.py").write_text(KILLED)
    words = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path / "s")]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert "machine.workers: a decoding process was killed" in done.stdout, done.stderr


class Reset:
    """A loader whose process is gone as it is asked for the tensors of a batch."""

    def __iter__(self):
        raise ConnectionResetError("by peer")


def test_a_process_that_dies_handing_over_a_batch_is_the_same_message(stay):
    media = MediaTable(Store(""), [], [], {})
    streamed = BatchStream(SampleDataset(media, {}, "train shards"), 0, stay)
    streamed.loader = Reset()
    with pytest.raises(UserError, match="a decoding process was killed"):
        list(streamed.iterate_batches([]))


@pytest.mark.slow
def test_a_signal_to_the_whole_group_is_left_to_the_training(tmp_path, stay):
    split = load(tmp_path, stay, MANY, many(tmp_path), memory=0.0, workers=1)
    batches = split.batches(cut_batches(range(40), 1), CPU)
    next(batches)
    (worker,) = split.stream.loader._iterator._workers
    os.kill(worker.pid, signal.SIGTERM)
    assert sum(1 for _ in batches) == 39


@pytest.mark.slow
def test_a_decoding_process_does_not_outlive_a_signal_for_long():
    code = "import os, signal, time; from umemma.data import decoding; "
    code += "decoding.GRACE = 1; decoding.defer_signals(0); "
    code += "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    assert (
        subprocess.run([sys.executable, "-c", code], timeout=50, check=False).returncode
        == -signal.SIGALRM
    )


@pytest.mark.slow
def test_decoding_processes_end_with_the_block_whoever_holds_on_to_them(tmp_path):
    with contextlib.ExitStack() as stay:
        split = load(tmp_path, stay, MANY, many(tmp_path), memory=0.0, workers=1)
        batches = split.batches(cut_batches(range(40), 1), CPU)
        next(batches)
        (worker,) = split.stream.loader._iterator._workers
        assert worker.is_alive()
    assert not worker.is_alive()

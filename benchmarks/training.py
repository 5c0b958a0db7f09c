"""Measure how fast training is, against other loops that train the same model on the same samples.

    python benchmarks/training.py epoch       # a per-sample DataLoader, and tensors in memory
    python benchmarks/training.py streamed    # with a memory budget of 0: decoded for each batch
    python benchmarks/training.py frozen      # cached features, and the encoder run in every epoch
    python benchmarks/training.py processes   # two gloo processes and one, a thread each

The loops take turns, `--rounds` times, in processes of their own. A ratio is that of the medians of
seconds per epoch; the first epoch (start of workers, first decoding) is left out. The data are
digits, audio and image; the encoders are `cnn:small`, in batches of 64 (`processes`: of 256).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from file_dataset import write_files

if TYPE_CHECKING:
    from torch import Tensor, nn

    from umemma.config import Params, Training
    from umemma.data.loader import LoadedSplit
    from umemma.models.late_fusion import LateFusion
    from umemma.training.train import DataSource
    from umemma.types import InputSpec

PROJECT = Path(__file__).resolve().parent.parent
BATCH_SIZE = 64
EPOCHS = 4
TRAIN_SAMPLES = 3234
LARGE_MEMORY = 1000.0  # GiB: everything stays in memory
PROCESS_EPOCHS = 8
SPEED = re.compile(r"DEBUG.* ([\d,]+) samples/s, ")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=[*BENCHMARKS, "processes", *LOOPS])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what in LOOPS:
        print(LOOPS[arguments.what]())
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        prepare_project()
        if arguments.what == "processes":
            compare_processes(arguments.rounds)
        else:
            compare_loops(BENCHMARKS[arguments.what], arguments.rounds)


def prepare_project() -> None:
    """Make the shards of digits in the current folder, and the same samples as files."""
    shutil.copy(PROJECT / "params.yaml", "params.yaml")
    for stage in ("download", "preprocess"):
        command = [sys.executable, "-m", "umemma", stage]
        subprocess.run(command, check=True, capture_output=True)
    write_files()


def compare_loops(names: tuple[str, ...], rounds: int) -> None:
    """Compare the last of the loops, which is umemma's, with each of the others."""
    loops = {name: partial(run_loop, name) for name in names}
    times = take_turns(loops, rounds)
    *others, ours = names
    for other in others:
        print_ratio(times, ours, other)


def compare_processes(rounds: int) -> None:
    times = take_turns(
        {
            "1 process": partial(run_command, 1),
            "2 processes": partial(run_command, 2),
        },
        rounds,
    )
    print_ratio(times, "2 processes", "1 process")


def take_turns(loops: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Run every loop in turn. Return {name: median seconds per epoch}."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, run in loops.items():
            times[name].append(run())
    print(f"\n{'':20}{'s per epoch':>12}{'spread':>9}")
    medians = {}
    for name, seconds in times.items():
        medians[name] = statistics.median(seconds)
        spread = max(seconds) - min(seconds)
        print(f"{name:20}{medians[name]:12.4f}{spread:9.4f}")
    return medians


def print_ratio(times: Mapping[str, float], ours: str, other: str) -> None:
    ratio = times[ours] / times[other]
    print(f"{ours}: {ratio:.3f} of the time of {other}, {1 / ratio:.2f} x its speed")


def run_loop(name: str) -> float:
    """Run a loop of LOOPS in a process of its own. Return its seconds per epoch."""
    process = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), name],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(process.stdout.splitlines()[-1])


def run_command(processes: int) -> float:
    """Run `umemma finetune-ensemble --preset late-fusion`, one thread for each process.

    Returns the seconds per epoch by its log; the first two of eight epochs are left out.
    """
    launcher = []
    pattern = "*"
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(processes)]
        pattern = "*-0.log"
    command = ["-m", "umemma", "finetune-ensemble", "--preset", "late-fusion"]
    command += ["--set", f"finetune.scratch.epochs={PROCESS_EPOCHS}"]
    command += ["--set", "finetune.batch_size=256"]
    for folder in ("logs", "models"):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(
        [sys.executable, *launcher, *command],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    text = "".join(log.read_text() for log in Path("logs").glob(pattern))
    speeds = [float(speed.replace(",", "")) for speed in SPEED.findall(text)]
    assert len(speeds) == PROCESS_EPOCHS
    return statistics.median(TRAIN_SAMPLES / speed for speed in speeds[2:])


# What all loops have in common. -------------------------------------------------------------------


def load_setting() -> tuple[Params, DataSource]:
    """Return the settings of the project in the current folder, and its shards."""
    from umemma import config
    from umemma.models import factory

    params = config.load_params()
    encoders = {name: params.encoder(name) for name in params.modalities}
    return params, make_data_source(params, factory.input_specs(encoders), LARGE_MEMORY)


def make_data_source(
    params: Params,
    specs: Mapping[str, InputSpec],
    memory: float,
) -> DataSource:
    from umemma.config import Machine
    from umemma.data import shard_reader
    from umemma.system.storage import Store
    from umemma.training.train import DataSource

    store = Store(params.paths.shards)
    index = shard_reader.read_index(store)
    return DataSource(store, index, specs, Machine(memory=memory), seed=0)


def build_model(params: Params, data: DataSource) -> LateFusion:
    import torch

    from umemma.models import factory

    torch.manual_seed(0)
    encoders = {name: params.encoder(name) for name in params.modalities}
    return factory.build(encoders, data.specs, data.index.classes)


def time_plain_loop(make_batches: Callable[[], Any]) -> float:
    """Train by a plain loop. Return the median seconds of an epoch, without the first."""
    import torch

    from umemma.training.reproducibility import prepare
    from umemma.types import Batch

    prepare(0, "bench")  # the same kernels and memory for all
    params, data = load_setting()
    model = build_model(params, data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    model.train()
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for audio, image, target in make_batches():
            present = torch.ones(len(target), 2, dtype=torch.bool)
            logits = model(Batch({"audio": audio, "image": image}, present, target))
            loss = torch.nn.functional.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


# A Dataset of files in a DataLoader. --------------------------------------------------------------


def time_dataloader(workers: int = 0) -> float:
    import torch
    from file_dataset import FileDataset
    from torch.utils.data import DataLoader

    loader = DataLoader(
        FileDataset(),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    torch.manual_seed(0)
    return time_plain_loop(lambda: loader)


# Tensors in memory. -------------------------------------------------------------------------------


def time_bare_loop() -> float:
    """Index tensors that are in memory, ready for the encoders."""
    import numpy as np
    import torch

    _, data = load_setting()
    with contextlib.ExitStack() as stack:
        split = data.load("train", stack, "bench")
        everything = [np.arange(TRAIN_SAMPLES)]
        (batch,) = split.batches(everything, torch.device("cpu"))

    def make_batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        audio = batch.inputs["audio"]
        image = batch.inputs["image"]
        for rows in torch.randperm(len(batch.target)).split(BATCH_SIZE):
            yield audio[rows], image[rows], batch.target[rows]

    return time_plain_loop(make_batches)


# umemma. ------------------------------------------------------------------------------------------


class EpochClock:
    """Stands in place of the validation, and notes when each epoch ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def __call__(self) -> dict[str, float]:
        self.ends.append(time.perf_counter())
        return {"score": 0.0, "loss": -float(len(self.ends))}

    def median_seconds(self) -> float:
        """Return the median seconds of an epoch, without the first."""
        pairs = zip(self.ends, self.ends[1:], strict=False)
        return statistics.median(end - start for start, end in pairs)


def time_fit(memory: float) -> float:
    """Train by `fit`, as the stages call it, with all that it does beside the steps."""
    import numpy as np

    from umemma.training.reproducibility import prepare
    from umemma.training.step import PatternStep

    prepare(0, "bench")
    params, data = load_setting()
    data = make_data_source(params, data.specs, memory)
    model = build_model(params, data)
    training = params.pretrain.model_copy(update=loop_settings(EPOCHS))
    complete_only = np.array([1.0, 0.0, 0.0])
    with contextlib.ExitStack() as stack:
        split = data.load("train", stack, "bench")
        step = PatternStep(model, complete_only, draw_one=False)
        return run_fit(step, model, split, training)


def run_fit(
    step: nn.Module,
    model: LateFusion,
    split: LoadedSplit,
    training: Training,
) -> float:
    from umemma.training.early_stopping import Validation
    from umemma.training.optimizer import Optimizer
    from umemma.training.run_folder import Run
    from umemma.training.trainer import count_steps, fit

    total_steps = count_steps(len(split), training.batch_size, training.epochs)
    optimizer = Optimizer(model, training, total_steps=total_steps)
    clock = EpochClock()
    run = Run(Path(tempfile.mkdtemp()), "bench")
    fit(step, optimizer, split, Validation(clock), run, training=training, seed=0, title="bench")
    return clock.median_seconds()


def loop_settings(epochs: int) -> dict[str, int]:
    return {"epochs": epochs, "batch_size": BATCH_SIZE, "patience": epochs}


def time_frozen(cached: bool) -> float:
    """Train the head on a frozen ResNet-18 with images of 64 pixels."""
    import numpy as np
    import torch

    from umemma.config import Encoder
    from umemma.models import factory
    from umemma.training import feature_cache
    from umemma.training.reproducibility import prepare
    from umemma.training.step import PatternStep

    device = prepare(0, "bench")
    params, data = load_setting()
    encoder = Encoder(name="timm:resnet18", weights="none", tune="frozen", input={"size": 64})
    specs = factory.input_specs({"image": encoder})
    data = make_data_source(params, specs, LARGE_MEMORY)
    torch.manual_seed(0)
    model = factory.build({"image": encoder}, specs, data.index.classes)
    epochs = 3
    frozen = []
    if cached:
        epochs = 12
        frozen = feature_cache.find_frozen(model, {})
    training = params.pretrain.of("image").model_copy(update=loop_settings(epochs))
    folder = Path(tempfile.mkdtemp())
    sources = {"shards": data.index.fingerprint}
    with contextlib.ExitStack() as stack:
        splits = {"train": data.load("train", stack, "bench", once=frozen)}
        features = feature_cache.cache_features(
            model,
            splits,
            frozen,
            folder,
            sources,
            BATCH_SIZE,
            device,
        )
        splits = stack.enter_context(features)
        step = PatternStep(model, np.ones(1), draw_one=False)
        return run_fit(step, model, splits["train"], training)


LOOPS: dict[str, Callable[[], float]] = {
    "dataloader": time_dataloader,
    "dataloader2": partial(time_dataloader, workers=2),
    "bare": time_bare_loop,
    "kept": partial(time_fit, LARGE_MEMORY),
    "streaming": partial(time_fit, 0.0),
    "frozen_each_epoch": partial(time_frozen, cached=False),
    "frozen_kept": partial(time_frozen, cached=True),
}
BENCHMARKS = {  # umemma's loop is the last
    "epoch": ("dataloader", "dataloader2", "bare", "kept"),
    "streamed": ("dataloader", "dataloader2", "streaming"),
    "frozen": ("frozen_each_epoch", "frozen_kept"),
}


if __name__ == "__main__":
    main()

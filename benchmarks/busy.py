"""Measure the speed of training beside programs that use some of the cores.

    python benchmarks/busy.py                # one program, rounds of 12 steps
    python benchmarks/busy.py --programs 2

Several processes train the same model, `cnn:small` on pictures of 28 pixels in batches of 128, as a
plain loop. They differ in how their threads wait for one another: as `umemma` sets it, as GNU
OpenMP does by default (spinning), and passively; one process has a single thread. All of them are
started first and then take turns, so that the load of the machine affects all alike. The speed is
the median of the turns; the largest one tells more of a quiet machine than of this one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from umemma.system.cores import count_cores, limit_spinning

BATCH_SIZE = 128
SPIN = [sys.executable, "-c", "while True: pass"]


class Turn(NamedTuple):
    """speed: samples per s; core_share: of the time in which the main thread was on a core."""

    speed: float
    core_share: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12, help="of a turn")
    parser.add_argument("--programs", type=int, default=1, help="that each use a core")
    parser.add_argument("--train", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train)
        return
    trainers = start_trainers()
    quiet = take_turns(trainers, arguments.rounds, arguments.steps)
    programs = [subprocess.Popen(SPIN) for _ in range(arguments.programs)]
    try:
        busy = take_turns(trainers, arguments.rounds, arguments.steps)
    finally:
        for program in programs:
            program.kill()
            program.wait()
    for trainer in trainers.values():
        trainer.communicate()
    print_turns(quiet, busy)


def start_trainers() -> dict[str, subprocess.Popen[str]]:
    """Return {how the threads wait: a process that trains}."""
    unset = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        unset.pop(name, None)
    umemma = dict(unset)
    limit_spinning(umemma)
    environments = {
        "umemma": umemma,
        "spinning": unset,
        "passive": {**unset, "OMP_WAIT_POLICY": "PASSIVE"},
    }
    threads = count_cores()
    trainers = {}
    for name, environment in environments.items():
        trainers[name] = start_trainer(threads, environment)
    trainers["1 thread"] = start_trainer(1, umemma)
    for trainer in trainers.values():
        assert trainer.stdout
        trainer.stdout.readline()
    return trainers


def start_trainer(threads: int, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, "--train", str(threads)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def take_turns(
    trainers: Mapping[str, subprocess.Popen[str]],
    rounds: int,
    steps: int,
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            assert trainer.stdin
            assert trainer.stdout
            trainer.stdin.write(f"{steps}\n")
            trainer.stdin.flush()
            speed, core_share = trainer.stdout.readline().split()
            turns[name].append(Turn(float(speed), float(core_share)))
    return turns


def print_turns(quiet: Mapping[str, Sequence[Turn]], busy: Mapping[str, Sequence[Turn]]) -> None:
    print(f"{'samples/s':10}{'quiet':>8}{'largest':>9}{'on core':>9}", end="")
    print(f"{'busy':>8}{'on core':>9}{'busy / quiet':>14}")
    for name, turns in quiet.items():
        median = statistics.median(turn.speed for turn in turns)
        largest = max(turn.speed for turn in turns)
        busy_median = statistics.median(turn.speed for turn in busy[name])
        shares = [statistics.median(turn.core_share for turn in of) for of in (turns, busy[name])]
        print(f"{name:10}{median:8.0f}{largest:9.0f}{shares[0]:9.0%}", end="")
        print(f"{busy_median:8.0f}{shares[1]:9.0%}{busy_median / median:14.2f}")


def train(threads: int) -> None:
    """Train for as many steps as each line of stdin says, and print the Turn."""
    import torch

    from umemma.config import Machine
    from umemma.encoders import build
    from umemma.models.late_fusion import LateFusion
    from umemma.training.reproducibility import prepare
    from umemma.types import Batch, ImageInput

    prepare(0, "bench", machine=Machine(threads=threads))
    encoder, width = build("cnn:small", "image", ImageInput(size=28, channels=1))
    blanks = {"image": torch.zeros(1, 28, 28)}
    model = LateFusion({"image": encoder}, {"image": width}, blanks, 10, "learned")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images = torch.randn(BATCH_SIZE, 1, 28, 28)
    target = torch.randint(10, (BATCH_SIZE,))
    batch = Batch({"image": images}, torch.ones(BATCH_SIZE, 1, dtype=torch.bool), target)

    def take_steps(steps: int) -> None:
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    take_steps(5)  # warm up
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        started_on_core = time.thread_time()
        take_steps(int(line))
        on_core = time.thread_time() - started_on_core
        seconds = time.perf_counter() - started
        print(int(line) * BATCH_SIZE / seconds, on_core / seconds, flush=True)


if __name__ == "__main__":
    main()

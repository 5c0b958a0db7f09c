"""Processor time and memory of each stage, from a thousand samples to a million.

    python benchmarks/growth.py [--samples 1000 10000 100000 1000000]
    python benchmarks/growth.py --chart docs/images/growth.png

A made-up table has two vectors of 16 numbers and one of ten classes for each sample; 80 % of the
samples train, 10 % validate and 10 % test. A training takes one epoch, whatever its size. Stages
are the commands themselves, with one thread and one worker. `predict` answers every row of the
table.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma.system.subprocesses import Command, Ended, Job, read_reason, run

WIDTH = 16
CLASSES = 10
PARAMS = """
dataset: manifest
modalities: {left: vector, right: vector}
preprocess:
  options: {table: table.parquet, columns: {left: left, right: right}, label: label, split: split}
encoders: {left: {name: "mlp:small"}, right: {name: "mlp:small"}}
pretrain: {epochs: 1, batch_size: 256}
finetune: {preset: ume-mma, epochs: 1, batch_size: 256}
evaluate: {split: test, calibrate: true, batch_size: 1024}
"""
STAGES = {
    "download": ("download", "manifest", "--from", "table.parquet"),
    "preprocess": ("preprocess", "--workers", "1"),
    "pretrain-unimodal": ("pretrain-unimodal", "--modality", "left"),
    "pretrain the other": ("pretrain-unimodal", "--modality", "right"),
    "finetune-ensemble": ("finetune-ensemble",),
    "evaluate-missing": ("evaluate-missing",),
    "predict": (
        *("predict", "--model", "models/manifest/ensemble"),
        *("--manifest", "table.parquet", "--out", "answers.parquet"),
    ),
}
CHARTED = [name for name in STAGES if name not in ("download", "pretrain the other")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sizes = [10**3, 10**4, 10**5, 10**6]
    parser.add_argument("--samples", type=int, nargs="+", default=sizes)
    parser.add_argument("--rows", type=Path, default=Path("growth.csv"), help="of a run before")
    parser.add_argument("--chart", type=Path, help="draw the rows, and measure nothing")
    arguments = parser.parse_args()
    if arguments.chart:
        draw(arguments.rows, arguments.chart)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with arguments.rows.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["samples", "stage", "cpu_seconds", "peak_gib"])
        for samples in arguments.samples:
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                for name, ended in measure(samples):
                    row = [samples, name, f"{ended.cpu:.2f}", f"{ended.peak:.3f}"]
                    writer.writerow(row)
                    file.flush()
                    print(*row, flush=True)


def measure(samples: int) -> Iterator[tuple[str, Ended]]:
    """Run every stage in the current folder. Yield how each one ended."""
    write_table(samples)
    Path("params.yaml").write_text(PARAMS)
    for name, words in STAGES.items():
        yield name, run_stage(words)


def run_stage(words: Sequence[str]) -> Ended:
    command = Command([sys.executable, "-m", "umemma", *words], Path("log.txt"))
    found: list[Ended] = []

    def job() -> Job:
        found.append((yield command))

    list(run({words[0]: job()}, 1))
    if found[0].status:
        raise SystemExit(read_reason(found[0].status, command.log))
    return found[0]


def write_table(samples: int) -> None:
    """Write table.parquet: each class is a point, and the samples lie around it."""
    chance = np.random.default_rng(0)
    label = np.arange(samples) % CLASSES
    columns: dict[str, pa.Array] = {}
    for name in ("left", "right"):
        centres = chance.standard_normal((CLASSES, WIDTH), np.float32)
        numbers = centres[label] + 2 * chance.standard_normal((samples, WIDTH), np.float32)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), WIDTH)
    columns["label"] = pa.array(label.astype(str))
    tenth = np.arange(samples) // CLASSES % 10
    columns["split"] = pa.array(np.select([tenth == 8, tenth == 9], ["val", "test"], "train"))
    pq.write_table(pa.table(columns), "table.parquet")


def draw(rows: Path, chart: Path) -> None:
    """Draw seconds and memory against samples, both axes logarithmic."""
    from matplotlib.figure import Figure

    with rows.open(newline="") as file:
        table = list(csv.DictReader(file))
    figure = Figure(figsize=(9, 4), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for name in CHARTED:
        own = [row for row in table if row["stage"] == name]
        samples = [int(row["samples"]) for row in own]
        seconds.plot(samples, [float(row["cpu_seconds"]) for row in own], marker="o", label=name)
        memory.plot(samples, [float(row["peak_gib"]) for row in own], marker="o", label=name)
    seconds.set(xscale="log", yscale="log", xlabel="samples", ylabel="processor time, s")
    memory.set(xscale="log", ylim=(0, None), xlabel="samples", ylabel="peak memory, GiB")
    seconds.legend()
    for axes in (seconds, memory):
        axes.grid(alpha=0.3)
    chart.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(chart, dpi=120)


if __name__ == "__main__":
    main()

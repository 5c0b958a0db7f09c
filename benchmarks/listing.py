"""Seconds and memory that the listing of a split takes, from a thousand samples to a million.

    python benchmarks/listing.py [--samples 1000 10000 100000 1000000] [--rounds 3]

The shards are made up: their tables have a sound, a picture and a group for each sample, and their
tars the bytes of one. No stage opens a tar before it needs a sample of it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma.data import shard_index, shard_plan, shard_writer
from umemma.data.sample_table import read_samples
from umemma.data.shard_reader import Index, read_index
from umemma.data.shard_writer import to_json
from umemma.system.files import sha256
from umemma.system.storage import Store
from umemma.types import DatasetSpec, Packing, Record, Sound

PER_SHARD = 1000
SPEC = DatasetSpec("made", "", ("audio", "image"), ("no", "yes"), "", "", ("train",))


def make_shards(folder: Path, samples: int) -> None:
    """Write `samples` / 1000 shards: the first one is real, the others repeat its only sample."""
    store = Store(str(folder))
    media = {"audio": Sound(np.ones(800), 8000), "image": np.zeros((8, 8), np.uint8)}
    record = Record("a", "train", 0, media, "a group")
    (job,) = shard_plan.plan_shards([record], SPEC, store, Packing(), 1, lambda records: "made")
    first = shard_writer.write_shard(job)
    index = shard_index.write_index(store, SPEC, {}, {"train": [first]}, 0.0)
    rows = pq.read_table(folder / first.rows_name).take(pa.array([0] * PER_SHARD))
    tar = (folder / first.name).read_bytes()
    shards = []
    for number in range(samples // PER_SHARD):
        shard = first.model_copy(update={"name": f"train-{number:06d}.tar", "samples": PER_SHARD})
        keys = pa.array([f"train-{number * PER_SHARD + i:08d}" for i in range(PER_SHARD)])
        pq.write_table(rows.set_column(0, "key", keys), folder / shard.rows_name)
        (folder / shard.name).write_bytes(tar)
        shards.append(shard.model_copy(update={"rows_sha256": sha256(folder / shard.rows_name)}))
    index = index.model_copy(update={"splits": {"train": shards}})
    index = index.model_copy(update={"fingerprint": index.compute_fingerprint()})
    (folder / "index.json").write_text(to_json(index))


def measure(folder: Path, rounds: int) -> None:
    """Print the samples, the seconds, and the bytes per sample that stay."""
    store = Store(str(folder))
    index: Index = read_index(store)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        samples = read_samples(store, index, "train")
        seconds.append(time.perf_counter() - start)
    del samples
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    samples = read_samples(store, index, "train")
    arrow = pa.total_allocated_bytes() - before
    taken = (tracemalloc.get_traced_memory()[0] + arrow) / len(samples)
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    print(f"{len(samples):>9,} {middle:8.3f} s ({low:.3f} to {high:.3f}) {taken:6.0f} bytes each")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        measure(options.folder, options.rounds)
        sys.exit()
    for samples in options.samples:
        with tempfile.TemporaryDirectory() as folder:
            make_shards(Path(folder), samples)
            # In a process of its own, as a stage is.
            command = [
                sys.executable,
                __file__,
                "--folder",
                folder,
                "--rounds",
                str(options.rounds),
            ]
            subprocess.run(command, check=True)

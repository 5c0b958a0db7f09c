"""Shards of a toy dataset, and a server for them."""

from __future__ import annotations

import http.server
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from toys.media import GREY, TONE, flac
from umemma.data import shard_index, shard_plan, shard_reader, shard_writer
from umemma.data.shard_marker import ShardMarker
from umemma.system.storage import Store
from umemma.types import DatasetSpec, Packing, Record

SPEC = DatasetSpec("toy", "", ("audio", "image"), ("no", "yes"), "", "", ("train", "test"))


SETTINGS = {"dataset": "toy"}


def toy_records() -> list[Record]:
    return [
        Record("a", "train", 0, {"audio": TONE, "image": GREY}),
        Record("b", "train", 1, {"image": GREY}, group="g"),
        Record("c", "train", 1, {"audio": flac(np.zeros(100)), "image": b"not a picture"}),
        Record("d", "train", 1, {"audio": TONE}),
        Record("e", "test", 1, {"audio": TONE, "image": GREY}),
        Record("f", "test", 1, {"audio": b"not a sound"}),
    ]


def write(
    folder: Path | str,
    records: list[Record] | None = None,
    max_failures: float = 0.5,
    spec: DatasetSpec = SPEC,
    defaults: Mapping[str, object] = shard_index.NO_DEFAULTS,
) -> shard_reader.Index:
    store, toy = Store(str(folder)), toy_records() if records is None else records
    made: dict[str, list[ShardMarker]] = {split: [] for split in spec.splits}
    for job in shard_plan.plan_shards(toy, spec, store, Packing(), 2, lambda records: "f"):
        made[job.split].append(shard_writer.write_shard(job))
    return shard_index.write_index(store, spec, SETTINGS, made, max_failures, defaults)


def read(folder: Path | str, index: shard_reader.Index, split: str = "train") -> list[Record]:
    return list(shard_reader.read_split(Store(str(folder)), index, split))


def torn(folder: Path) -> list[Record]:
    """Return samples of which "a" lacks its image file and "b" its only medium."""
    lost = {"image": folder / "no.png"}
    return [
        Record("a", "train", 0, {"audio": TONE, **lost}, group="g"),
        Record("b", "train", 1, lost),
        Record("c", "train", 1, {"audio": TONE, "image": GREY}),
        Record("e", "test", 1, {"audio": TONE, "image": GREY}),
    ]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

"""Toy shards, loaded."""

from __future__ import annotations

import numpy as np
import torch

from toys.shards import write
from umemma.data import loader, shard_reader
from umemma.data.loader import LoadedSplit, LoadOptions
from umemma.system.storage import Store
from umemma.types import AudioInput, DatasetSpec, ImageInput, Record, TextInput

SPECS = {
    "audio": AudioInput(sample_rate=8000, seconds=0.1, mels=8, window=128, hop=80),
    "image": ImageInput(size=8),
}


CPU = torch.device("cpu")


MANY = {"image": ImageInput(size=8, channels=1, mean=0.0, std=1.0), "text": TextInput(length=8)}


def load(folder, stay, specs=SPECS, index=None, split="train", **how) -> LoadedSplit:
    return loader.load_split(
        Store(str(folder)), index or write(folder), split, specs, stay, LoadOptions(**how)
    )


def many(folder, count: int = 40) -> shard_reader.Index:
    """Grey pictures and texts; every third has no text."""
    spec = DatasetSpec("toy", "", ("image", "text"), ("no", "yes"), "", "", ("train",))
    records = []
    for i in range(count):
        media = {"image": np.full((8, 8), i, np.uint8)} | ({"text": f"word {i}"} if i % 3 else {})
        records.append(Record(f"k{i}", "train", i % 2, media))
    return write(folder, records, spec=spec)

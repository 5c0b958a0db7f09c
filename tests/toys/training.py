"""A toy dataset, model and split to train on in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from toys.shards import write
from umemma.config import Encoder, Machine, Training
from umemma.data.loader import Split
from umemma.data.storage import Store
from umemma.models import factory
from umemma.models.late_fusion import LateFusion
from umemma.training.run_folder import Run
from umemma.training.train import Data, learn
from umemma.training.trainer import prepare
from umemma.types import DatasetSpec, Record

CPU = torch.device("cpu")


SETTINGS = {
    "epochs": 12, "batch_size": 16, "learning_rate": 0.05, "weight_decay": 0.0, "warmup": 0.1, "patience": 12,
    "clip_norm": 1.0, "ema": 0.0, "precision": "fp32", "seed": 0, "device": CPU, "title": "toy",
}  # fmt: skip


COMPLETE = np.array([1.0, 0.0, 0.0])


def toy_split(size: int = 96) -> Split:
    """Each modality alone tells the class: its sign."""
    chance = torch.Generator().manual_seed(1)
    target = torch.arange(size) % 2
    sign = (2.0 * target - 1)[:, None]
    inputs = {m: sign * (1 + torch.rand(size, 1, generator=chance)) for m in ("audio", "image")}
    keys = [f"k{i}" for i in range(size)]
    return Split(inputs, torch.ones(size, 2, dtype=torch.bool), target, keys, keys)


def toy_model(absent: str = "zero") -> LateFusion:
    prepare(0, "toy")
    encoders = {m: nn.Linear(1, 4) for m in ("audio", "image")}
    return LateFusion(
        encoders, {"audio": 4, "image": 4}, dict.fromkeys(encoders, torch.zeros(1)), 2, absent
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(
        torch.equal(a[n].nan_to_num(), b[n].nan_to_num()) for n in a
    )  # unfitted probes


CPU = torch.device("cpu")


TRAINING = Training(epochs=2, batch_size=8, learning_rate=1e-2, weight_decay=0.0, patience=9)


CHOSEN = {
    "image": Encoder(name="cnn:small", input={"size": 8, "channels": 1}),
    "text": Encoder(name="text:cnn", input={"length": 6}),
}


def toy(folder: Path, left: set[tuple[str, str]] = frozenset(), labels: int = 2) -> Data:
    """Dark and light pictures with a word, without the (key, modality) of `left`."""
    spec = DatasetSpec("toy", "", ("image", "text"), ("no", "yes"), "", "", ("train", "val"))
    records = []
    for i in range(60):
        key, label = f"k{i}", i % labels
        media = {
            "image": np.full((8, 8), 100 * label + i, np.uint8),
            "text": f"word {'yes' if label else 'no'}",
        }
        media = {m: x for m, x in media.items() if (key, m) not in left}
        if media:
            records.append(Record(key, "train" if i < 40 else "val", label, media))
    index = write(folder, records, spec=spec)
    return Data(Store(str(folder)), index, factory.input_specs(CHOSEN), Machine(), seed=0)


def trained(folder: Path, data: Data, chosen=CHOSEN, **changes):
    torch.manual_seed(0)
    specs = {m: data.specs[m] for m in chosen}
    model = factory.build(chosen, specs, data.index.classes, "learned")
    run = Run(folder / "run", "toy")
    data = Data(data.store, data.index, specs, data.machine, data.seed, data.augments, data.missing)
    learned = learn(
        model, data, run, weights=np.full(2 ** len(chosen) - 1, 1 / (2 ** len(chosen) - 1)), one_drawn=False,
        training=TRAINING.model_copy(update=changes), folder=folder / "features", device=CPU, title="toy",
    )  # fmt: skip
    return model, learned.scores


def frozen(*names: str) -> dict[str, Encoder]:
    return {
        m: e.model_copy(update={"tune": "frozen"}) if m in names else e for m, e in CHOSEN.items()
    }

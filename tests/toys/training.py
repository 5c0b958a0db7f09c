"""A toy dataset, model and split to train on in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from toys.shards import write
from umemma.config import Encoder, Machine, Training
from umemma.data.loader import LoadedSplit
from umemma.models import factory
from umemma.models.late_fusion import LateFusion
from umemma.system.storage import Store
from umemma.training.early_stopping import Validation
from umemma.training.optimizer import Optimizer
from umemma.training.reproducibility import prepare
from umemma.training.run_folder import MetricRow, Run
from umemma.training.step import PatternStep
from umemma.training.train import DataSource, train_model
from umemma.training.trainer import count_steps, fit
from umemma.types import DatasetSpec, Record

CPU = torch.device("cpu")

# Of the loop on `toy_split`.
LOOP_TRAINING = Training(
    epochs=12,
    batch_size=16,
    learning_rate=0.05,
    weight_decay=0.0,
    warmup=0.1,
    patience=12,
    clip_norm=1.0,
)

# Of `train_model` on `toy_data`.
TRAINING = Training(
    epochs=2,
    batch_size=8,
    learning_rate=1e-2,
    weight_decay=0.0,
    patience=9,
)

COMPLETE = np.array([1.0, 0.0, 0.0])  # all weight on the complete pattern of two modalities

ENCODERS = {
    "image": Encoder(name="cnn:small", input={"size": 8, "channels": 1}),
    "text": Encoder(name="text:cnn", input={"length": 6}),
}


def toy_split(size: int = 96) -> LoadedSplit:
    """Each modality alone tells the class: its sign."""
    generator = torch.Generator().manual_seed(1)
    target = torch.arange(size) % 2
    sign = (2.0 * target - 1)[:, None]
    inputs = {}
    for m in ("audio", "image"):
        inputs[m] = sign * (1 + torch.rand(size, 1, generator=generator))
    keys = [f"k{i}" for i in range(size)]
    return LoadedSplit(inputs, torch.ones(size, 2, dtype=torch.bool), target, keys, keys)


def toy_model(absent: str = "zero", fusion: str = "mean") -> LateFusion:
    prepare(0, "toy")
    encoders = {m: nn.Linear(1, 4) for m in ("audio", "image")}
    blanks = dict.fromkeys(encoders, torch.zeros(1))
    return LateFusion(encoders, {"audio": 4, "image": 4}, blanks, 2, absent, fusion)


def fit_toy(
    step: nn.Module,
    model: nn.Module,
    train: LoadedSplit,
    validation: Validation,
    run: Run,
    **changes: object,
) -> list[MetricRow]:
    """`fit` with the settings of LOOP_TRAINING and `changes` to them."""
    training = LOOP_TRAINING.model_copy(update=changes)
    total_steps = count_steps(len(train), training.batch_size, training.epochs)
    optimizer = Optimizer(model, training, total_steps=total_steps)
    return fit(
        step,
        optimizer,
        train,
        validation,
        run,
        training=training,
        seed=0,
        title="toy",
    )


def have_same_weights(first: nn.Module, second: nn.Module, with_probes: bool = True) -> bool:
    """Whether two models have equal parameters and buffers. Probes that are not fitted are NaN."""
    first_state = first.state_dict()
    second_state = second.state_dict()
    if first_state.keys() != second_state.keys():
        return False
    names = [name for name in first_state if with_probes or "probes" not in name]
    return all(
        torch.equal(first_state[name].nan_to_num(), second_state[name].nan_to_num())
        for name in names
    )


def toy_data(
    folder: Path,
    lacking: set[tuple[str, str]] = frozenset(),
    labels: int = 2,
    flip_val: bool = False,
) -> DataSource:
    """Shards of dark and light pictures with a word, without the (key, modality) of `lacking`.

    flip_val: the labels of the validation split are the other way round.
    """
    splits = ("train", "val")
    spec = DatasetSpec("toy", "", ("image", "text"), ("no", "yes"), "", "", splits)
    records = []
    for i in range(60):
        key = f"k{i}"
        value = i % labels
        word = "no"
        if value:
            word = "yes"
        media = {
            "image": np.full((8, 8), 100 * value + i, np.uint8),
            "text": f"word {word}",
        }
        media = {m: x for m, x in media.items() if (key, m) not in lacking}
        split = "train"
        label = value
        if i >= 40:
            split = "val"
            if flip_val:
                label = 1 - value
        if media:
            records.append(Record(key, split, label, media))
    index = write(folder, records, spec=spec)
    specs = factory.input_specs(ENCODERS)
    return DataSource(Store(str(folder)), index, specs, Machine(), seed=0)


def train_toy(
    folder: Path,
    data: DataSource,
    encoders: Mapping[str, Encoder] = ENCODERS,
    **changes: object,
) -> tuple[LateFusion, dict[str, float]]:
    """Train a model on `toy_data` with `changes` to TRAINING; returns it and its scores."""
    torch.manual_seed(0)
    specs = {m: data.specs[m] for m in encoders}
    model = factory.build(encoders, specs, data.index.classes, "learned")
    data = DataSource(
        data.store, data.index, specs, data.machine, data.seed, data.augments, data.missing
    )
    patterns = 2 ** len(encoders) - 1
    pattern_weights = np.full(patterns, 1 / patterns)
    result = train_model(
        PatternStep(model, pattern_weights, draw_one=False),
        data,
        Run(folder / "run", "toy"),
        training=TRAINING.model_copy(update=changes),
        cache_folder=folder / "features",
        device=CPU,
        title="toy",
    )
    return model, result.scores


def freeze_encoders(*names: str) -> dict[str, Encoder]:
    """ENCODERS, of which those of `names` are frozen."""
    encoders = dict(ENCODERS)
    for m in names:
        encoders[m] = ENCODERS[m].model_copy(update={"tune": "frozen"})
    return encoders

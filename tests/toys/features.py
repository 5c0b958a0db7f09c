"""Trainings on made features: each modality is a vector and its encoder does nothing.

They go through `train_model` as those of the stages do, uni-modal models first, in a second or two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from umemma.config import Machine, Training
from umemma.data.loader import LoadedSplit
from umemma.data.shard_reader import Index
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.predictions import Predictions
from umemma.missing import list_patterns, make_keep_table
from umemma.models.late_fusion import LateFusion
from umemma.system.storage import Store
from umemma.training.reproducibility import prepare
from umemma.training.run_folder import Run
from umemma.training.step import PatternStep, predict_logits
from umemma.training.train import DataSource, TrainResult, train_model
from umemma.types import Batch, format_pattern

CPU = torch.device("cpu")
TRAINING = Training(epochs=15, batch_size=64, learning_rate=1e-2, weight_decay=0.0, patience=15)


class FeatureSplit(LoadedSplit):
    """Samples whose inputs no modality has to finish."""

    def batches(
        self,
        plan: Sequence[np.ndarray],
        device: torch.device,
        seed: int | None = None,
    ) -> Iterator[Batch]:
        for numbers in plan:
            rows = torch.from_numpy(numbers)
            inputs = {m: x[rows] for m, x in self.in_memory.items()}
            weight = None
            if self.weight is not None:
                weight = self.weight[rows]
            yield Batch(inputs, self.present[rows], self.target[rows], weight=weight)


def make_split(inputs: Mapping[str, np.ndarray], target: np.ndarray) -> FeatureSplit:
    """inputs: {modality: (N, D)}; target: (N,) classes or (N, C) sets of labels."""
    tensors = {m: torch.from_numpy(np.float32(x)) for m, x in inputs.items()}
    labels = torch.from_numpy(target)
    if target.ndim == 2:
        labels = labels.float()
    keys = [f"k{i}" for i in range(len(target))]
    present = torch.ones(len(keys), len(tensors), dtype=torch.bool)
    specs: dict[str, Any] = dict.fromkeys(tensors)
    return FeatureSplit(tensors, present, labels, keys, {"sample": keys}, specs)


@dataclass(frozen=True)
class FeatureSource(DataSource):
    """Splits that are there already."""

    loaded: Mapping[str, FeatureSplit] = field(default_factory=dict)

    def load(self, split: str, *_: Any, once: Collection[str] = (), **__: Any) -> LoadedSplit:
        return self.loaded[split].select_modalities(self.specs.keys())


def make_source(loaded: Mapping[str, FeatureSplit], names: Sequence[str]) -> FeatureSource:
    target = loaded["train"].target
    task, count = "multiclass", int(target.max()) + 1
    if target.ndim == 2:
        task, count = "multilabel", target.shape[1]
    index = Index(
        dataset="made",
        variant="",
        task=task,
        classes=[f"class {c}" for c in range(count)],
        modalities=list(names),
        settings={},
        fingerprint="",
        splits={},
    )
    specs: dict[str, Any] = dict.fromkeys(names)
    return FeatureSource(Store("."), index, specs, Machine(), 0, loaded=loaded)


@dataclass(frozen=True)
class Trained:
    """models, results: of each uni-modal model, by modality, and of "ensemble"."""

    models: dict[str, LateFusion]
    results: dict[str, TrainResult]

    def predict(self, split: FeatureSplit, decides: bool = True) -> Predictions:
        """Return the calibrated predictions of a split; without thresholds unless it `decides`."""
        names = self.models["ensemble"].modalities
        keep = torch.from_numpy(make_keep_table(names))
        (logits,) = predict_logits([(self.models["ensemble"], keep)], split, 512, CPU)
        patterns = list_patterns(names)
        ensemble = {format_pattern(p): logits[:, s].numpy() for s, p in enumerate(patterns)}
        unimodal = {}
        calibration: dict[str, Calibration] = {}
        thresholds = {}
        for name, result in self.results.items():
            model = "ensemble"
            if name != "ensemble":
                model = "unimodal"
                alone = torch.ones(1, 1, dtype=torch.bool)
                part = split.select_modalities([name])
                (table,) = predict_logits([(self.models[name], alone)], part, 512, CPU)
                unimodal[name] = table[:, 0].numpy()
            metadata = result.inference_metadata
            for subset, fitted in metadata.calibration.items():
                calibration[f"{model}/{subset}"] = fitted
            for subset, found in metadata.thresholds.items():
                thresholds[f"{model}/{subset}"] = found
        if not decides:
            thresholds = {}
        metadata = self.results["ensemble"].inference_metadata
        return Predictions.calibrated(
            split.keys,
            split.groups,
            split.target.numpy(),
            (ensemble, unimodal),
            metadata.classes,
            calibration,
            metadata.prior,
            thresholds,
        )


def train_on_features(
    folder: Path, splits: Mapping[str, FeatureSplit], **changes: object
) -> Trained:
    """Train uni-modal models and the ensemble that starts from them, as the stages do."""
    training = TRAINING.model_copy(update=changes)
    names = sorted(splits["train"].in_memory)
    models: dict[str, LateFusion] = {}
    results: dict[str, TrainResult] = {}
    for m in names:
        models[m] = _make_model(splits["train"], [m])
        results[m] = _train(folder, models[m], make_source(splits, [m]), training, False)
    models["ensemble"] = _make_model(splits["train"], names)
    models["ensemble"].start_from({m: models[m] for m in names})
    finetuning = training.model_copy(update={"keep_start": 1.0})
    source = make_source(splits, names)
    results["ensemble"] = _train(folder, models["ensemble"], source, finetuning, True)
    return Trained(models, results)


def _make_model(split: FeatureSplit, names: Sequence[str]) -> LateFusion:
    prepare(0, "made", *names)
    dims = {m: split.in_memory[m].shape[1] for m in names}
    blanks: dict[str, Tensor] = {m: torch.zeros(width) for m, width in dims.items()}
    encoders: dict[str, nn.Module] = {m: nn.Identity() for m in names}
    classes = int(split.target.max()) + 1
    if split.target.ndim == 2:
        classes = split.target.shape[1]
    return LateFusion(encoders, dims, blanks, classes)


def _train(
    folder: Path,
    model: LateFusion,
    source: FeatureSource,
    training: Training,
    pooled: bool,
) -> TrainResult:
    patterns = 2 ** len(model.modalities) - 1
    name = "+".join(model.modalities)
    return train_model(
        PatternStep(model, np.full(patterns, 1 / patterns), draw_one=False),
        source,
        Run(folder / name, name),
        training=training,
        cache_folder=folder / "features",
        device=CPU,
        title=name,
        pooled=pooled,
    )


# Made data. -------------------------------------------------------------------------------------


def rare_labels(
    seed: int = 0,
    samples: Mapping[str, int] | None = None,
    labels: int = 12,
    width: int = 16,
) -> dict[str, FeatureSplit]:
    """Labels that 2 to 15 % of the samples have; each of two views tells a part of them."""
    chance = np.random.default_rng(seed)
    shares = np.geomspace(0.02, 0.15, labels)
    weights = {m: chance.normal(size=(width, labels)) * 0.35 for m in ("a", "b")}
    bias = np.log(shares / (1 - shares)) - 0.4
    splits = {}
    for name, count in (samples or {"train": 1500, "val": 400, "test": 2000}).items():
        inputs = {m: chance.normal(size=(count, width)) for m in weights}
        logits = bias + sum(inputs[m] @ weights[m] for m in weights)
        target = (chance.random((count, labels)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
        splits[name] = make_split(inputs, target)
    return splits


def rare_class(
    seed: int = 0,
    ratio: int = 50,
    samples: Mapping[str, int] | None = None,
    width: int = 8,
) -> dict[str, FeatureSplit]:
    """Two classes, of which the second is `ratio` times rarer, in all splits alike."""
    chance = np.random.default_rng(seed)
    direction = {m: chance.normal(size=width) / width**0.5 for m in ("a", "b")}
    splits = {}
    for name, count in (samples or {"train": 2550, "val": 1020, "test": 5100}).items():
        target = (np.arange(count) % (ratio + 1) == ratio).astype(np.int64)
        inputs = {}
        for m, line in direction.items():
            inputs[m] = chance.normal(size=(count, width)) + 1.5 * target[:, None] * line
        splits[name] = make_split(inputs, target)
    return splits

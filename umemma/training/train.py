"""What both trainings have in common: the data they see, kept features, the missing-modality step, the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from umemma.config import Machine, Training
from umemma.data import loader
from umemma.data.loader import LoadedSplit
from umemma.data.shard_reader import Index
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.evaluation import calibration
from umemma.missing import list_patterns, make_keep_table
from umemma.models import factory
from umemma.models.late_fusion import LateFusion
from umemma.models.saved_model import InferenceMetadata
from umemma.system.log import make_progress
from umemma.training import feature_cache, linear_probe
from umemma.training.balancing import Rival
from umemma.training.run_folder import Figure, Run
from umemma.training.step import PatternStep, make_validation, predict_logits
from umemma.training.trainer import explain_nondeterminism, fit
from umemma.types import InputSpec, Packing, Plain, format_pattern


@dataclass(frozen=True)
class DataSource:
    """Shards, and how they are looked at. augments are for training only; missing: {split: {what: share that loses it}}."""

    store: Store
    index: Index
    specs: Mapping[str, InputSpec]
    machine: Machine
    seed: int
    augments: Mapping[str, Plain] = field(default_factory=dict)
    missing: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def load(
        self,
        split: str,
        stay: contextlib.ExitStack,
        title: str,
        once: Collection[str] = (),
        training: bool = False,
    ) -> LoadedSplit:
        """A split, decoded or ready to be; a bar shows the progress."""
        augments, missing = self.augments if training else {}, self.missing.get(split, {})
        memory, workers = self.machine.memory, self.machine.workers
        with make_progress() as bars:
            bar = bars.add_task(f"{title}: {split}", total=self.index.samples(split), note="decode")

            def advance(samples: int) -> None:
                bars.advance(bar, samples)

            loaded = loader.load_split(
                self.store, self.index, split, self.specs, stay, memory=memory, workers=workers, once=once,
                seed=self.seed, advance=advance, augments=augments, missing=missing,
            )  # fmt: skip
            bars.update(bar, completed=self.index.samples(split))
        return loaded


@dataclass(frozen=True)
class TrainResult:
    """scores: of the split "val"; figures: the course of the training; inference_metadata: what prediction needs
    besides the weights (saved_model.save)."""

    scores: dict[str, float]
    figures: list[Figure]
    inference_metadata: InferenceMetadata


def train_model(
    model: LateFusion,
    data: DataSource,
    run: Run | None,
    *,
    weights: np.ndarray,
    one_drawn: bool,
    training: Training,
    folder: Path,
    device: torch.device,
    title: str,
    rival: Rival | None = None,
) -> TrainResult:
    """Train `model` and leave it with its best weights; without a `run` it is only validated.

    weights: (S,) over the patterns, one_drawn, rival: as PatternStep; folder: for kept features. UserError where there is
    only one class to learn, for a kernel that can't repeat where it has to, and as `fit`.
    """
    fixed = feature_cache.find_frozen(model, data.augments)
    probed = len(model.modalities) > 1
    names = ("train", "val") if run or probed else ("val",)
    batch_size, figures = training.batch_size, list[Figure]()
    with contextlib.ExitStack() as stay, loader.watch_workers(), explain_nondeterminism():
        splits = {
            name: data.load(name, stay, title, fixed, training=name == "train") for name in names
        }
        if run:
            _check_classes(splits["train"])
        made_from = {"shards": data.index.fingerprint}
        splits = stay.enter_context(
            feature_cache.cache_features(
                model, splits, fixed, folder, made_from, batch_size, device
            )
        )
        validate = make_validation(model, splits["val"], weights, batch_size, device)
        if run:
            step = PatternStep(model, weights, one_drawn, rival)
            how = training.of_the_loop() | {"rates": factory.assign_learning_rates(model, training)}
            figures = fit(
                step,
                model,
                splits["train"],
                validate,
                run,
                **how,
                seed=data.seed,
                device=device,
                title=title,
            )
        scores = {f"val_{name}": value for name, value in validate().items()}
        if probed:
            linear_probe.fit_all(model, splits["train"], splits["val"], batch_size, device)
        calibrations = _calibrations(model, splits["val"], batch_size, device, data.seed)
    settings = data.index.settings.get("preprocess", {})
    inference_metadata = InferenceMetadata(
        classes=data.index.classes,
        task=data.index.task,
        media=Packing.model_validate(settings.get("media", {})),
        calibration=calibrations,
    )
    return TrainResult(scores, figures, inference_metadata)


def _calibrations(
    model: LateFusion, val: LoadedSplit, batch_size: int, device: torch.device, seed: int
) -> dict[str, calibration.Calibration]:
    """Of every subset, and of every probe ("probe/audio"), fitted on the samples of validation that have all of it."""
    names, probed = model.modalities, bool(model.probes)
    table = torch.from_numpy(make_keep_table(names))
    logits = predict_logits([(model, table)], val, batch_size, device, probed)[0].numpy()
    fitted = {
        format_pattern(pattern): (i, pattern) for i, pattern in enumerate(list_patterns(names))
    }
    fitted |= {f"probe/{m}": (len(table) + i, (m,)) for i, m in enumerate(names if probed else ())}
    target, found = val.target.numpy(), {}
    for name, (i, pattern) in fitted.items():
        whole = val.present[:, [names.index(m) for m in pattern]].all(1).numpy()
        own = np.where(whole[:, None], logits[:, i], np.nan)
        found[name] = calibration.fit(own, target, val.groups, seed)
    return found


def _check_classes(train: LoadedSplit) -> None:
    if bool((train.target == train.target[0]).all()):
        what = "of one class" if train.target.ndim == 1 else "of the same labels"
        raise UserError(
            f"all {len(train)} samples are {what}",
            "train shards",
            "Check the labels: umemma doctor",
        )

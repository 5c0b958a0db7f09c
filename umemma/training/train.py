"""What pretraining and fine-tuning have in common.

The data they see, the cached features of frozen encoders, the training loop, and then the linear
probes and the calibration, which are fitted to the trained model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from umemma.config import Machine, Training
from umemma.data import decoding, loader
from umemma.data.loader import LoadedSplit
from umemma.data.shard_reader import Index, read_scales
from umemma.errors import UserError
from umemma.evaluation import calibration
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.classification import thresholds
from umemma.evaluation.classification.selection import choose_metric
from umemma.evaluation.classification.thresholds import Thresholds
from umemma.missing import list_patterns, make_keep_table
from umemma.models import factory
from umemma.models.fusion_head import BoundedMeans
from umemma.models.late_fusion import LateFusion
from umemma.models.saved_model import InferenceMetadata
from umemma.system.log import make_progress
from umemma.system.storage import Store
from umemma.training import feature_cache, linear_probe, pooling
from umemma.training.early_stopping import Validation
from umemma.training.loss import TrainingLoss, make_training_loss
from umemma.training.optimizer import Optimizer
from umemma.training.reproducibility import explain_nondeterminism
from umemma.training.run_folder import MetricRow, Run
from umemma.training.step import PatternStep, make_validation, predict_logits
from umemma.training.trainer import count_steps, fit
from umemma.types import InputSpec, Packing, Plain, format_pattern

PRIOR_DIGITS = 9  # of a class's share


@dataclass(frozen=True)
class DataSource:
    """Shards, and how samples are made of them.

    augments: for training only; missing: {split: {what is taken away: share that loses it}}; cache:
    the folder of decoded samples, None for no cache.
    """

    store: Store
    index: Index
    specs: Mapping[str, InputSpec]
    machine: Machine
    seed: int
    augments: Mapping[str, Plain] = field(default_factory=dict)
    missing: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cache: Path | None = None

    def load(
        self,
        split: str,
        stay: contextlib.ExitStack,
        title: str,
        once: Collection[str] = (),
        training: bool = False,
    ) -> LoadedSplit:
        """Return a split, decoded or ready to be decoded; a progress bar is shown.

        once: modalities that are read only once; training: whether samples are augmented; stay:
        closes what reading needs.
        """
        total = self.index.samples(split)
        augments: Mapping[str, Plain] = {}
        if training:
            augments = self.augments
        with make_progress() as bars:
            bar = bars.add_task(f"{title}: {split}", total=total, note="decode")

            def advance(samples: int) -> None:
                bars.advance(bar, samples)

            options = loader.LoadOptions(
                memory=self.machine.memory,
                workers=self.machine.workers,
                once=once,
                augments=augments,
                missing=self.missing.get(split, {}),
                seed=self.seed,
                cache=self.cache,
            )
            loaded = loader.load_split(
                self.store,
                self.index,
                split,
                self.specs,
                stay,
                options,
                advance,
            )
            bars.update(bar, completed=total)
        return loaded


@dataclass(frozen=True)
class TrainResult:
    """What a training gives besides the weights.

    scores: {"val_score", "val_loss"} of the best weights; metrics: the course of the training.
    """

    scores: dict[str, float]
    metrics: list[MetricRow]
    inference_metadata: InferenceMetadata


def train_model(
    step: PatternStep,
    data: DataSource,
    run: Run | None,
    *,
    training: Training,
    cache_folder: Path,
    device: torch.device,
    title: str,
    pooled: bool = False,
) -> TrainResult:
    """Train the model of `step` and leave it with its best weights.

    pooled: whether the heads that it starts from are first weighted on validation. Without a `run`
    it is only validated. Validation weighs the missing patterns as the step does.
    UserError if there is only one class to learn, for a kernel that can't repeat where it has to,
    and as `fit`.
    """
    model = step.model
    batch_size = training.batch_size
    has_probes = len(model.modalities) > 1
    names = ["val"]
    if run or has_probes or training.weighs_classes:
        names = ["train", "val"]
    metrics: list[MetricRow] = []
    select = training.select
    if select is None and training.weighs_classes and data.index.task == "multiclass":
        select = "balanced_accuracy"
    metric = choose_metric(select, data.index.task, model.classes, f"{title}: select")
    with contextlib.ExitStack() as stay, decoding.watch_workers(), explain_nondeterminism():
        # 1. Load the splits; frozen encoders are replaced by their cached features.
        frozen = feature_cache.find_frozen(model, data.augments)
        splits = {}
        for name in names:
            splits[name] = data.load(name, stay, title, frozen, training=name == "train")
        if run:
            _check_classes(splits["train"])
        if isinstance(model.bound, BoundedMeans) and "train" in splits:
            model.bound.fit(splits["train"].target)
        sources = {"shards": data.index.fingerprint}
        cached = feature_cache.cache_features(
            model, splits, frozen, cache_folder, sources, batch_size, device
        )
        splits = stay.enter_context(cached)

        if "train" in splits:
            step.loss = _make_loss(training, splits["train"], data.index, title).to(device)

        # 2. Train.
        if pooled:
            pooling.pool_heads(model, splits["val"], batch_size, device, step.loss)
        pattern_weights = step.pattern_weights
        validation = make_validation(
            model, splits["val"], pattern_weights, batch_size, device, metric, step.loss
        )
        if run:
            metrics = _fit(step, splits["train"], validation, run, training, data.seed, title)

        # 3. Fit what is fitted to the best weights, and validate them.
        if has_probes:
            linear_probe.fit_all(model, splits["train"], splits["val"], batch_size, device)
        scores = {f"val_{name}": value for name, value in validation.run().items()}
        fitted = _fit_calibrations(
            model, splits["val"], batch_size, device, data.seed, data.index.task, step.loss
        )
    names = model.modalities
    inference_metadata = _describe_inference(data, names, *fitted, splits.get("train"))
    return TrainResult(scores, metrics, inference_metadata)


def _fit(
    step: PatternStep,
    train: LoadedSplit,
    validation: Validation,
    run: Run,
    training: Training,
    seed: int,
    title: str,
) -> list[MetricRow]:
    """Train the model of `step` with an optimizer of its own, and return the metrics."""
    optimizer = Optimizer(
        step.model,
        training,
        total_steps=count_steps(len(train), training.batch_size, training.epochs),
        rates=factory.assign_learning_rates(step.model, training),
    )
    return fit(
        step,
        optimizer,
        train,
        validation,
        run,
        training=training,
        seed=seed,
        title=title,
    )


def _fit_calibrations(
    model: LateFusion,
    val: LoadedSplit,
    batch_size: int,
    device: torch.device,
    seed: int,
    task: str,
    loss: TrainingLoss,
) -> tuple[dict[str, Calibration], dict[str, Thresholds]]:
    """Return the calibration of every subset, and of every probe ("probe/audio"), and thresholds.

    Each is fitted on the validation samples that have all modalities of the subset. Labels of a
    multi-label task have thresholds, and classes that the loss of the training weighs.
    """
    modalities = model.modalities
    has_probes = bool(model.probes)
    keep_table = torch.from_numpy(make_keep_table(modalities))
    models = [(model, keep_table)]
    (all_logits,) = predict_logits(models, val, batch_size, device, has_probes)
    # The patterns in the order of their logits: all subsets, then the probes.
    patterns = {format_pattern(pattern): pattern for pattern in list_patterns(modalities)}
    if has_probes:
        patterns |= {f"probe/{m}": (m,) for m in modalities}
    target = val.target.numpy()
    natural_shift = loss.natural_shift()
    calibrations: dict[str, Calibration] = {}
    fitted_thresholds: dict[str, Thresholds] = {}
    for i, (name, pattern) in enumerate(patterns.items()):
        columns = [modalities.index(m) for m in pattern]
        has_all = val.present[:, columns].all(1).numpy()
        logits = np.where(has_all[:, None], all_logits[:, i].numpy(), np.nan)
        shift = natural_shift
        if shift is None or name.startswith("probe/"):  # the loss of a probe weighs nothing
            shift = np.zeros(1)
        fitted = calibration.fit(logits + shift, target, val.groups, seed)
        if shift.any():
            fitted = fitted.after_shift(shift)
        calibrations[name] = fitted
        if task == "multilabel":
            found = thresholds.fit(calibrations[name].apply(logits), target)
            if found:
                fitted_thresholds[name] = found
        elif natural_shift is not None:
            fitted_thresholds[name] = thresholds.of_shift(natural_shift)
    return calibrations, fitted_thresholds


def _make_loss(training: Training, train: LoadedSplit, index: Index, title: str) -> TrainingLoss:
    return make_training_loss(
        training, train.target, index.classes, index.task, title, train.weight
    )


def _describe_inference(
    data: DataSource,
    names: Sequence[str],
    calibrations: dict[str, Calibration],
    fitted_thresholds: dict[str, Thresholds],
    train: LoadedSplit | None,
) -> InferenceMetadata:
    index = data.index
    preprocess_settings = index.settings.get("preprocess", {})
    prior: list[float] = []
    if train is not None and index.task != "regression":
        prior = _compute_prior(train.target, len(index.classes))
    return InferenceMetadata(
        classes=index.classes,
        task=index.task,
        media=Packing.model_validate(preprocess_settings.get("media", {})),
        calibration=calibrations,
        prior=prior,
        thresholds=fitted_thresholds,
        inputs={m: index.inputs[m] for m in names if m in index.inputs},
        scales=read_scales(data.store, index),
    )


def _compute_prior(target: Tensor, classes: int) -> list[float]:
    """Return the share of the samples that have each class. target: (N,) or (N, C)."""
    if target.ndim == 1:
        target = functional.one_hot(target, classes)
    return [round(share, PRIOR_DIGITS) for share in target.double().mean(0).tolist()]


def _check_classes(train: LoadedSplit) -> None:
    """Raise UserError if all training samples have the same label."""
    if not bool((train.target == train.target[0]).all()):
        return
    what = "of the same labels"
    if train.target.ndim == 1:
        what = "of one class"
    raise UserError(
        f"all {len(train)} samples are {what}",
        "train shards",
        "Check the labels: umemma doctor",
    )

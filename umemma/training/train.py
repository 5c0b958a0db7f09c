"""What both trainings have in common: the data they see, kept features, the missing-modality step, the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umemma.config import Machine, Training
from umemma.data import loader
from umemma.data.loader import Split
from umemma.data.shard_reader import Index
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.evaluation import calibration
from umemma.missing import keep_table, patterns
from umemma.models import factory
from umemma.models.late_fusion import LateFusion
from umemma.system.log import progress
from umemma.training import feature_cache, linear_probe
from umemma.training.balancing import Rival
from umemma.training.run_folder import Figure, Run
from umemma.training.step import PatternStep, answers, validation
from umemma.training.trainer import fit, repeatable
from umemma.types import InputSpec, Plain, joined


@dataclass(frozen=True)
class Data:
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
    ) -> Split:
        """A split, decoded or ready to be; a bar shows the progress."""
        augments, missing = self.augments if training else {}, self.missing.get(split, {})
        memory, workers = self.machine.memory, self.machine.workers
        with progress() as bars:
            bar = bars.add_task(f"{title}: {split}", total=self.index.samples(split), note="decode")

            def advance(samples: int) -> None:
                bars.advance(bar, samples)

            loaded = loader.load(
                self.store, self.index, split, self.specs, stay, memory=memory, workers=workers, once=once,
                seed=self.seed, advance=advance, augments=augments, missing=missing,
            )  # fmt: skip
            bars.update(bar, completed=self.index.samples(split))
        return loaded


@dataclass(frozen=True)
class Learned:
    """scores: of the split "val"; figures: the course of the training; answers: what belongs to the weights where they are
    used (checkpoint.save)."""

    scores: dict[str, float]
    figures: list[Figure]
    answers: dict[str, Any]


def learn(
    model: LateFusion,
    data: Data,
    run: Run | None,
    *,
    weights: np.ndarray,
    one_drawn: bool,
    training: Training,
    folder: Path,
    device: torch.device,
    title: str,
    rival: Rival | None = None,
) -> Learned:
    """Train `model` and leave it with its best weights; without a `run` it is only validated.

    weights: (S,) over the patterns, one_drawn, rival: as PatternStep; folder: for kept features. UserError where there is
    only one class to learn, for a kernel that can't repeat where it has to, and as `fit`.
    """
    fixed = feature_cache.unchanging(model, data.augments)
    probed = len(model.modalities) > 1
    names = ("train", "val") if run or probed else ("val",)
    batch_size, figures = training.batch_size, list[Figure]()
    with contextlib.ExitStack() as stay, loader.watched(), repeatable():
        splits = {
            name: data.load(name, stay, title, fixed, training=name == "train") for name in names
        }
        if run:
            _check_classes(splits["train"])
        made_from = {"shards": data.index.fingerprint}
        splits = stay.enter_context(
            feature_cache.kept(model, splits, fixed, folder, made_from, batch_size, device)
        )
        validate = validation(model, splits["val"], weights, batch_size, device)
        if run:
            step = PatternStep(model, weights, one_drawn, rival)
            how = training.of_the_loop() | {"rates": factory.rates(model, training)}
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
    answers = {
        "classes": data.index.classes,
        "task": data.index.task,
        "media": settings.get("media", {}),
    }
    return Learned(scores, figures, answers | {"calibration": calibrations})


def _calibrations(
    model: LateFusion, val: Split, batch_size: int, device: torch.device, seed: int
) -> dict[str, dict[str, Any]]:
    """Of every subset, and of every probe ("probe/audio"), fitted on the samples of validation that have all of it."""
    names, probed = model.modalities, bool(model.probes)
    table = torch.from_numpy(keep_table(names))
    logits = answers([(model, table)], val, batch_size, device, probed)[0].numpy()
    fitted = {joined(pattern): (i, pattern) for i, pattern in enumerate(patterns(names))}
    fitted |= {f"probe/{m}": (len(table) + i, (m,)) for i, m in enumerate(names if probed else ())}
    target, found = val.target.numpy(), {}
    for name, (i, pattern) in fitted.items():
        whole = val.present[:, [names.index(m) for m in pattern]].all(1).numpy()
        own = np.where(whole[:, None], logits[:, i], np.nan)
        found[name] = calibration.fit(own, target, val.groups, seed).as_json()
    return found


def _check_classes(train: Split) -> None:
    if bool((train.target == train.target[0]).all()):
        what = "of one class" if train.target.ndim == 1 else "of the same labels"
        raise UserError(
            f"all {len(train)} samples are {what}",
            "train shards",
            "Check the labels: umemma doctor",
        )

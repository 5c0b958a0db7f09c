"""finetune-ensemble: late fusion of the encoders -> models/<dataset>/ensemble/.

The second half of UME-MMA: start from the uni-modal models (their average is UME), then fine-tune
while showing every way a modality can be absent (MMA), so that a missing modality doesn't disturb
what is left. The baselines are the same code with other switches (umemma/presets.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umemma.config import CLASS_WEIGHTS, Encoder, Finetune, Params, Training
from umemma.data import shard_reader
from umemma.errors import UserError
from umemma.missing import normalize_pattern_weights
from umemma.models import factory, saved_model
from umemma.models.late_fusion import LateFusion
from umemma.presets import Switches
from umemma.system.files import sha256
from umemma.system.storage import Store
from umemma.training.balancing import Balancing, GradientModulation, Teachers
from umemma.training.reproducibility import prepare
from umemma.training.run_folder import Run, format_csv
from umemma.training.step import PatternStep
from umemma.training.train import DataSource, train_model


def run(params: Params, force: bool = False, tracker: str = "") -> float:
    """Fine-tune the ensemble and return its validation score under the patterns of training.

    A model that was trained with the same settings is kept, unless `force` is set. tracker: that
    gets the metrics, "" for none.
    """
    # 1. Check the settings.
    section = params.finetune
    switches = section.switches()
    if switches.init == "unimodal":
        _check_weights(params)
    data, settings = _open_data(params)
    encoders = {m: params.encoder(m) for m in sorted(params.modalities)}
    pattern_weights = _weigh_patterns(section, switches, list(encoders))

    # 2. Find what there is: the weights to start from, or the ensemble itself.
    device = prepare(params.seed, "finetune", machine=params.machine)
    start = _find_start(params, data.index, encoders, switches)
    folder = params.paths.ensemble
    if not force:
        info = saved_model.find_current(folder, settings, start.checksums)
        if info is not None:
            return info.scores["val_score"]

    # 3. Train.
    model, training = _build_ensemble(section, switches, encoders, data, start)
    training_run = None
    if switches.train != "none":
        training_run = Run.from_settings(
            params.paths.runs,
            switches.preset,
            settings,
            start.checksums,
            params.machine,
            tracker,
        )
    model = factory.place_on_device(model, section, device)
    result = train_model(
        _make_step(section, switches, model, pattern_weights, start.unimodal),
        data,
        training_run,
        training=training,
        cache_folder=params.paths.runs / "features",
        device=device,
        title=f"finetune {switches.preset}",
        pooled=_is_pooled(section, switches),
    )

    # 4. Save the model; its checkpoints are no longer needed.
    saved_model.save(
        folder,
        model,
        settings,
        result.scores,
        format_csv(result.metrics),
        start.checksums,
        result.inference_metadata,
        factory.find_hub_names(encoders, data.specs),
    )
    if training_run is not None:
        training_run.finish()
    return result.scores["val_score"]


def _check_weights(params: Params) -> None:
    """UserError for weights of classes that differ from those of the models that it starts from.

    Their logits would be of other shares of the classes than those of the ensemble.
    """
    for m in params.modalities:
        pretraining = params.pretrain.of(params.sharing(m)[0])
        for name in CLASS_WEIGHTS:
            if getattr(pretraining, name) != getattr(params.finetune, name):
                raise UserError(
                    f"{name} differs between the uni-modal model of {m} and the ensemble, which "
                    "starts from it",
                    f"finetune.{name}",
                    f"Set pretrain.{name} and finetune.{name} alike, and train both.",
                    usage=True,
                )


def _is_pooled(section: Finetune, switches: Switches) -> bool:
    """Whether the start is the weighted mean of the uni-modal models."""
    is_mean = switches.init == "unimodal" and switches.fusion == "mean"
    return is_mean and section.start == "pooled"


def _open_data(params: Params) -> tuple[DataSource, dict[str, Any]]:
    """Return the shards, and all settings that the ensemble depends on."""
    store = Store(params.paths.shards)
    index = shard_reader.read_index(store, params.shard_settings()).select_fold(params.fold_number)
    params.check_modalities(index.modalities, index.kinds)
    settings = params.ensemble_settings(index.fingerprint)
    specs = factory.input_specs({m: params.encoder(m) for m in params.modalities}, index.inputs)
    augments = factory.make_augmentations(settings["augment"], specs)
    data = DataSource(
        store,
        index,
        specs,
        params.machine,
        params.seed,
        augments,
        settings["missing"],
        params.decoded_cache,
    )
    return data, settings


def _weigh_patterns(
    section: Finetune,
    switches: Switches,
    modalities: Sequence[str],
) -> np.ndarray:
    """Return the (S,) weights of the missing patterns in training and in validation."""
    weights = normalize_pattern_weights(modalities, section.pattern_weights)
    if switches.mma == "none":
        return np.eye(len(weights))[0]  # the complete pattern only
    return weights


@dataclass
class Start:
    """The weights that an ensemble starts from.

    unimodal: {modality: its uni-modal model}, to start from or to be taught by; pretrained:
    {modality: the file of its encoder's pretrained weights}; checksums: {what the weights are:
    their checksum}.
    """

    unimodal: dict[str, LateFusion] = field(default_factory=dict)
    pretrained: dict[str, Path] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)


def _find_start(
    params: Params,
    index: shard_reader.Index,
    encoders: Mapping[str, Encoder],
    switches: Switches,
) -> Start:
    """Return what the switches start from. UserError for a uni-modal model that isn't trained."""
    start = Start()
    is_teacher = switches.init != "unimodal"
    if is_teacher:
        start.pretrained = factory.find_weights(encoders)
        start.checksums = {m: sha256(path) for m, path in start.pretrained.items()}
        if switches.balance != "umt":
            return start
    for m in encoders:
        start.unimodal[m], info = _load_unimodal(params, m, index)
        name = m
        if is_teacher:
            name = f"teacher of {m}"
        start.checksums[name] = info.weights_sha256
    return start


def _load_unimodal(
    params: Params, modality: str, index: shard_reader.Index
) -> tuple[LateFusion, saved_model.ModelInfo]:
    """Return the uni-modal model of a modality, and what its model.json says."""
    encoders = {modality: params.encoder(modality)}
    # The initial weights of the ensemble are the same as without a uni-modal model.
    with torch.random.fork_rng(devices=[]):
        specs = factory.input_specs(encoders, index.inputs)
        model = factory.build(encoders, specs, index.classes, task=index.task)
    hint = f"Run: umemma pretrain-unimodal --modality {modality}"
    settings = params.unimodal_settings(modality, index.fingerprint)
    return model, saved_model.load(params.paths.pretrain(modality), model, settings, hint)


def _build_ensemble(
    section: Finetune,
    switches: Switches,
    encoders: Mapping[str, Encoder],
    data: DataSource,
    start: Start,
) -> tuple[LateFusion, Training]:
    """Return the ensemble with the weights that it starts from, and how it is trained.

    From scratch, finetune.scratch says for how long and at which learning rate.
    """
    training: Training = section
    model = factory.build(
        encoders,
        data.specs,
        data.index.classes,
        section.absent,
        start.pretrained,
        switches.fusion,
        data.index.task,
    )
    if switches.init == "unimodal":
        model.start_from(start.unimodal)
    else:
        changes = section.scratch.model_dump() | {"keep_start": None}
        training = section.model_copy(update=changes)
    if switches.train == "head":
        model.freeze(encoders)
    return model, training


def _make_step(
    section: Finetune,
    switches: Switches,
    model: LateFusion,
    pattern_weights: np.ndarray,
    unimodal: Mapping[str, LateFusion],
) -> PatternStep:
    """Return the training step. Teachers are placed on the device of the model."""
    balancing = _make_balancing(switches.balance, section, model, unimodal)
    ranking_weight = 0.0
    if switches.fusion == "gated":
        ranking_weight = section.simmlm.weight
    return PatternStep(model, pattern_weights, switches.mma == "drop", balancing, ranking_weight)


def _make_balancing(
    name: str,
    section: Finetune,
    model: LateFusion,
    unimodal: Mapping[str, LateFusion],
) -> Balancing | None:
    """Return the balancing method that finetune.balance names, None for "none"."""
    if name == "ogm-ge":
        return GradientModulation(model, section.ogm.alpha, section.ogm.noise)
    if name == "umt":
        device = next(model.parameters()).device
        teachers = {}
        for m, teacher in unimodal.items():
            if m not in model.frozen:  # a frozen encoder learns nothing
                teachers[m] = factory.place_on_device(teacher, section, device)
        return Teachers(teachers, section.umt.weight)
    return None

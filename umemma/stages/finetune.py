"""finetune-ensemble: late fusion of the encoders -> models/<dataset>/ensemble/.

UME-MMA's second half: start from the uni-modal models (their average is UME), then fine-tune while showing every way a
modality can be absent (MMA), so that the hole in the fusion doesn't disturb what is left. The baselines are the same
code with other switches (config.PRESETS).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from umemma.config import Finetune, Params, Training
from umemma.data import shard_reader
from umemma.data.storage import Store
from umemma.missing import normalize_pattern_weights
from umemma.models import factory, saved_model
from umemma.models.late_fusion import LateFusion
from umemma.system.files import sha256
from umemma.training.balancing import GradientModulation, Rival, Teachers
from umemma.training.run_folder import Run, format_csv
from umemma.training.train import DataSource, train_model
from umemma.training.trainer import prepare


def run(params: Params, again: bool = False, tensorboard: bool = False) -> float:
    """Fine-tune the ensemble. Returns its validation score under the patterns it was trained for.

    A model that is there, made with the same settings, stays, unless it is to be trained `again`.
    """
    section, switches = params.finetune, params.finetune.switches()
    store = Store(params.paths.shards)
    index = shard_reader.read_index(store, params.shard_settings())
    params.check_modalities(index.modalities)
    settings, folder = params.ensemble_settings(index.fingerprint), params.paths.ensemble
    chosen = {m: params.encoder(m) for m in sorted(params.modalities)}
    specs = factory.input_specs(chosen)
    augments = factory.make_augmentations(settings["augment"], specs)
    weights = normalize_pattern_weights(list(chosen), section.pattern_weights)
    if switches["mma"] == "none":
        weights = np.eye(len(weights))[0]  # the complete pattern only
    device = prepare(params.seed, "finetune", deterministic=params.machine.deterministic)
    unimodal = switches["init"] == "unimodal"
    pretrained = {} if unimodal else factory.find_weights(chosen)
    started_from = {m: sha256(path) for m, path in pretrained.items()}
    alone: dict[str, LateFusion] = {}
    if unimodal or switches["balance"] == "umt":
        for m in chosen:
            alone[m], its = _unimodal(params, m, index)
            started_from[m if unimodal else f"teacher of {m}"] = its.weights_sha256
    if not again and (info := saved_model.find_current(folder, settings, started_from)):
        return info.scores["val_score"]
    training: Training = section
    if unimodal:
        model = factory.build(chosen, specs, index.classes, section.absent)
        model.start_from(alone)
    else:
        model = factory.build(chosen, specs, index.classes, section.absent, pretrained)
        training = section.model_copy(update=section.scratch.model_dump())
    if switches["train"] == "head":
        model.freeze(chosen)
    under_way = None
    if switches["train"] != "none":
        under_way = Run.of(
            params.paths.runs,
            switches["preset"],
            settings,
            started_from,
            params.machine,
            tensorboard,
        )
    learned = train_model(
        factory.place_on_device(model, section, device),
        DataSource(store, index, specs, params.machine, params.seed, augments, settings["missing"]),
        under_way,
        weights=weights,
        one_drawn=switches["mma"] == "drop",
        training=training,
        folder=params.paths.runs / "features",
        device=device,
        title=f"finetune {switches['preset']}",
        rival=_rival(switches["balance"], section, model, alone, device),
    )
    figures, from_hub = format_csv(learned.figures), factory.find_hub_names(chosen, specs)
    saved_model.save(
        folder,
        model,
        settings,
        learned.scores,
        figures,
        started_from,
        learned.inference_metadata,
        from_hub,
    )
    if under_way:
        under_way.end()
    return learned.scores["val_score"]


def _rival(
    name: str,
    section: Finetune,
    model: LateFusion,
    alone: Mapping[str, LateFusion],
    device: torch.device,
) -> Rival | None:
    if name == "ogm-ge":
        return GradientModulation(model, section.ogm.alpha, section.ogm.noise)
    if name == "umt":  # a frozen encoder has nothing to be taught
        teachers = {
            m: factory.place_on_device(one, section, device)
            for m, one in alone.items()
            if m not in model.frozen
        }
        return Teachers(teachers, section.umt.weight)
    return None


def _unimodal(
    params: Params, modality: str, index: shard_reader.Index
) -> tuple[LateFusion, saved_model.ModelInfo]:
    chosen = {modality: params.encoder(modality)}
    with torch.random.fork_rng(devices=[]):  # the ensemble starts as it would without
        model = factory.build(chosen, factory.input_specs(chosen), index.classes)
    hint = f"Run: umemma pretrain-unimodal --modality {modality}"
    settings = params.unimodal_settings(modality, index.fingerprint)
    return model, saved_model.load(params.paths.pretrain(modality), model, settings, hint)

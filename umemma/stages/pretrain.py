"""pretrain-unimodal: one classifier per modality -> models/<dataset>/pretrain/<modality>/.

The first half of UME-MMA: each encoder has to extract good features by itself. The score of these
models is also the ceiling that the ensemble is measured against when only that modality is left.

Modalities that share an encoder (`encoders.<modality>.same_as`) are trained together: each sample
is shown each of them alone. Their uni-modal models then have the same encoder and heads of their
own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from loguru import logger

from umemma.config import Encoder, Params
from umemma.data import shard_reader
from umemma.errors import unknown_name
from umemma.missing import list_patterns
from umemma.modalities.limits import describe_enlarging
from umemma.models import factory, saved_model
from umemma.models.late_fusion import LateFusion
from umemma.system.files import sha256
from umemma.system.storage import Store
from umemma.training.reproducibility import prepare
from umemma.training.run_folder import Run, format_csv
from umemma.training.step import PatternStep
from umemma.training.train import DataSource, TrainResult, train_model


def run(params: Params, modality: str, force: bool = False, tracker: str = "") -> float:
    """Train the uni-modal model of `modality` and return its validation score.

    Samples that lack the modality are left out. A model that was trained with the same settings is
    kept, unless `force` is set. The models of modalities that share its encoder are trained with
    it. tracker: that gets the metrics, "" for none.
    """
    # 1. Check the settings.
    if modality not in params.modalities:
        raise unknown_name("modality", modality, params.modalities, "--modality")
    group = params.sharing(modality)
    data, settings = _open_data(params, group)
    training = params.pretrain.of(group[0])

    # 2. Find what there is: pretrained weights to start from, or the model itself.
    device = prepare(params.seed, "pretrain", group[0], machine=params.machine)
    encoders = {m: params.encoder(m) for m in group}
    weights = factory.find_weights(encoders)
    started_from = {m: sha256(path) for m, path in weights.items()}
    if not force:
        own_start = {m: checksum for m, checksum in started_from.items() if m == modality}
        folder = params.paths.pretrain(modality)
        info = saved_model.find_current(folder, settings[modality], own_start)
        if info is not None:
            return info.scores["val_score"]

    # 3. Train.
    index = data.index
    model = factory.build(encoders, data.specs, index.classes, weights=weights, task=index.task)
    training_run = Run.from_settings(
        params.paths.runs,
        f"pretrain-{'+'.join(group)}",
        settings[group[0]],
        started_from,
        params.machine,
        tracker,
    )
    model = factory.place_on_device(model, training, device)
    result = train_model(
        PatternStep(model, pattern_weights=_weigh_alone(group), draw_one=False),
        data,
        training_run,
        training=training,
        cache_folder=params.paths.runs / "features",
        device=device,
        title=f"pretrain {'+'.join(group)}",
    )
    results = {modality: (model, result)}
    if len(group) > 1:
        for m in group:
            results[m] = _take_out(params, m, model, data, result, device)

    # 4. Save the models; the checkpoints are no longer needed.
    for m, (unimodal, own_result) in results.items():
        saved_model.save(
            params.paths.pretrain(m),
            unimodal,
            settings[m],
            own_result.scores,
            format_csv(result.metrics),
            {name: checksum for name, checksum in started_from.items() if name == m},
            own_result.inference_metadata,
            factory.find_hub_names({m: encoders[m]}, {m: data.specs[m]}),
        )
    training_run.finish()
    return results[modality][1].scores["val_score"]


def _open_data(
    params: Params,
    group: Sequence[str],
) -> tuple[DataSource, dict[str, dict[str, Any]]]:
    """Return the shards with the modalities of a group, and {modality: all settings that its model
    depends on}.

    The settings of all modalities are checked, so that they fail before the first one trains.
    """
    store = Store(params.paths.shards)
    index = shard_reader.read_index(store, params.shard_settings()).select_fold(params.fold_number)
    params.check_modalities(index.modalities, index.kinds)
    settings = {m: params.unimodal_settings(m, index.fingerprint) for m in group}
    common = settings[group[0]]
    specs = factory.input_specs({m: params.encoder(m) for m in params.modalities}, index.inputs)
    for m in group:
        enlarging = describe_enlarging(m, specs[m], params.preprocess.media)
        if enlarging:
            logger.warning(enlarging)
    data = DataSource(
        store,
        index,
        {m: specs[m] for m in group},
        params.machine,
        params.seed,
        factory.make_augmentations(common["augment"], specs),
        common["missing"],
        params.decoded_cache,
    )
    return data, settings


def _weigh_alone(group: Sequence[str]) -> np.ndarray:
    """Return (S,) weights of the patterns of a group: each modality alone, all alike."""
    is_alone = [len(pattern) == 1 for pattern in list_patterns(group)]
    return np.array(is_alone) / len(group)


def _take_out(
    params: Params,
    modality: str,
    model: LateFusion,
    data: DataSource,
    result: TrainResult,
    device: torch.device,
) -> tuple[LateFusion, TrainResult]:
    """Return the uni-modal model of one modality of a group, and its own validation."""
    encoders: Mapping[str, Encoder] = {modality: params.encoder(modality)}
    specs = {modality: data.specs[modality]}
    training = params.pretrain.of(params.sharing(modality)[0])
    unimodal = factory.build(encoders, specs, data.index.classes, task=data.index.task)
    unimodal.encoders[modality].load_state_dict(model.encoders[modality].state_dict())
    unimodal.heads[modality].load_state_dict(model.heads[modality].state_dict())
    unimodal.bound.load_state_dict(model.bound.state_dict())
    unimodal = factory.place_on_device(unimodal, training, device)
    own = train_model(
        PatternStep(unimodal, pattern_weights=np.ones(1), draw_one=False),
        replace(data, specs=specs),
        None,
        training=training,
        cache_folder=params.paths.runs / "features",
        device=device,
        title=f"pretrain {modality}",
    )
    metadata = own.inference_metadata._replace(prior=result.inference_metadata.prior)
    return unimodal, replace(own, inference_metadata=metadata)

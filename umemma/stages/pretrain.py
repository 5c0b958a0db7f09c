"""pretrain-unimodal: one classifier per modality -> models/<dataset>/pretrain/<modality>/.

The first half of UME-MMA: each encoder has to extract good features by itself. The score of these
models is also the ceiling that the ensemble is measured against when only that modality is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from umemma.config import Params
from umemma.data import shard_reader
from umemma.data.storage import Store
from umemma.errors import unknown_name
from umemma.models import factory, saved_model
from umemma.system.files import sha256
from umemma.training.reproducibility import prepare
from umemma.training.run_folder import Run, format_csv
from umemma.training.step import PatternStep
from umemma.training.train import DataSource, train_model


def run(params: Params, modality: str, force: bool = False, tensorboard: bool = False) -> float:
    """Train the uni-modal model of `modality` and return its validation score.

    Samples that lack the modality are left out. A model that was trained with the same settings is
    kept, unless `force` is set.
    """
    # 1. Check the settings.
    if modality not in params.modalities:
        raise unknown_name("modality", modality, params.modalities, "--modality")
    data, settings = _open_data(params, modality)
    training = params.pretrain.of(modality)

    # 2. Find what there is: pretrained weights to start from, or the model itself.
    device = prepare(params.seed, "pretrain", modality, machine=params.machine)
    encoders = {modality: params.encoder(modality)}
    weights = factory.find_weights(encoders)
    started_from = {m: sha256(path) for m, path in weights.items()}
    folder = params.paths.pretrain(modality)
    if not force:
        info = saved_model.find_current(folder, settings, started_from)
        if info is not None:
            return info.scores["val_score"]

    # 3. Train.
    model = factory.build(encoders, data.specs, data.index.classes, weights=weights)
    training_run = Run.from_settings(
        params.paths.runs,
        f"pretrain-{modality}",
        settings,
        started_from,
        params.machine,
        tensorboard,
    )
    model = factory.place_on_device(model, training, device)
    result = train_model(
        PatternStep(model, pattern_weights=np.ones(1), draw_one=False),
        data,
        training_run,
        training=training,
        cache_folder=params.paths.runs / "features",
        device=device,
        title=f"pretrain {modality}",
    )

    # 4. Save the model; its checkpoints are no longer needed.
    saved_model.save(
        folder,
        model,
        settings,
        result.scores,
        format_csv(result.metrics),
        started_from,
        result.inference_metadata,
        factory.find_hub_names(encoders, data.specs),
    )
    training_run.finish()
    return result.scores["val_score"]


def _open_data(params: Params, modality: str) -> tuple[DataSource, dict[str, Any]]:
    """Return the shards with one modality, and all settings that the model depends on.

    The settings of all modalities are checked, so that they fail before the first one trains.
    """
    store = Store(params.paths.shards)
    index = shard_reader.read_index(store, params.shard_settings()).select_fold(params.fold_number)
    params.check_modalities(index.modalities, index.kinds)
    settings = params.unimodal_settings(modality, index.fingerprint)
    specs = factory.input_specs({m: params.encoder(m) for m in params.modalities})
    augments = factory.make_augmentations(settings["augment"], specs)
    data = DataSource(
        store,
        index,
        {modality: specs[modality]},
        params.machine,
        params.seed,
        augments,
        settings["missing"],
        params.decoded_cache,
    )
    return data, settings

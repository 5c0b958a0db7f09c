"""pretrain-unimodal: one classifier per modality, trained alone -> models/<dataset>/pretrain/<modality>/.

UME-MMA's first half: each encoder has to extract good features by itself. The score of these models is also the
ceiling that the ensemble is measured against when only that modality is left.
"""

from __future__ import annotations

import numpy as np

from umemma.config import Params
from umemma.data import shard_reader
from umemma.data.storage import Store
from umemma.errors import unknown_name
from umemma.models import factory, saved_model
from umemma.system.files import sha256
from umemma.training.run_folder import Run, format_csv
from umemma.training.train import DataSource, train_model
from umemma.training.trainer import prepare


def run(params: Params, modality: str, again: bool = False, tensorboard: bool = False) -> float:
    """Train the uni-modal model of `modality`; samples that lack it are left out. Returns its validation score.

    A model that is there, made with the same settings, stays, unless it is to be trained `again`.
    """
    if modality not in params.modalities:
        raise unknown_name("modality", modality, params.modalities, "--modality")
    store = Store(params.paths.shards)
    index = shard_reader.read_index(store, params.shard_settings())
    params.check_modalities(index.modalities)
    settings, folder = (
        params.unimodal_settings(modality, index.fingerprint),
        params.paths.pretrain(modality),
    )
    specs = factory.input_specs(
        {m: params.encoder(m) for m in params.modalities}
    )  # all: fail before the first trains
    augments = factory.make_augmentations(settings["augment"], specs)
    device = prepare(params.seed, "pretrain", modality, deterministic=params.machine.deterministic)
    training = params.pretrain.of(modality)
    chosen, specs = {modality: params.encoder(modality)}, {modality: specs[modality]}
    weights = factory.find_weights(chosen)
    started_from = {m: sha256(path) for m, path in weights.items()}
    if not again and (info := saved_model.find_current(folder, settings, started_from)):
        return info.scores["val_score"]
    model = factory.build(chosen, specs, index.classes, weights=weights)
    under_way = Run.of(
        params.paths.runs,
        f"pretrain-{modality}",
        settings,
        started_from,
        params.machine,
        tensorboard,
    )
    learned = train_model(
        factory.place_on_device(model, training, device),
        DataSource(store, index, specs, params.machine, params.seed, augments, settings["missing"]),
        under_way,
        weights=np.ones(1),
        one_drawn=False,
        training=training,
        folder=params.paths.runs / "features",
        device=device,
        title=f"pretrain {modality}",
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
    under_way.end()
    return learned.scores["val_score"]

"""pretrain-unimodal: one classifier per modality, trained alone -> models/<dataset>/pretrain/<modality>/.

UME-MMA's first half: each encoder has to extract good features by itself. The score of these models is also the
ceiling that the ensemble is measured against when only that modality is left.
"""

from __future__ import annotations

import numpy as np

from umemma import checkpoint, models, shards
from umemma.config import Params
from umemma.errors import unknown
from umemma.loader import decode
from umemma.store import Store
from umemma.trainer import as_csv, fit, pattern_step, pattern_validation, prepare


def run(params: Params, modality: str) -> float:
    """Train the uni-modal model of `modality`; samples that lack it are left out. Returns its validation score."""
    if modality not in params.modalities:
        raise unknown("modality", modality, params.modalities, "--modality")
    index = shards.read_index(Store(params.paths.shards), params.shard_settings())
    params.check_modalities(index.modalities)
    settings = params.unimodal_settings(modality, index.fingerprint)
    specs = models.input_specs({m: params.encoder(m) for m in params.modalities})  # all: fail before the first trains
    chosen, specs = {modality: params.encoder(modality)}, {modality: specs[modality]}

    device = prepare(params.seed, "pretrain", modality)
    model = models.build(chosen, specs, index.classes).to(device)
    splits = {
        s: decode(shards.read(Store(params.paths.shards), index, s), specs, len(index.classes), f"{s} shards")
        for s in ("train", "val")
    }
    complete = np.ones(1)
    history = fit(
        model,
        splits["train"],
        pattern_step(model, complete, one_drawn=False),
        pattern_validation(model, splits["val"], complete, params.pretrain.batch_size, device),
        **params.pretrain.model_dump(),
        seed=params.seed,
        device=device,
        title=f"pretrain {modality}",
    )
    best = max(row["val_score"] for row in history)
    checkpoint.save(params.paths.pretrain(modality), model, settings, {"val_score": best}, as_csv(history))
    return best

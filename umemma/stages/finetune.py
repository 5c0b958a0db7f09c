"""finetune-ensemble: late fusion of the encoders -> models/<dataset>/ensemble/.

UME-MMA's second half: start from the uni-modal models (their average is UME), then fine-tune while showing every way a
modality can be absent (MMA), so that the hole in the fusion doesn't disturb what is left. The baselines are the same
code with other switches (config.PRESETS).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from umemma import checkpoint, models, shards
from umemma.config import Params
from umemma.fusion import LateFusion
from umemma.loader import decode
from umemma.missing import pattern_weights
from umemma.store import Store
from umemma.trainer import as_csv, fit, pattern_step, pattern_validation, prepare


def run(params: Params) -> float:
    """Fine-tune the ensemble. Returns its validation score under the patterns it was trained for."""
    section, switches = params.finetune, params.finetune.switches()
    index = shards.read_index(Store(params.paths.shards), params.shard_settings())
    params.check_modalities(index.modalities)
    settings = params.ensemble_settings(index.fingerprint)
    chosen = {m: params.encoder(m) for m in sorted(params.modalities)}
    specs = models.input_specs(chosen)
    weights = pattern_weights(list(chosen), section.pattern_weights)
    if switches["mma"] == "none":
        weights = np.eye(len(weights))[0]  # the complete pattern only

    device = prepare(params.seed, "finetune")
    model = models.build(chosen, specs, index.classes, section.absent)
    if switches["init"] == "unimodal":
        model.start_from({m: _unimodal(params, m, index) for m in chosen})
    model.to(device)
    if switches["train"] == "head":
        model.freeze_encoders()

    names = ("train", "val") if switches["train"] != "none" else ("val",)
    splits = {
        s: decode(shards.read(Store(params.paths.shards), index, s), specs, len(index.classes), f"{s} shards")
        for s in names
    }
    validate = pattern_validation(model, splits["val"], weights, section.batch_size, device)
    history: list[dict[str, float]] = []
    if switches["train"] != "none":
        training: dict[str, Any] = {name: getattr(section, name) for name in type(params.pretrain).model_fields}
        if switches["init"] == "scratch":
            training |= section.scratch.model_dump()
        history = fit(
            model,
            splits["train"],
            pattern_step(model, weights, one_drawn=switches["mma"] == "drop"),
            validate,
            **training,
            seed=params.seed,
            device=device,
            title=f"finetune {switches['preset']}",
        )
    scores = validate()
    checkpoint.save(params.paths.ensemble, model, settings, scores, as_csv(history))
    return scores["val_score"]


def _unimodal(params: Params, modality: str, index: shards.Index) -> LateFusion:
    chosen = {modality: params.encoder(modality)}
    model = models.build(chosen, models.input_specs(chosen), index.classes)
    hint = f"Run: umemma pretrain-unimodal --modality {modality}"
    checkpoint.load(params.paths.pretrain(modality), model, params.unimodal_settings(modality, index.fingerprint), hint)
    return model

"""Trained models that were never trained: their weights are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchaudio

from umemma import cli
from umemma.config import Encoder
from umemma.encoders.torchaudio import WaveEncoder
from umemma.evaluation.calibration import Calibration
from umemma.missing import list_patterns
from umemma.models import factory, saved_model
from umemma.types import (
    Packing,
    format_pattern,
)

RATE = 8000


TOY: dict[str, Any] = {
    "audio": {
        "name": "cnn:small",
        "input": {"sample_rate": RATE, "seconds": 0.5, "mels": 16, "hop": 400},
    },
    "image": {"name": "cnn:small", "input": {"size": 16, "channels": 1}},
    "text": {"name": "text:cnn", "input": {"length": 8}},
    "video": {"name": "cnn:small", "input": {"size": 16, "frames": 2}},
}


Head = tuple[float, ...]


def saved(
    folder: Path,
    names: str = "audio+image",
    absent: str = "learned",
    task: str = "multiclass",
    head: Head = (),
    calibration: dict[str, dict[str, Any]] | None = None,
    **encoders: Any,
) -> Path:
    """A model's folder, never trained. head: the logits of everything there is; else they are random, as are the vectors of
    absence. calibration: of some subsets; the others are left as they are."""
    kept = {m: Encoder.model_validate(encoders.get(m, TOY[m])) for m in names.split("+")}
    classes = [f"class {i}" for i in range(len(head) or 3)]
    torch.manual_seed(0)
    specs = factory.input_specs(kept)
    model = factory.build(kept, specs, classes, absent)
    with torch.no_grad():
        for vector in model.vectors.values():
            vector.normal_()
        if head:
            for one in model.heads.values():
                one.weight.zero_()
                one.bias.copy_(torch.tensor(head))
    settings = {
        "kind": "ensemble",
        "modalities": sorted(kept),
        "finetune": {"absent": absent, "precision": "fp32"},
    }
    settings |= {"encoders": {m: one.model_dump(mode="json") for m, one in kept.items()}}
    fitted = {
        format_pattern(one): Calibration().as_json() for one in list_patterns(sorted(kept))
    } | (calibration or {})
    inference_metadata = saved_model.InferenceMetadata(
        classes=classes,
        task=task,
        media=Packing(),
        calibration={name: Calibration.of(one) for name, one in fitted.items()},
    )
    saved_model.save(
        folder, model, settings, {}, "", {}, inference_metadata, factory.find_hub_names(kept, specs)
    )
    return folder


def call(*words: str) -> int:
    """The command line in this process; its exit status."""
    try:
        cli.main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def tiny_wave(kind: str, normalise: bool = True) -> WaveEncoder:
    """Steps of 4 samples, D = 8."""
    options = {
        "extractor_mode": "layer_norm",
        "extractor_conv_layer_config": [(4, 3, 2), (4, 2, 2)],
        "extractor_conv_bias": False,
        "encoder_embed_dim": 8,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": 3,
        "encoder_pos_conv_groups": 1,
        "encoder_num_layers": 2,
        "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": 8,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": kind == "wavlm",
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }
    if kind == "wavlm":
        more = {"encoder_num_buckets": 4, "encoder_max_distance": 8}
        return WaveEncoder(torchaudio.models.wavlm_model(**options, **more), normalise).eval()
    return WaveEncoder(torchaudio.models.wav2vec2_model(**options), normalise).eval()

"""Trained models that were never trained: their weights are random or given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio
from PIL import Image

from umemma import cli
from umemma.config import Encoder
from umemma.encoders.torchaudio import WaveEncoder
from umemma.evaluation.calibration import Calibration
from umemma.missing import list_patterns
from umemma.models import factory, saved_model
from umemma.models.answers import Prediction
from umemma.models.late_fusion import LateFusion
from umemma.types import Packing, format_pattern

RATE = 8000  # Hz

ENCODERS: dict[str, Any] = {
    "audio": {
        "name": "cnn:small",
        "input": {"sample_rate": RATE, "seconds": 0.5, "mels": 16, "hop": 400},
    },
    "image": {"name": "cnn:small", "input": {"size": 16, "channels": 1}},
    "text": {"name": "text:cnn", "input": {"length": 8}},
    "video": {"name": "cnn:small", "input": {"size": 16, "frames": 2}},
}


def change_about(folder: Path, change: dict[str, Any]) -> None:
    """Change model.json, and leave out its hash, as in models from before there was one."""
    about = json.loads((folder / "model.json").read_text())
    about.pop("content_hash", None)
    (folder / "model.json").write_text(json.dumps(about | change))


def save_model(
    folder: Path,
    names: str = "audio+image",
    absent: str = "learned",
    task: str = "multiclass",
    head: tuple[float, ...] = (),
    fusion: str = "mean",
    calibration: dict[str, dict[str, Any]] | None = None,
    thresholds: dict[str, tuple[float, ...]] | None = None,
    prior: tuple[float, ...] = (),
    inputs: dict[str, dict[str, Any]] | None = None,
    classes: list[str] | None = None,
    **encoders: Any,
) -> Path:
    """Save a model that was never trained.

    head: the logits of everything that is present; without it they are random, as are the vectors
    of absent modalities. calibration: of some subsets; the others change nothing. thresholds: of
    some subsets. prior: the shares of the classes in training. inputs: what the training samples
    say about modalities of numbers. fusion: with another one than "mean" there are no such heads
    and vectors.
    """
    chosen = {m: Encoder.model_validate(encoders.get(m) or ENCODERS[m]) for m in names.split("+")}
    classes = classes or [f"class {i}" for i in range(len(head) or 3)]
    torch.manual_seed(0)
    specs = factory.input_specs(chosen, inputs or {})
    model = factory.build(chosen, specs, classes, absent, fusion=fusion)
    _set_weights(model, head)
    settings = {
        "kind": "ensemble",
        "modalities": sorted(chosen),
        "finetune": {"absent": absent, "fusion": fusion, "precision": "fp32"},
        "encoders": {m: encoder.model_dump(mode="json") for m, encoder in chosen.items()},
    }
    patterns = map(format_pattern, list_patterns(sorted(chosen)))
    calibrations = {pattern: Calibration() for pattern in patterns}
    for pattern, numbers in (calibration or {}).items():
        calibrations[pattern] = Calibration.of(numbers)
    inference_metadata = saved_model.InferenceMetadata(
        classes, task, Packing(), calibrations, list(prior), thresholds or {}, inputs or {}
    )
    hub_names = factory.find_hub_names(chosen, specs)
    saved_model.save(folder, model, settings, {}, "", {}, inference_metadata, hub_names)
    return folder


@torch.no_grad()
def _set_weights(model: LateFusion, head: tuple[float, ...]) -> None:
    for vector in model.vectors.values():
        vector.normal_()
    if model.fusion is not None:
        for parameter in model.fusion.parameters():
            parameter.normal_()
        bank = {m: torch.randn(7, width) for m, width in model.dims.items()}
        model.fusion.store_training_features(bank, torch.ones(7, len(bank), dtype=torch.bool))
    if head:
        for layer in model.heads.values():
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(head))


def call(*words: str) -> int:
    """Run the command line in this process and return its exit status."""
    try:
        cli.main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


# Media to predict from. -----------------------------------------------------------------------


def make_picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 24), dtype=np.uint8)


def make_noise(seed: int = 0) -> np.ndarray:
    """Half a second."""
    samples = np.random.default_rng(seed).standard_normal(RATE // 2)
    return (3000 * samples).astype(np.int16)


ROWS = (
    "key,image,audio",
    "a,x.png,x.wav",
    "b,x.png,",
    "c,,x.wav",
    "d,,",
    "e,no.png,x.wav",
    "f,x.wav,",
    "g,x.png,quiet.wav",
    "h,x.png",
)


def write_media(folder: Path) -> None:
    """Write a picture, a sound, a silent sound, and a table that names these and missing ones."""
    Image.fromarray(make_picture()).save(folder / "x.png")
    soundfile.write(folder / "x.wav", make_noise(), RATE)
    soundfile.write(folder / "quiet.wav", 0 * make_noise(), RATE)
    (folder / "table.csv").write_text("\n".join(ROWS) + "\n")


def get_probabilities(prediction: Prediction) -> np.ndarray:
    return np.array(list(prediction.probabilities.values()))


# Encoders. ------------------------------------------------------------------------------------


def tiny_wave(kind: str, normalise: bool = True) -> WaveEncoder:
    """Return an encoder with steps of 4 samples and D = 8. kind: "wav2vec2" or "wavlm"."""
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
        options |= {"encoder_num_buckets": 4, "encoder_max_distance": 8}
        model = torchaudio.models.wavlm_model(**options)
    else:
        model = torchaudio.models.wav2vec2_model(**options)
    return WaveEncoder(model, normalise).eval()

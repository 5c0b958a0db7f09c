"""Names -> models: the encoders and blank inputs of some modalities, put together as a LateFusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from umemma import encoders, modalities
from umemma.config import Encoder, Training
from umemma.models.late_fusion import LateFusion
from umemma.system import distributed
from umemma.types import InputSpec, Plain, TextInput
from umemma.validation import checked

PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def input_specs(chosen: Mapping[str, Encoder]) -> dict[str, InputSpec]:
    """What each modality's encoder wants to see. UserError for an unknown encoder or a change it doesn't know."""
    return {
        m: encoder.adapt(encoders.input_spec(encoder.name, m), m)
        for m, encoder in sorted(chosen.items())
    }


def from_hub(chosen: Mapping[str, Encoder], specs: Mapping[str, InputSpec]) -> dict[str, bool]:
    """Every NAME of an hf:NAME among the encoders and the tokenizers -> whether it names an encoder, which needs its
    configuration too."""
    models = {encoder.name for encoder in chosen.values()}
    tokenizers = {spec.tokenizer for spec in specs.values() if isinstance(spec, TextInput)}
    names = sorted(name for name in models | tokenizers if name.startswith("hf:"))
    return {name.removeprefix("hf:"): name in models for name in names}


def augments(
    options: Mapping[str, Mapping[str, Any]], specs: Mapping[str, InputSpec]
) -> dict[str, Plain]:
    """The augmentation of each modality that has any. UserError for an option it doesn't know or that doesn't fit."""
    found: dict[str, Plain] = {}
    for m, given in options.items():
        if given and m in specs:
            modality = modalities.get(m)
            found[m] = checked(modality.Augment, given, "settings", f"augment.{m}")
            modality.check(found[m], specs[m])
    return found


def find_weights(chosen: Mapping[str, Encoder]) -> dict[str, Path]:
    """The files of the pretrained weights that encoders start from, fetched if need be. UserError where there is none."""

    def find() -> dict[str, Path | None]:
        return {
            m: encoders.find_weights(encoder.name, m, encoder.weights)
            for m, encoder in sorted(chosen.items())
        }

    distributed.together(
        lambda: find() if distributed.is_main() else {}
    )  # one process fetches, the others find
    found = distributed.together(find)
    return {m: path for m, path in found.items() if path is not None}


def build(
    chosen: Mapping[str, Encoder],
    specs: Mapping[str, InputSpec],
    classes: Sequence[str],
    absent: str = "zero",
    weights: Mapping[str, Path] | None = None,
) -> LateFusion:
    """A LateFusion over the modalities of `chosen`: fresh, or with the pretrained `weights` in its encoders."""
    modules, dims = {}, {}
    for m, encoder in sorted(chosen.items()):
        modules[m], dims[m] = encoders.build(encoder.name, m, specs[m], encoder.pool)
        if weights and m in weights:
            encoders.load_weights(modules[m], encoder.name, m, specs[m], weights[m])
        if encoder.tune == "lora":
            encoders.add_lora(
                modules[m], encoder.lora.rank, encoder.lora.alpha, encoder.lora.dropout
            )
    blanks = {
        m: modalities.get(m).finish(modalities.get(m).blank(specs[m])[None], specs[m])[0]
        for m in modules
    }
    model = LateFusion(modules, dims, blanks, len(classes), absent)
    model.freeze(m for m, encoder in chosen.items() if encoder.tune == "frozen")
    return model


def rates(model: LateFusion, training: Training) -> dict[str, tuple[float, float]]:
    """{name of a parameter: (learning rate, weight decay)}: of encoders, their adapters, heads and absence vectors, as
    `training` says. What an encoder of timm declares free of decay (position embeddings, say) is."""
    parts = {"encoders": "encoder", "heads": "head", "vectors": "absence"}
    free: set[str] = set()
    for m, encoder in model.encoders.items():
        declared: Any = getattr(encoder, "no_weight_decay", set)
        free |= {f"encoders.{m}.{name}" for name in declared()}
    found = {}
    for name, parameter in model.named_parameters():
        kind, modality = name.split(".")[:2]
        if parameter.requires_grad:
            part = "adapters" if kind == "encoders" and "lora_" in name else parts[kind]
            learning_rate, decay = training.rate(part, modality)
            found[name] = learning_rate, 0.0 if name in free else decay
    return found


def ready(model: LateFusion, training: Training, device: torch.device) -> LateFusion:
    """The model on its device, computing as `training` says."""
    model.precision = PRECISION[training.precision]
    if training.channels_last:
        model.encoders.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if training.compile:
        for encoder in model.encoders.values():
            encoder.compile()
    return model.to(device)

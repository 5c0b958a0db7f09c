"""Names -> models: the encoders and blank inputs of some modalities, built into a LateFusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from umemma import encoders, modalities
from umemma.config import Encoder, Training
from umemma.errors import UserError
from umemma.models.late_fusion import LateFusion
from umemma.system import distributed
from umemma.types import InputSpec, Plain, TableInput, TextInput, list_outputs
from umemma.validation import validate

PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NOTHING_FOUND: Mapping[str, Mapping[str, Any]] = {}
# The child modules of a LateFusion, and the part of the settings that each one's rates stand in.
SETTINGS_PART = {"encoders": "encoder", "heads": "head", "fusion": "head", "vectors": "absence"}


def input_specs(
    chosen: Mapping[str, Encoder],
    found: Mapping[str, Mapping[str, Any]] = NOTHING_FOUND,
) -> dict[str, InputSpec]:
    """Return what each modality's encoder takes, as the data and then the settings change it.

    found: {modality: what its training samples say}, `inputs` of an index or of a model. UserError
    for an unknown encoder, or for a change that its input does not know.
    """
    specs: dict[str, InputSpec] = {}
    for m, encoder in sorted(chosen.items()):
        spec = encoders.input_spec(encoder.name, encoder.kind or m, m)
        if m in found:
            spec = validate(type(spec), {**spec.model_dump(), **found[m]}, f"the samples of {m}")
        specs[m] = encoder.adapt(spec, m)
    return specs


def find_hub_names(
    chosen: Mapping[str, Encoder],
    specs: Mapping[str, InputSpec],
) -> dict[str, bool]:
    """Return {NAME: whether it is an encoder} of every `hf:NAME` encoder and tokenizer.

    An encoder needs its configuration too, a tokenizer does not.
    """
    models = {encoder.name for encoder in chosen.values()}
    tokenizers = {spec.tokenizer for spec in specs.values() if isinstance(spec, TextInput)}
    hub_names: dict[str, bool] = {}
    for name in sorted(models | tokenizers):
        if name.startswith("hf:"):
            hub_names[name.removeprefix("hf:")] = name in models
    return hub_names


def make_augmentations(
    options: Mapping[str, Mapping[str, Any]],
    specs: Mapping[str, InputSpec],
) -> dict[str, Plain]:
    """Return the augmentation of each modality that has any.

    UserError for an option that the modality does not know, or that does not fit its input.
    """
    augmentations: dict[str, Plain] = {}
    for m, modality_options in options.items():
        if modality_options and m in specs:
            modality = modalities.find_module(specs[m])
            if not hasattr(modality, "Augment"):
                raise UserError("it has no augmentation", f"augment.{m}", usage=True)
            augmentation = validate(modality.Augment, modality_options, "settings", f"augment.{m}")
            modality.check(augmentation, specs[m])
            augmentations[m] = augmentation
    return augmentations


def find_weights(chosen: Mapping[str, Encoder]) -> dict[str, Path]:
    """Return the files of pretrained weights that encoders start from; missing ones are downloaded.

    Of several processes the main one downloads first; then the others find the files. UserError
    where weights are unavailable.
    """

    def find() -> dict[str, Path]:
        files: dict[str, Path] = {}
        for m, encoder in sorted(chosen.items()):
            file = encoders.find_weights(encoder.name, m, encoder.weights)
            if file is not None:
                files[m] = file
        return files

    def find_on_main() -> None:
        if distributed.is_main():
            find()

    distributed.raise_on_all(find_on_main)
    return distributed.raise_on_all(find)


def build(
    chosen: Mapping[str, Encoder],
    specs: Mapping[str, InputSpec],
    classes: Sequence[str],
    absent: str = "zero",
    weights: Mapping[str, Path] | None = None,
    fusion: str = "mean",
    task: str = "multiclass",
) -> LateFusion:
    """Build a LateFusion over the modalities of `chosen`.

    classes: the names of the targets in regression. absent, fusion: as in LateFusion. weights:
    {modality: file of pretrained weights}; the other encoders have fresh weights. Modalities that
    are the same as another share its module.
    """
    modules: dict[str, nn.Module] = {}
    dims: dict[str, int] = {}
    owners = {m: m for m in chosen}
    for m, encoder in chosen.items():
        if encoder.same_as is not None and encoder.same_as in chosen:
            owners[m] = encoder.same_as
    for m, encoder in sorted(chosen.items()):
        if owners[m] != m:
            continue
        module, dims[m] = encoders.build(encoder.name, m, specs[m], encoder.pool)
        if weights and m in weights:
            encoders.load_weights(module, encoder.name, m, specs[m], weights[m])
        if encoder.tune == "lora":
            lora = encoder.lora
            encoders.add_lora(module, lora.rank, lora.alpha, lora.dropout)
        modules[m] = module
    for m, owner in owners.items():
        modules[m] = modules[owner]
        dims[m] = dims[owner]
    blanks = {m: _make_blank_input(specs[m]) for m in modules}
    for m, owner in owners.items():
        _check_shared_input(m, owner, specs, blanks)
    outputs = list_outputs(classes, task)
    model = LateFusion(modules, dims, blanks, len(outputs), absent, fusion)
    if task == "regression":
        model.prepare_regression()
    model.freeze(m for m, encoder in chosen.items() if encoder.tune == "frozen")
    return model


def _check_shared_input(
    modality: str,
    owner: str,
    specs: Mapping[str, InputSpec],
    blanks: Mapping[str, Tensor],
) -> None:
    """UserError where a modality can't have the encoder of `owner`, as its input differs."""
    spec = specs[modality]
    other = specs[owner]
    differs = blanks[modality].shape != blanks[owner].shape
    if isinstance(spec, TableInput) and isinstance(other, TableInput):
        differs = spec.columns != other.columns or spec.categories != other.categories
    if differs:
        raise UserError(
            f"the samples of {modality} have another shape or other columns than those of {owner}",
            f"encoders.{modality}.same_as",
            "Give it an encoder of its own.",
            usage=True,
        )


def _make_blank_input(spec: InputSpec) -> Tensor:
    """(...) what an encoder sees of an absent modality: black, silence, the empty text."""
    modality = modalities.find_module(spec)
    compact_batch = modality.make_blank(spec)[None]
    blank: Tensor = modality.finish(compact_batch, spec)[0]
    return blank


def assign_learning_rates(model: LateFusion, training: Training) -> dict[str, tuple[float, float]]:
    """Return {parameter name: (learning rate, weight decay)} of every trainable parameter.

    The rates are those that `training` gives to encoders, adapters, heads and absence vectors. A
    fusion is a head; its parts of one modality have the rates of that modality.
    Parameters that a timm encoder declares free of weight decay (position embeddings, say) have
    none.
    """
    without_decay = _list_without_decay(model)
    rates: dict[str, tuple[float, float]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        child, *places = name.split(".")
        modality = ""  # of a part that all modalities share
        for place in reversed(places):
            if place in model.modalities:
                modality = place
        part = SETTINGS_PART[child]
        if child == "encoders" and "lora_" in name:
            part = "adapters"
        learning_rate, decay = training.rate(part, modality)
        if name in without_decay:
            decay = 0.0
        rates[name] = (learning_rate, decay)
    return rates


def _list_without_decay(model: LateFusion) -> set[str]:
    names: set[str] = set()
    for m, encoder in model.encoders.items():
        declared: Any = getattr(encoder, "no_weight_decay", set)
        names |= {f"encoders.{m}.{name}" for name in declared()}
    return names


def place_on_device(model: LateFusion, training: Training, device: torch.device) -> LateFusion:
    """Move the model to a device, with the precision, layout and compilation of `training`."""
    model.precision = PRECISION[training.precision]
    if training.channels_last:
        model.encoders.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if training.compile:
        # The compiler has a flag of its own, which `reproducibility.prepare` does not set.
        torch.use_deterministic_algorithms(
            torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        for encoder in model.encoders.values():
            encoder.compile()
    return model.to(device)

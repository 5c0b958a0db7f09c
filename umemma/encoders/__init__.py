"""The encoders, named `family:variant` in params.yaml. A family is a module with

MODALITIES                                        what it serves. An image encoder serves video, frame by frame (OverFrames)
PRETRAINED                                        whether it starts from published weights where the settings don't say
names() -> Collection[str] | None                 the variants; None = any, found out when it is used
input_spec(variant, modality) -> InputSpec        what it wants to see, unless settings say otherwise
build(variant, spec) -> (nn.Module, D)            module: (B, ...) -> (B, D), fresh weights, nothing downloaded but an hf config
width(variant) -> int                             D, without building where that takes long

and, where PRETRAINED,

source(variant) -> Upstream                       where its weights are published; NotServed, and why, where they aren't
convert(state, module, variant, spec) -> state    a published state dict as the module has it
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umemma.errors import UserError, unknown
from umemma.system.http import NotServed
from umemma.types import ImageInput, InputSpec, VideoInput

if TYPE_CHECKING:
    from torch import nn

FAMILIES = {
    "cnn": "umemma.encoders.cnn",
    "hf": "umemma.encoders.hf",
    "import": "umemma.encoders.custom",
    "open_clip": "umemma.encoders.open_clip",
    "text": "umemma.encoders.text",
    "timm": "umemma.encoders.timm",
    "torchaudio": "umemma.encoders.torchaudio",
}
# Families that are listed by a line and not by their names, with some of these.
EXAMPLES = {
    "hf": "hf:distilbert/distilbert-base-uncased or hf:FOLDER",
    "import": "import:mypackage.encoders:tiny, a function of yours",
    "open_clip": "open_clip:ViT-B-32@laion2b_s34b_b79k",
    "timm": "timm:resnet18 and timm:vit_small_patch16_224",
    "torchaudio": "torchaudio:WAV2VEC2_BASE and torchaudio:HUBERT_BASE",
}


def input_spec(name: str, modality: str) -> InputSpec:
    """What the encoder wants to see, unless settings say otherwise. UserError for an unknown encoder."""
    family, variant = _find(name, modality)
    spec: InputSpec = family.input_spec(variant, modality)
    return (
        VideoInput(**spec.model_dump())
        if modality == "video" and isinstance(spec, ImageInput)
        else spec
    )


def build(name: str, modality: str, spec: InputSpec, pool: str = "mean") -> tuple[nn.Module, int]:
    """The module, with fresh weights, and its feature width D. pool: "mean" or "attention" over the frames of a video."""
    family, variant = _find(name, modality)
    if not isinstance(spec, VideoInput) or isinstance(
        family.input_spec(variant, modality), VideoInput
    ):
        return family.build(variant, spec)
    from umemma.encoders.frame_pooling import OverFrames

    module, width = family.build(variant, spec.picture)
    return OverFrames(module, width, spec.picture, pool), width


def find_weights(name: str, modality: str, weights: str | None) -> Path | None:
    """The file of an encoder's weights, fetched if need be; None = from scratch. weights: as in the settings.

    UserError where they can't be had. Order: a file that is named, data/weights/, the libraries' caches, the network.
    """
    from umemma.encoders.weights import fetch, placed

    family, variant = _find(name, modality)
    where = f"encoders.{modality}.weights"
    if weights == "none" or (weights is None and not family.PRETRAINED):
        return None
    if weights not in (None, "pretrained"):
        if not (path := Path(weights)).is_file():
            raise UserError(
                f"no such file: {weights}",
                where,
                "Name a file, `pretrained` or `none`.",
                usage=True,
            )
        return path
    try:
        if there := placed(name):
            return there
        if family.PRETRAINED:
            return fetch(family.source(variant))
        raise NotServed("none are published")
    except NotServed as error:
        raise UserError(
            f"no weights of {name}: {error}",
            where,
            f"Place them as {_place(name)} (or .pt, .pth, .bin), name a file here, or train from scratch with `none`.",
        ) from None


def load_weights(module: nn.Module, name: str, modality: str, spec: InputSpec, path: Path) -> None:
    """Load a file into a module that `build` made: its own state dict, or a published one of the encoder.

    UserError for a file that can't be read safely, and for weights of something else.
    """
    from umemma.encoders.frame_pooling import OverFrames
    from umemma.encoders.weights import fits, load, read

    family, variant = _find(name, modality)
    state = read(path)
    if not fits(module, state):
        if isinstance(module, OverFrames) and isinstance(
            spec, VideoInput
        ):  # the way over time stays fresh
            module, spec = module.encoder, spec.picture
        if family.PRETRAINED:
            state = family.convert(state, module, variant, spec)
    load(module, state, f"{path} for {name}")


def add_lora(module: nn.Module, rank: int, alpha: float, dropout: float) -> None:
    """Low-rank adapters in place; see lora.py."""
    from umemma.encoders.lora import add

    add(module, rank, alpha, dropout)


def _find(name: str, modality: str) -> tuple[Any, str]:
    """The family's module and the variant. UserError, naming the nearest, for what isn't there."""
    family, _, variant = name.partition(":")
    where = f"encoders.{modality}"
    if family not in FAMILIES:
        raise unknown("encoder family", family, FAMILIES, where)
    module = importlib.import_module(FAMILIES[family])
    if modality not in module.MODALITIES:
        raise UserError(
            f"{family!r} has no encoder for {modality}", where, "Choose another family.", usage=True
        )
    known = module.names()
    if not variant or (known is not None and variant not in known):
        raise _unknown(family, variant, known or (), where)
    return module, variant


def _unknown(family: str, variant: str, known: Collection[str], where: str) -> UserError:
    """As errors.unknown, without a thousand names."""
    name = f"{family}:{variant}"
    if family not in EXAMPLES:
        return unknown("encoder", name, [f"{family}:{one}" for one in known], where)
    nearest = difflib.get_close_matches(variant, known, n=4, cutoff=0.5)
    guess = (
        f"Did you mean {' or '.join(repr(f'{family}:{one}') for one in nearest)}? "
        if nearest
        else ""
    )
    hint = f"{guess}Such as {EXAMPLES[family]}; `umemma encoders '{family}:*'` lists them."
    return UserError(f"unknown encoder {name!r}", where, hint, usage=True)


def _place(name: str) -> str:
    from umemma.encoders.weights import place

    return f"{place(name)}.safetensors"

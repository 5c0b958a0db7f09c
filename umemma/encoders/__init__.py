"""The encoders, named `family:variant` in params.yaml. A family is a module with

MODALITIES                              the kinds of modalities that it serves. An image encoder
                                        also serves video, frame by frame (see frame_pooling)
PRETRAINED                              whether it starts from published weights by default
names() -> Collection[str] | None       the variants; None = any, checked when one is used
input_spec(variant, kind) -> InputSpec  what it takes, unless settings change that
build(variant, spec) -> (nn.Module, D)  a module (B, ...) -> (B, D) with fresh weights. Nothing is
                                        downloaded except the configuration of an `hf:` encoder
width(variant) -> int                   D, without building a large module; 0 = that of the input

and, where PRETRAINED,

source(variant) -> Upstream             where its weights are published. NotServed with the reason
                                        where they are not

and, where it reads state dicts other than the module's own,

convert(state, module, variant, spec) -> state      a published state dict in the module's names

The functions below do the same for a whole name, `family:variant`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umemma.errors import UserError, unknown_name
from umemma.system.http import NotServed
from umemma.types import OWN, ImageInput, InputSpec, VideoInput

if TYPE_CHECKING:
    from torch import nn

FAMILIES = {
    "cnn": "umemma.encoders.cnn",
    "hf": "umemma.encoders.hf",
    "import": "umemma.encoders.custom",
    "mlp": "umemma.encoders.numeric.mlp",
    "open_clip": "umemma.encoders.open_clip",
    "series": "umemma.encoders.numeric.series",
    "text": "umemma.encoders.text",
    "timm": "umemma.encoders.timm",
    "torchaudio": "umemma.encoders.torchaudio",
    "torchvision": "umemma.encoders.torchvision",
}
# The families that have too many variants to list: each is listed in one line, with these examples.
EXAMPLES = {
    "hf": "hf:distilbert/distilbert-base-uncased or hf:FOLDER",
    "import": "import:mypackage.encoders:tiny, a function of yours",
    "open_clip": "open_clip:ViT-B-32@laion2b_s34b_b79k",
    "timm": "timm:resnet18 and timm:vit_small_patch16_224",
    "torchaudio": "torchaudio:WAV2VEC2_BASE and torchaudio:HUBERT_BASE",
    "torchvision": "torchvision:resnet18 and torchvision:mobilenet_v2",
}


def input_spec(name: str, kind: str, modality: str = "") -> InputSpec:
    """Return what the encoder takes of a kind of modality, unless settings change that.

    modality: its name, by default that of its kind. UserError for an unknown encoder, and for a
    kind that the family does not serve.
    """
    where = f"encoders.{modality or kind}"
    family, variant = _find_family(name, where)
    is_own = kind.startswith(OWN) and name.startswith(OWN)
    if kind not in family.MODALITIES and not is_own:
        what = f"{name.partition(':')[0]!r} has no encoder for {kind}"
        raise UserError(what, where, "Choose another family.", usage=True)
    spec: InputSpec = family.input_spec(variant, kind)
    if kind == "video" and isinstance(spec, ImageInput):
        return VideoInput(**spec.model_dump())
    return spec


def build(name: str, modality: str, spec: InputSpec, pool: str = "mean") -> tuple[nn.Module, int]:
    """Build the module, with fresh weights, and return it with its feature width D.

    pool: how an image encoder pools the frames of a video, "mean" or "attention".
    """
    family, variant = _find_family(name, f"encoders.{modality}")
    if isinstance(spec, VideoInput):
        takes_video = isinstance(family.input_spec(variant, "video"), VideoInput)
        if not takes_video:
            return _build_over_frames(family, variant, spec, pool)
    module: nn.Module
    module, width = family.build(variant, spec)
    return module, width


def _build_over_frames(
    family: Any,
    variant: str,
    spec: VideoInput,
    pool: str,
) -> tuple[nn.Module, int]:
    from umemma.encoders.frame_pooling import OverFrames

    image_encoder, width = family.build(variant, spec.picture)
    return OverFrames(image_encoder, width, spec.picture, pool), width


def find_weights(name: str, modality: str, weights: str | None) -> Path | None:
    """Return the file of an encoder's weights, downloaded if need be; None = from scratch.

    weights: as in the settings: a file, "pretrained", "none", or None for the family's default. The
    places are tried in this order: a named file, data/weights/, the libraries' caches, the network.
    UserError where the weights are unavailable.
    """
    from umemma.encoders.weights import fetch_weights, find_placed, placed_name

    family, variant = _find_family(name, f"encoders.{modality}")
    where = f"encoders.{modality}.weights"
    if weights == "none" or (weights is None and not family.PRETRAINED):
        return None
    if weights not in (None, "pretrained"):
        path = Path(weights)
        if not path.is_file():
            hint = "Name a file, `pretrained` or `none`."
            raise UserError(f"no such file: {weights}", where, hint, usage=True)
        return path
    try:
        placed = find_placed(name)
        if placed:
            return placed
        if family.PRETRAINED:
            return fetch_weights(family.source(variant))
        raise NotServed("none are published")
    except NotServed as error:
        hint = (
            f"Place them as {placed_name(name)}.safetensors (or .pt, .pth, .bin), name a file "
            "here, or train from scratch with `none`."
        )
        raise UserError(f"no weights of {name}: {error}", where, hint) from None


def load_weights(module: nn.Module, name: str, modality: str, spec: InputSpec, path: Path) -> None:
    """Load a file into a module that `build` made.

    The file holds the module's own state dict, a published one of the encoder, or a model that
    umemma trained. UserError for a file that can't be read safely, and for weights of another
    encoder.
    """
    from umemma.encoders.frame_pooling import OverFrames
    from umemma.encoders.published_names import rename_by_order
    from umemma.encoders.weights import fits, load_state, read_state, take_own_encoder

    family, variant = _find_family(name, f"encoders.{modality}")
    state = take_own_encoder(read_state(path), modality, path)
    where = f"{path} for {name}"
    if not fits(module, state):
        if isinstance(module, OverFrames) and isinstance(spec, VideoInput):
            # The weights are those of the image encoder; the pooling over time stays fresh.
            module = module.encoder
            spec = spec.picture
        if path.suffix != ".safetensors":  # which sorts its tensors by name
            state = rename_by_order(state, module, where)
        if hasattr(family, "convert"):
            state = family.convert(state, module, variant, spec)
    load_state(module, state, where)


def add_lora(module: nn.Module, rank: int, alpha: float, dropout: float) -> None:
    """Add low-rank adapters to the module in place; see lora.add_adapters."""
    from umemma.encoders.lora import add_adapters

    add_adapters(module, rank, alpha, dropout)


def _find_family(name: str, where: str) -> tuple[Any, str]:
    """Return the family's module and the variant.

    UserError, with the nearest names, for an unknown family or variant.
    """
    family, _, variant = name.partition(":")
    if family not in FAMILIES:
        raise unknown_name("encoder family", family, FAMILIES, where)
    module = importlib.import_module(FAMILIES[family])
    known = module.names()
    if not variant or (known is not None and variant not in known):
        raise _unknown_variant(family, variant, known or (), where)
    return module, variant


def _unknown_variant(family: str, variant: str, known: Collection[str], where: str) -> UserError:
    """Return the error of errors.unknown_name, but with few names where the family is large."""
    name = f"{family}:{variant}"
    if family not in EXAMPLES:
        names = [f"{family}:{other}" for other in known]
        return unknown_name("encoder", name, names, where)
    hint = f"Such as {EXAMPLES[family]}; `umemma encoders '{family}:*'` lists them."
    nearest = difflib.get_close_matches(variant, known, n=4, cutoff=0.5)
    if nearest:
        guesses = " or ".join(repr(f"{family}:{other}") for other in nearest)
        hint = f"Did you mean {guesses}? {hint}"
    return UserError(f"unknown encoder {name!r}", where, hint, usage=True)

"""The encoders, named `family:variant` in params.yaml. A family is a module with

variants(modality) -> names
input_spec(variant, modality) -> InputSpec              what it wants to see, unless settings say otherwise
build(variant, spec) -> (nn.Module, D)                  module: (B, ...) -> (B, D)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from umemma.contracts import InputSpec
from umemma.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import nn

FAMILIES = {"cnn": "umemma.encoders.cnn", "text": "umemma.encoders.text"}


def input_spec(name: str, modality: str) -> InputSpec:
    """What the encoder wants to see, unless settings say otherwise. UserError for an unknown encoder."""
    family, variant = _find(name, modality)
    return family.input_spec(variant, modality)


def build(name: str, modality: str, spec: InputSpec) -> tuple[nn.Module, int]:
    """The module and its feature width D."""
    family, variant = _find(name, modality)
    return family.build(variant, spec)


def _find(name: str, modality: str) -> tuple[Any, str]:
    family, _, variant = name.partition(":")
    where = f"encoders.{modality}"
    if family not in FAMILIES:
        raise unknown("encoder family", family, FAMILIES, where)
    module = importlib.import_module(FAMILIES[family])
    known = module.variants(modality)
    if not known:
        raise UserError(f"{family!r} has no encoder for {modality}", where, "Choose another family.", usage=True)
    if variant not in known:
        raise unknown("encoder", name, [f"{family}:{one}" for one in known], where)
    return module, variant

"""Low-rank adapters, by peft. Reference: Hu et al., LoRA: Low-Rank Adaptation, 2021, arXiv 2106.09685."""

from __future__ import annotations

import inspect
import re
from typing import Any

from torch import nn

from umemma.errors import UserError


def add(module: nn.Module, rank: int, alpha: float, dropout: float) -> None:
    """Adapters, in place, on the linear layers of `module`; everything else is frozen, and no output changes yet.

    The scale is alpha / rank. UserError where there is no such layer, and without peft.
    """
    try:
        import peft
    except ImportError:
        raise UserError(
            "tune: lora needs peft", "encoders", "Install it: pip install 'umemma[lora]'"
        ) from None
    layers = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and _called(module, name)
    ]
    if not layers:
        raise UserError(
            "tune: lora finds no linear layer to adapt in this encoder",
            "encoders",
            "Set tune: full or frozen.",
        )
    pattern = "|".join(
        map(re.escape, layers)
    )  # peft takes a list as endings of names, a pattern as whole names
    scale: Any = alpha  # declared as int there, but any number will do
    config = peft.LoraConfig(r=rank, lora_alpha=scale, lora_dropout=dropout, target_modules=pattern)
    peft.inject_adapter_in_model(config, module)


def _called(module: nn.Module, name: str) -> bool:
    """Whether the layer is called by the module it is in. nn.MultiheadAttention and others take its weight and compute
    with that, so that an adapter in its place would be passed by in silence."""
    path, _, last = name.rpartition(".")
    parent = module.get_submodule(path)
    if not last or isinstance(parent, nn.MultiheadAttention):
        return False
    try:
        return f"self.{last}.weight" not in inspect.getsource(type(parent).forward)
    except (OSError, TypeError):  # no source to be had
        return True

"""Low-rank adapters, made by peft.

Reference: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv 2106.09685.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from torch import nn

from umemma.errors import UserError


def add_adapters(module: nn.Module, rank: int, alpha: float, dropout: float) -> None:
    """Add adapters to the linear layers of `module` in place and freeze everything else.

    The adapters' scale is alpha / rank. They change no output until they are trained. UserError
    where there is no such layer, and without peft.
    """
    try:
        import peft
    except ImportError:
        hint = "Install it: pip install 'umemma[lora]'"
        raise UserError("tune: lora needs peft", "encoders", hint) from None
    layers = _list_linear_layers(module)
    if not layers:
        what = "tune: lora finds no linear layer to adapt in this encoder"
        raise UserError(what, "encoders", "Set tune: full or frozen.")
    # peft matches a list with the ends of names, but a pattern with whole names.
    pattern = "|".join(map(re.escape, layers))
    scale: Any = alpha  # declared as int there, but any number will do
    config = peft.LoraConfig(r=rank, lora_alpha=scale, lora_dropout=dropout, target_modules=pattern)
    peft.inject_adapter_in_model(config, module)


def _list_linear_layers(module: nn.Module) -> list[str]:
    names: list[str] = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and _is_called(module, name):
            names.append(name)
    return names


def _is_called(module: nn.Module, name: str) -> bool:
    """Whether the layer is called by the module that holds it.

    nn.MultiheadAttention and others read the layer's weight and compute with that. An adapter in
    its place would have no effect, without an error.
    """
    path, _, last = name.rpartition(".")
    parent = module.get_submodule(path)
    if not last or isinstance(parent, nn.MultiheadAttention):
        return False
    try:
        source = inspect.getsource(type(parent).forward)
    except (OSError, TypeError):  # the source is unavailable
        return True
    return f"self.{last}.weight" not in source

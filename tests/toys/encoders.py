"""What tests of encoders do with modules and their weights."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import nn


def save_state(state: dict[str, torch.Tensor], name: str = "some.safetensors") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def compute_same(left: nn.Module, right: nn.Module, *shape: int) -> bool:
    x = torch.randint(1, 10, shape) if len(shape) == 2 else torch.rand(shape)
    with torch.no_grad():
        return torch.allclose(left.eval()(x), right.eval()(x), atol=1e-5)


def randomise(module: nn.Module) -> nn.Module:
    """Give every tensor of a module random values, with which no two layers are alike."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith(("running_var", "running_mean")) or tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return module

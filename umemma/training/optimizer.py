"""What a step changes: the weights, the moments of AdamW, and a moving average of the weights.

The learning-rate schedule is here too: a linear warm-up, then a cosine decay to 0.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from umemma.config import Training

Weights = dict[str, Tensor]


def leave_out_dynamo(optimizer: type[torch.optim.Optimizer]) -> type[Any]:
    """Return the class of torch.optim without what imports torch._dynamo.

    That import takes two seconds at every start. torch wraps these methods so that torch.compile
    leaves them out, but only encoders are compiled.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


AdamW = leave_out_dynamo(torch.optim.AdamW)
LBFGS = leave_out_dynamo(torch.optim.LBFGS)


class Optimizer:
    """AdamW with gradient clipping and a learning-rate schedule over `total_steps`.

    rates: {name of a parameter: (learning rate, weight decay)} for the parameters that don't have
    those of `training`. Parameters of one dimension (biases, norms) never decay.
    training.ema: decay per step of a moving average of the weights, which is then what is validated
    and kept; 0 keeps none. training.precision: fp16 scales the loss, so that small gradients don't
    vanish.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Training,
        *,
        total_steps: int,
        rates: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.total_steps = total_steps
        self.warmup = training.warmup
        self.clip_norm = training.clip_norm
        self.ema = training.ema
        self.peak_learning_rate = training.learning_rate
        self.learning_rate = training.learning_rate

        groups = _group_parameters(model, training, rates or {})
        self.trained: Weights = {}  # in the order in which AdamW counts them
        param_groups = []
        for (peak, decay), parameters in groups.items():
            self.trained |= parameters
            group = {
                "params": list(parameters.values()),
                "lr": peak,
                "peak": peak,
                "weight_decay": decay,
            }
            param_groups.append(group)
        self.adamw = AdamW(param_groups, fused=True)
        self.scaler = torch.GradScaler(self.device.type, enabled=training.precision == "fp16")
        self.average: Weights = {}
        if self.ema:
            self.average = copy_weights(model)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those that the parameters have."""
        self.scaler.scale(loss).backward()

    def step(self, step_index: int) -> None:
        """Use the accumulated gradients for step `step_index` (from 0), and clear them."""
        self._follow_schedule(step_index)
        self.scaler.unscale_(self.adamw)
        nn.utils.clip_grad_norm_(self.trained.values(), self.clip_norm)
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.adamw.zero_grad()
        if self.ema:
            self._update_average()

    def _follow_schedule(self, step_index: int) -> None:
        """Set the learning rate of every group to what the schedule says."""
        factor = warmup_cosine(step_index / self.total_steps, self.warmup)
        self.learning_rate = self.peak_learning_rate * factor
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * factor

    def _update_average(self) -> None:
        for name, current in select_trained(self.model).items():
            mean = self.average[name]
            if mean.is_floating_point():
                mean.lerp_(current, 1 - self.ema)
            else:
                mean.copy_(current)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Give the model the moving average of its weights within the block, if there is one."""
        if not self.ema:
            yield
            return
        current = copy_weights(self.model)
        load_weights(self.model, self.average)
        yield
        load_weights(self.model, current)

    def state_tensors(self) -> Weights:
        """Return all tensors that the next step depends on, for a checkpoint."""
        parts: dict[str, Weights] = {"model": select_trained(self.model), "average": self.average}
        for name, parameter in self.trained.items():
            parts[f"adamw.{name}"] = self.adamw.state[parameter]
        tensors: Weights = {}
        for prefix, part in parts.items():
            tensors |= add_prefix(part, prefix)
        return tensors

    def restore(self, tensors: Weights, scaler: Mapping[str, Any]) -> None:
        """Resume from the `state_tensors` and the scaler's state of a checkpoint."""
        load_weights(self.model, select_prefix(tensors, "model"))
        self.average = to_device(select_prefix(tensors, "average"), self.device)
        moments: dict[int, Weights] = {}
        for i, (name, parameter) in enumerate(self.trained.items()):
            part = select_prefix(tensors, f"adamw.{name}")
            if part:
                moments[i] = {key: _lay_out_as(parameter, x) for key, x in part.items()}
        groups = self.adamw.state_dict()["param_groups"]
        self.adamw.load_state_dict({"state": moments, "param_groups": groups})
        self.scaler.load_state_dict(dict(scaler))


def _group_parameters(
    model: nn.Module,
    training: Training,
    rates: Mapping[str, tuple[float, float]],
) -> dict[tuple[float, float], Weights]:
    """Return {(peak learning rate, weight decay): {name: parameter}} for what is trained."""
    groups: dict[tuple[float, float], Weights] = {}
    default = (training.learning_rate, training.weight_decay)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        peak, decay = rates.get(name, default)
        if parameter.ndim <= 1:
            decay = 0.0
        groups.setdefault((peak, decay), {})[name] = parameter
    return groups


def _lay_out_as(parameter: Tensor, moment: Tensor) -> Tensor:
    """Return a moment of AdamW in the memory format of its parameter (channels_last)."""
    if not moment.ndim:
        return moment
    return torch.empty_like(parameter).copy_(moment)


def warmup_cosine(progress: float, warmup: float) -> float:
    """Return the factor that the schedule multiplies every peak learning rate with.

    progress: the share of all steps that is done, 0..1; warmup: the share that warms up. The first
    step of the warm-up has a rate above 0.
    """
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    decay_progress = (progress - warmup) / max(1 - warmup, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * decay_progress))


def select_trained(model: nn.Module) -> Weights:
    """Return what a training can change, not copied: all but the parameters without gradient.

    A frozen encoder of gigabytes then stands in memory, and on the disk, once.
    """
    frozen = _list_frozen(model)
    return {name: x for name, x in model.state_dict().items() if name not in frozen}


def copy_weights(model: nn.Module) -> Weights:
    """Return a copy of what a training can change."""
    return {name: tensor.detach().clone() for name, tensor in select_trained(model).items()}


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Give a model what `select_trained` or `copy_weights` returned of it."""
    keys = model.load_state_dict(weights, strict=False)
    assert not keys.unexpected_keys, keys
    assert set(keys.missing_keys) <= _list_frozen(model), keys


def _list_frozen(model: nn.Module) -> set[str]:
    """Return the names of the parameters without gradient, by every name that one has."""
    named = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def add_prefix(tensors: Weights, prefix: str) -> Weights:
    """Return the tensors under the names "prefix.name"."""
    return {f"{prefix}.{name}": x for name, x in tensors.items()}


def select_prefix(tensors: Weights, prefix: str) -> Weights:
    """Return the tensors whose names begin with `prefix` and a dot, without these."""
    start = f"{prefix}."
    return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}


def to_device(tensors: Weights, device: torch.device) -> Weights:
    """Return the tensors on `device`."""
    return {name: x.to(device) for name, x in tensors.items()}

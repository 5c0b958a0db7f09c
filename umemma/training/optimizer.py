"""What a step changes: the weights, AdamW's moments, a moving average of the weights, and the best of them so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from umemma.system import distributed

Weights = dict[str, Tensor]


class Optimizer:
    """AdamW on a model, with linear warm-up and cosine to 0 over `steps`.

    rates: {name of a parameter: (learning rate, weight decay)}, of those that don't have `learning_rate` and
    `weight_decay`. Vectors (biases, norms) never decay.
    ema: decay per step of a moving average of the weights, which then is what is validated and kept; 0 = none.
    precision: fp16 scales the loss, so that small gradients don't vanish.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        learning_rate: float,
        weight_decay: float,
        warmup: float,
        clip_norm: float,
        ema: float,
        precision: str,
        device: torch.device,
        rates: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.model, self.steps, self.warmup, self.clip_norm, self.ema = (
            model,
            steps,
            warmup,
            clip_norm,
            ema,
        )
        self.peak = self.rate = learning_rate
        groups: dict[tuple[float, float], Weights] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                peak, decay = (rates or {}).get(name, (learning_rate, weight_decay))
                groups.setdefault((peak, decay if parameter.ndim > 1 else 0.0), {})[name] = (
                    parameter
                )
        self.trained: Weights = {}  # in the order in which AdamW counts them
        for parameters in groups.values():
            self.trained |= parameters
        self.adamw = torch.optim.AdamW(
            [
                {
                    "params": list(parameters.values()),
                    "lr": peak,
                    "peak": peak,
                    "weight_decay": decay,
                }
                for (peak, decay), parameters in groups.items()
            ],
            fused=True,
        )
        self.scaler = torch.GradScaler(device.type, enabled=precision == "fp16")
        self.best = _copy(model)
        self.average: Weights = _copy(model) if ema else {}

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self, done: int) -> None:
        """Use the gradients that there are for step number `done` (from 0), and clear them."""
        share = _warmup_cosine(done / self.steps, self.warmup)
        self.rate = self.peak * share
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * share
        self.scaler.unscale_(self.adamw)
        nn.utils.clip_grad_norm_(self.trained.values(), self.clip_norm)
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.adamw.zero_grad()
        if self.ema:
            for name, now in self.model.state_dict().items():
                mean = self.average[name]
                mean.lerp_(now, 1 - self.ema) if mean.is_floating_point() else mean.copy_(now)

    def validated(
        self, validate: Callable[[], Mapping[str, float]], best: list[float]
    ) -> tuple[dict[str, float], bool]:
        """The figures of the weights as they would be kept, and whether they are better than `best` (score, -loss): if
        so they are kept."""
        own = _copy(self.model) if self.ema else {}
        if self.ema:
            self.model.load_state_dict(self.average)
        distributed.spread(self.model.buffers())  # batch norm's statistics are each process's own
        figures = dict(validate())
        better = [figures["score"], -figures["loss"]] > best
        if better:
            self.best = _copy(self.model)
        if self.ema:
            self.model.load_state_dict(own)
        return figures, better

    def state(self) -> tuple[Weights, dict[str, Any]]:
        """Everything that the next step depends on: tensors, and plain numbers."""
        parts = {"model": self.model.state_dict(), "best": self.best, "average": self.average}
        parts |= {
            f"adamw.{name}": self.adamw.state[parameter] for name, parameter in self.trained.items()
        }
        return {
            f"{part}.{name}": x for part, tensors in parts.items() for name, x in tensors.items()
        }, self.scaler.state_dict()

    def restore(self, tensors: Weights, scaler: Mapping[str, Any]) -> None:
        """Take up a `state`."""
        device = next(self.model.parameters()).device
        self.model.load_state_dict(_part(tensors, "model"))
        self.best = {name: x.to(device) for name, x in _part(tensors, "best").items()}
        self.average = {name: x.to(device) for name, x in _part(tensors, "average").items()}
        moments: dict[int, Weights] = {}
        for i, (name, parameter) in enumerate(
            self.trained.items()
        ):  # laid out as the parameter is (channels_last)
            own = _part(tensors, f"adamw.{name}")
            moments[i] = {
                key: torch.empty_like(parameter).copy_(x) if x.ndim else x for key, x in own.items()
            }
        groups = self.adamw.state_dict()["param_groups"]
        self.adamw.load_state_dict(
            {"state": {i: one for i, one in moments.items() if one}, "param_groups": groups}
        )
        self.scaler.load_state_dict(dict(scaler))


def _warmup_cosine(done: float, warmup: float) -> float:
    """The share of the peak learning rate after `done` (0..1) of all steps."""
    if done < warmup:
        return max(done, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1 - warmup, 1e-9)))


def _copy(model: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _part(tensors: Weights, part: str) -> Weights:
    """The tensors whose names begin with `part`, without it."""
    return {
        name.removeprefix(f"{part}."): x
        for name, x in tensors.items()
        if name.startswith(f"{part}.")
    }

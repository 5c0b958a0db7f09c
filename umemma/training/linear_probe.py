"""What the features of a trained ensemble hold of the label, by a linear classifier of each modality: a probe.

It stands between the uni-modal model and the ensemble that has only this modality. Where the probe is below the uni-modal
model the encoder has learnt less; where the ensemble is below the probe the fusion loses what the features hold.
Reference: Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016, arXiv 1610.01644.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from loguru import logger
from torch import Tensor, nn

from umemma.data.loader import Split
from umemma.models.late_fusion import LateFusion
from umemma.training import feature_cache
from umemma.training.loss import losses

MOST = 20_000  # training samples that a probe is fitted to
DECAYS = (1e-1, 1e-2, 1e-3, 1e-4)  # of its weights, of which validation chooses
STEPS = 50  # of L-BFGS, for each


def fit_all(
    model: LateFusion, train: Split, val: Split, batch_size: int, device: torch.device
) -> None:
    """Fit the probe of every modality to the features of the training samples that have it, the strength of its decay
    chosen on validation. Where these samples are of one class there is nothing to fit: the probe's answers stay NaN."""
    some = np.sort(np.argsort(train.hashes, kind="stable")[:MOST])
    fitted_to = feature_cache.encode(model, train, model.modalities, some, batch_size, device)
    chosen_by = feature_cache.encode(
        model, val, model.modalities, np.arange(len(val)), batch_size, device
    )
    for i, m in enumerate(model.modalities):
        there, also = train.present[some, i], val.present[:, i]
        target = train.target[some][there]
        if not len(target) or bool((target == target[0]).all()):
            logger.warning(
                f"{m}: its training samples are of one class, so there is no probe of its features"
            )
            continue
        known = fitted_to[m][there].to(device), target.to(device)
        held_out = chosen_by[m][also].to(device), val.target[also].to(device)
        model.probes[m].load_state_dict(fit(known, held_out, model.classes).state_dict())


def fit(known: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], classes: int) -> nn.Linear:
    """A linear classifier of (N, D) features, fitted to those with `known` targets, its decay such that the log-loss on
    those `held_out` is least."""
    mean, scale = known[0].mean(0), known[0].std(0).clamp(min=1e-6)
    x, target = (known[0] - mean) / scale, known[1]
    layer = nn.Linear(x.shape[1], classes, device=x.device)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    best, least = copy.deepcopy(layer), float("inf")
    for decay in DECAYS:  # from the strongest on, each from where the one before ended
        _minimise(layer, x, target, decay)
        with torch.no_grad():
            loss = float(losses(layer((held_out[0] - mean) / scale), held_out[1]).mean())
        if loss < least:
            best, least = copy.deepcopy(layer), loss
    with torch.no_grad():  # of the features as they come
        best.weight.div_(scale)
        best.bias.sub_(best.weight @ mean)
    return best


def _minimise(layer: nn.Linear, x: Tensor, target: Tensor, decay: float) -> None:
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = losses(layer(x), target).mean() + decay / 2 * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)

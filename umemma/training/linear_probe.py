"""Linear probes: what the features of a trained ensemble tell about the label, for each modality.

A probe stands between the uni-modal model and the ensemble that has only this modality left. If the
probe scores below the uni-modal model, the encoder has learned less; if the ensemble scores below
the probe, the fusion loses what the features hold.

Reference: Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016,
arXiv 1610.01644.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from loguru import logger
from torch import Tensor, nn

from umemma.data.loader import LoadedSplit
from umemma.models.late_fusion import LateFusion
from umemma.training import feature_cache
from umemma.training.loss import sample_losses
from umemma.training.optimizer import LBFGS

MAX_SAMPLES = 20_000  # training samples that a probe is fitted to, at most
DECAYS = (1e-1, 1e-2, 1e-3, 1e-4)  # weight decays of a probe, of which validation chooses one
STEPS = 50  # of L-BFGS, for each weight decay


def fit_all(
    model: LateFusion, train: LoadedSplit, val: LoadedSplit, batch_size: int, device: torch.device
) -> None:
    """Fit the probe of every modality to the features of the training samples that have it.

    The fusion may store these features.

    The weight decay is chosen on validation. If these samples are all of one class there is nothing
    to fit: the logits of the probe stay NaN.
    """
    modalities = model.modalities
    indices = np.sort(np.argsort(train.hashes, kind="stable")[:MAX_SAMPLES])
    val_indices = np.arange(len(val))
    train_features = feature_cache.encode_samples(
        model, train, modalities, indices, batch_size, device
    )
    if model.fusion is not None:
        model.fusion.store_training_features(train_features, train.present[indices])
    val_features = feature_cache.encode_samples(
        model, val, modalities, val_indices, batch_size, device
    )
    for i, m in enumerate(modalities):
        has_modality = train.present[indices, i]
        val_has_modality = val.present[:, i]
        target = train.target[indices][has_modality]
        if not len(target) or bool((target == target[0]).all()):
            logger.warning(
                f"{m}: its training samples are all of one class, so no probe is fitted to its "
                "features."
            )
            continue
        known = (
            train_features[m][has_modality].to(device),
            target.to(device),
        )
        held_out = (
            val_features[m][val_has_modality].to(device),
            val.target[val_has_modality].to(device),
        )
        probe = fit(known, held_out, model.classes)
        model.probes[m].load_state_dict(probe.state_dict())


def fit(
    known: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    classes: int,
) -> nn.Linear:
    """Return a linear classifier of (N, D) features, fitted to the `known` (features, target).

    Its weight decay is the one with the smallest loss on the `held_out` (features, target).
    """
    features, target = known
    val_features, val_target = held_out
    mean = features.mean(0)
    scale = features.std(0).clamp(min=1e-6)
    standardized = (features - mean) / scale
    layer = nn.Linear(features.shape[1], classes, device=features.device)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    best = copy.deepcopy(layer)
    best_loss = float("inf")
    # From the strongest decay to the weakest, each starting where the previous one ended.
    for decay in DECAYS:
        _minimize(layer, standardized, target, decay)
        with torch.no_grad():
            logits = layer((val_features - mean) / scale)
            loss = float(sample_losses(logits, val_target).mean())
        if loss < best_loss:
            best = copy.deepcopy(layer)
            best_loss = loss
    # From standardized features to features as they are.
    with torch.no_grad():
        best.weight.div_(scale)
        best.bias.sub_(best.weight @ mean)
    return best


def _minimize(layer: nn.Linear, features: Tensor, target: Tensor, decay: float) -> None:
    """Minimize the loss of `layer`, plus weight decay, with L-BFGS."""
    optimizer = LBFGS(
        layer.parameters(),
        max_iter=STEPS,
        line_search_fn="strong_wolfe",
    )

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        loss = sample_losses(layer(features), target).mean()
        penalty = decay / 2 * layer.weight.square().sum()
        objective = loss + penalty
        objective.backward()
        return objective

    optimizer.step(compute_loss)

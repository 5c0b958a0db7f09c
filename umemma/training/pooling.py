"""Pooling: how much each uni-modal model counts in the ensemble that starts from them.

A model that is too sure of itself drowns the others in a plain average of logits. A weight for each
modality, fitted on validation, makes the start a logarithmic opinion pool: p(class) is proportional
to the product of p_m(class) ** weight_m. A weight corrects what a modality claims (its temperature)
and what it repeats of the others. It is folded into the head of its modality, so the model has no
further part, and what a modality predicts alone stays the same class.

Reference: Genest and Zidek, Combining probability distributions, Statistical Science 1986 (the
logarithmic pool); Guo et al., On calibration of modern neural networks, ICML 2017 (temperature).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from loguru import logger
from torch import Tensor

from umemma.data.loader import LoadedSplit
from umemma.models.late_fusion import LateFusion
from umemma.training.loss import sample_losses
from umemma.training.optimizer import LBFGS
from umemma.training.step import predict_pattern_logits

FEWEST_SAMPLES = 50  # with two modalities or more, that a fit needs
STEPS = 100  # of L-BFGS
DIGITS = 4  # that a weight is rounded to, so that it is the same on every machine


def pool_heads(
    model: LateFusion,
    val: LoadedSplit,
    batch_size: int,
    device: torch.device,
    loss_of: Callable[[Tensor, Tensor], Tensor] = sample_losses,
) -> None:
    """Multiply the head of each modality by the weight that fits the validation samples best.

    loss_of: the loss of each sample from (B, C) logits and the target.
    """
    alone = torch.eye(len(model.modalities), dtype=torch.bool)
    logits = predict_pattern_logits(model, val, alone, batch_size, device)
    weights = fit_weights(logits, val.present, val.target, loss_of)
    model.weigh_heads(dict(zip(model.modalities, weights, strict=True)))
    shown = ", ".join(f"{m} {w:.2f}" for m, w in zip(model.modalities, weights, strict=True))
    logger.debug(f"weights of the uni-modal models: {shown}")


def fit_weights(
    logits: Tensor,
    present: Tensor,
    target: Tensor,
    loss_of: Callable[[Tensor, Tensor], Tensor] = sample_losses,
) -> list[float]:
    """Return the weight of each modality: M numbers above 0.

    They minimize the loss of the mean of the weighted logits of what is present, summed over the
    samples with at least two modalities, plus half the squared logarithm of each weight. That ridge
    is a log-normal prior of width 1: many samples outweigh it. Without `FEWEST_SAMPLES` samples all
    weights are 1.

    logits: (N, M, C) of each modality alone, of any value where it is absent; present: (N, M).
    """
    is_pooled = present.sum(1) >= 2
    if int(is_pooled.sum()) < FEWEST_SAMPLES:
        return [1.0] * logits.shape[1]
    present = present[is_pooled]
    target = target[is_pooled]
    if target.is_floating_point():
        target = target.double()
    known = logits[is_pooled].double().masked_fill(~present[..., None], 0.0)
    known = known / present.sum(1)[:, None, None]
    log_weights = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = LBFGS([log_weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        pooled = (known * log_weights.exp()[:, None]).sum(1)
        objective = loss_of(pooled, target).sum() + log_weights.square().sum() / 2
        objective.backward()
        return objective

    optimizer.step(compute_loss)
    return [round(weight, DIGITS) for weight in log_weights.detach().exp().tolist()]

"""Modality balancing: two methods that keep one modality from learning at the cost of others.

A training step calls its balancing method once per batch, with the features {modality: (B, D_m)};
the scalar that it returns is added to the loss. A balancing method is no part of the model: neither
the optimizer nor the checkpoint has any of it, and a resumed training needs none of its state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from umemma.errors import UserError
from umemma.models.late_fusion import LateFusion
from umemma.training.loss import sample_losses
from umemma.types import Batch

Balancing: TypeAlias = Callable[[Mapping[str, Tensor], Batch], Tensor]


class GradientModulation:
    """OGM-GE: on-the-fly gradient modulation, with generalization enhancement as an option.

    The gradient of an encoder that is ahead is multiplied by a coefficient k_m below 1, and, with
    `noise`, every encoder's gradient gets noise. s_m is the mean probability that modality m alone
    gives to the correct class, over the samples of the batch that have it; rho_m = s_m / the mean
    of the other modalities' s (the paper has two modalities, so one other). The noise is normal,
    with the standard deviation of the parameter's gradient before modulation, from torch's default
    generator. Both change the gradients of the encoders' parameters before they are accumulated:
    every process and every micro-batch has coefficients of its own.

    Reference: Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation, CVPR
    2022, arXiv 2203.15332, and the authors' code. There it is applied to convolution kernels, by
    default in the first half of the epochs; here to all weights of two dimensions or more, as
    encoders may be transformers, in every epoch. AdamW divides by the size of the gradients, so a
    lasting k matters less than with their SGD.
    """

    def __init__(self, model: LateFusion, alpha: float, noise: bool) -> None:
        self.model = model
        self.alpha = alpha
        self.noise = noise
        self.coefficients = torch.ones(len(model.modalities))
        modules = {id(model.encoders[m]) for m in model.modalities}
        if len(modules) < len(model.modalities):
            raise UserError(
                "ogm-ge has no gradient of its own for modalities that share an encoder",
                "finetune.balance",
                "Take another preset, or encoders without same_as.",
                usage=True,
            )
        for i, m in enumerate(model.modalities):
            for parameter in model.encoders[m].parameters():
                if parameter.requires_grad and parameter.ndim > 1:
                    parameter.register_hook(self._make_gradient_hook(i))

    @torch.no_grad()
    def __call__(self, features: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Set the coefficients for the backward pass of this batch. Returns 0: no loss is added."""
        probability = predict_target_probability(self.model, features, batch.target)
        present = batch.present.to(probability.device, non_blocking=True)
        self.coefficients = modulation_coefficients(probability, present, self.alpha)
        return probability.new_zeros(())

    def _make_gradient_hook(self, i: int) -> Callable[[Tensor], Tensor]:
        """Return a hook that modulates a gradient of the encoder of modality i."""

        def modulate(gradient: Tensor) -> Tensor:
            modulated = gradient * self.coefficients[i]
            if not self.noise:
                return modulated
            return modulated + torch.randn_like(gradient) * gradient.std(correction=0)

        return modulate


def predict_target_probability(
    model: LateFusion, features: Mapping[str, Tensor], target: Tensor
) -> Tensor:
    """Return (B, M): the probability of the correct class from each modality alone.

    It comes from what the modality's head adds to the logits of a complete sample. For sets of
    labels it is the geometric mean over all labels, whether the sample has them or not.
    """
    modality_count = len(model.modalities)
    logits = [model.heads[m](features[m]) / modality_count for m in model.modalities]
    return sample_losses(torch.stack(logits, 1), target).neg().exp()


def modulation_coefficients(probability: Tensor, present: Tensor, alpha: float) -> Tensor:
    """Return (M,): k_m = 1 - tanh(alpha rho_m) where rho_m > 1, else 1.

    It is also 1 where no other modality is present in the batch. probability: (B, M) of the correct
    class, present: (B, M) bool.
    """
    counts = present.sum(0)
    scores = probability.where(present, 0.0).sum(0) / counts  # NaN without a sample that has it
    other_scores = (scores.nansum() - scores) / (scores.isfinite().sum() - 1)
    ratios = scores / other_scores
    return torch.where(ratios > 1, 1 - torch.tanh(alpha * ratios), 1.0)


class Teachers:
    """UMT: uni-modal teachers, whose features the encoders also learn to give.

    To the loss of a sample is added `weight` times the mean squared distance (over D_m) to the
    teacher's feature, for each modality that the sample has. So it is a mean over samples, as the
    task's loss is, and does not depend on how a batch is cut. teachers: {modality: its uni-modal
    model}; a modality without a teacher learns from the task alone.

    Reference: Du et al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, ICML
    2023, arXiv 2305.01233.
    """

    def __init__(self, teachers: Mapping[str, LateFusion], weight: float) -> None:
        self.teachers = {m: model.requires_grad_(False).eval() for m, model in teachers.items()}
        self.weight = weight

    def __call__(self, features: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return what is added to the mean loss of the batch."""
        total = batch.target.new_zeros((), dtype=torch.float32)
        for i, m in enumerate(sorted(features)):
            if m not in self.teachers:
                continue
            teacher = self.teachers[m]
            with torch.no_grad():
                target = teacher.encode_one(m, batch.inputs[m], batch.present[:, i])
            # Both features are 0 where the modality is absent.
            total = total + functional.mse_loss(features[m], target)
        return self.weight * total

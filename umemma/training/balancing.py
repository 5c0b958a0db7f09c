"""What keeps one modality from learning at the cost of the others: two rivals of the method, beside the loss of a step.

A step asks its rival once per batch, with the features (B, D_m) of each modality; the answer, a scalar, is added to
the loss. A rival is no part of the model: the optimizer and the checkpoint don't see it, nor does a training that goes
on need anything of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from umemma.models.late_fusion import LateFusion
from umemma.training.loss import losses
from umemma.types import Batch

Rival: TypeAlias = Callable[[Mapping[str, Tensor], Batch], Tensor]


class GradientModulation:
    """OGM-GE: the gradient of an encoder that is ahead is multiplied by k_m below 1, and every encoder's gets noise.

    s_m is the mean probability that modality m alone gives the right answer, over the samples of the batch that have
    it; rho_m = s_m / the mean of the other modalities' s (the paper has two, so one other). The noise is normal, of the
    standard deviation of the parameter's gradient before modulation, from torch's default generator. Both change the
    gradients of the encoders' parameters before they are added up: each process, and each part of a batch that is taken
    in parts, has its own.

    Reference: Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation, CVPR 2022, arXiv
    2203.15332, and the authors' code. There it is done to convolution kernels, by default in the first half of the
    epochs; here to all weights of two dimensions or more, as encoders may be transformers, always. AdamW divides by the
    gradients' own size, so a lasting k matters less than with their SGD.
    """

    def __init__(self, model: LateFusion, alpha: float, noise: bool) -> None:
        self.model, self.alpha, self.noise = model, alpha, noise
        self.k = torch.ones(len(model.modalities))
        for i, m in enumerate(model.modalities):
            for parameter in model.encoders[m].parameters():
                if parameter.requires_grad and parameter.ndim > 1:
                    parameter.register_hook(self._change(i))

    @torch.no_grad()
    def __call__(self, features: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """0: what it changes are the gradients of this batch."""
        right = right_answers(self.model, features, batch.target)
        self.k = coefficients(right, batch.present.to(right.device), self.alpha)
        return right.new_zeros(())

    def _change(self, i: int) -> Callable[[Tensor], Tensor]:
        def change(gradient: Tensor) -> Tensor:
            changed = gradient * self.k[i]
            return (
                changed + torch.randn_like(gradient) * gradient.std(correction=0)
                if self.noise
                else changed
            )

        return change


def right_answers(model: LateFusion, features: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """(B, M): the probability that each modality alone gives the right answer, by what its head adds to the logits of a
    complete sample. For sets of labels it is the geometric mean over the labels, those that are not there included."""
    logits = [model.heads[m](features[m]) / len(model.modalities) for m in model.modalities]
    return losses(torch.stack(logits, 1), target).neg().exp()


def coefficients(right: Tensor, present: Tensor, alpha: float) -> Tensor:
    """(M,): k_m = 1 - tanh(alpha rho_m) where rho_m > 1, else 1; also 1 where there is nothing to compare with.

    right: (B, M) probabilities of the right answer, present: (B, M) bool.
    """
    shares = right.where(present, 0.0).sum(0) / present.sum(
        0
    )  # NaN where no sample has the modality
    others = (shares.nansum() - shares) / (shares.isfinite().sum() - 1)
    ratios = shares / others
    return torch.where(ratios > 1, 1 - torch.tanh(alpha * ratios), 1.0)


class Teachers:
    """UMT: the encoders also learn to give the features that uni-modal training gave.

    The loss of a sample gets `weight` times the mean squared distance (over D_m) to the teacher's feature, for each
    modality that the sample has. So it is a mean over samples as the task's loss is, and doesn't depend on how a batch
    is cut. teachers: {modality: its uni-modal model}; a modality without one learns from the task alone.

    Reference: Du et al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, ICML 2023, arXiv 2305.01233.
    """

    def __init__(self, teachers: Mapping[str, LateFusion], weight: float) -> None:
        self.teachers = {m: one.requires_grad_(False).eval() for m, one in teachers.items()}
        self.weight = weight

    def __call__(self, features: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """What is added to the mean loss of the batch."""
        total = batch.target.new_zeros((), dtype=torch.float32)
        for i, m in enumerate(sorted(features)):
            if m in self.teachers:
                with torch.no_grad():
                    taught = self.teachers[m].encode_one(m, batch.inputs[m], batch.present[:, i])
                total = total + functional.mse_loss(
                    features[m], taught
                )  # both are 0 where there is nothing to see
        return self.weight * total

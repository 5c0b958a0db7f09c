"""Which modality decided: what each adds to the prediction for one sample.

A model answers from every subset of what is present, so the Shapley value of a modality
(evaluation/attribution/shapley.py) is computed, not estimated, and nothing is filled in. The worth
of a subset is its calibrated answer: the logarithm of the probability of a class; of a label that
may be there beside others its log-odds; of a target its value. From nothing it is that of the
training samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, logit

from umemma.errors import UserError
from umemma.evaluation.attribution import shapley
from umemma.models.answers import AnyPrediction
from umemma.models.saved_model import ModelInfo

RAREST = 1e-9  # share of a class that no training sample has


@dataclass(frozen=True)
class Explanation:
    """A prediction and what each modality adds to it.

    prior: {class or target: its worth from nothing}. contributions: {modality: {class or target:
    what it adds}}, 0 for an absent one. The prior and all contributions add up to the answer: the
    logarithm of a probability, the log-odds of a label, or the value of a target.
    interactions: {"audio+image": {class or target: what both tell only together, above 0, or tell
    twice, below 0}} for every pair that is present.
    """

    prediction: AnyPrediction
    prior: dict[str, float]
    contributions: dict[str, dict[str, float]]
    interactions: dict[str, dict[str, float]]


def attribute(
    prediction: AnyPrediction, worth: np.ndarray, modalities: Sequence[str], classes: Sequence[str]
) -> Explanation:
    """Return the explanation of a prediction by the worth (2**P, C) of every subset.

    Row k is the subset whose modalities are the bits of k, of the P that are present. modalities:
    all that the model has.
    """

    def name(numbers: np.ndarray) -> dict[str, float]:
        return dict(zip(classes, numbers.tolist(), strict=True))

    shares = shapley.contributions(worth)
    pairs = shapley.interactions(worth)
    contributions = {m: dict.fromkeys(classes, 0.0) for m in modalities}
    interactions = {}
    for i, m in enumerate(prediction.present):
        contributions[m] = name(shares[i])
        for j, other in enumerate(prediction.present[:i]):
            interactions[f"{other}+{m}"] = name(pairs[i, j])
    return Explanation(prediction, name(worth[0]), contributions, interactions)


def measure_worth(answers: np.ndarray, task: str) -> np.ndarray:
    """Return the worth of calibrated answers (..., C): see the top of this file."""
    if task == "multiclass":
        return log_softmax(answers.astype(np.float64), axis=-1)
    return answers.astype(np.float64)


def make_prior(info: ModelInfo) -> np.ndarray:
    """Return the worth (C,) of nothing. UserError for a model that does not know it."""
    if info.task == "regression":
        return np.array([scale.mean for scale in info.scales])
    if len(info.prior) != len(info.classes):
        hint = "Train it again: umemma finetune-ensemble --force"
        raise UserError("the model does not say how frequent its classes are", hint=hint)
    shares = np.clip(info.prior, RAREST, 1 - RAREST)
    if info.task == "multilabel":
        return logit(shares)
    return np.log(shares)

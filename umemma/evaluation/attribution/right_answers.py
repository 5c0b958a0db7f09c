"""What each modality adds to the probability of the right answer, over a split, in bits.

The worth of a subset is the logarithm, to the base 2, of the probability that the model gives to
what is right; in regression of the density. From nothing it is that of the prior. The Shapley
values (shapley.py) of a sample add up to what all its modalities together add, so their means add
up to the cross entropy of the prior less that of the model with everything. An absent modality adds
0. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from umemma.evaluation.attribution import shapley
from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.metrics import Stats, log_loss, mean_of_sums
from umemma.evaluation.predictions import Predictions
from umemma.types import format_pattern

ALL = ""  # the name of all classes, labels or targets together


class Contribution(NamedTuple):
    """What a modality adds, a mean over `n` samples, in bits with a 95 % interval.

    name: the class whose samples they are; of several labels or targets the one that is told, of
    all samples; `ALL` for everything.
    """

    modality: str
    name: str
    n: int
    bits: float
    low: float
    high: float


class Interaction(NamedTuple):
    """What a pair, "audio+image", tells only together (above 0) or twice (below 0), in bits.

    A mean over the samples, with a 95 % interval.
    """

    modalities: str
    bits: float
    low: float
    high: float


def estimate_attribution(
    predictions: Predictions, bootstrap: Bootstrap
) -> tuple[list[Contribution], list[Interaction]]:
    """Return what each modality adds, to all answers and to each class, and what pairs add.

    Over the samples that have a modality. Both are empty for a single modality.
    """
    names = predictions.modalities
    answered = predictions.has_logits("ensemble", format_pattern(names))
    if len(names) < 2 or not answered.any():
        return [], []
    pairs = [(i, j) for j in range(len(names)) for i in range(j)]
    interaction_weights = shapley.weigh_interactions(len(names))
    of_pairs = [interaction_weights[pair] for pair in pairs]
    weights = np.concatenate([shapley.weigh_contributions(len(names)), of_pairs])

    sums = _add_up_worths(predictions, weights)
    sums[:, ~answered] = np.nan
    overall = bootstrap.estimate_means(sums.sum(2).T)
    by_name = _split_by_name(sums[: len(names)], answered, predictions, bootstrap)
    contributions = []
    for i, modality in enumerate(names):
        contributions.append(Contribution(modality, ALL, int(answered.sum()), *overall[i]))
        contributions += by_name[i]
    interactions = []
    for (i, j), mean in zip(pairs, overall[len(names) :], strict=True):
        interactions.append(Interaction(format_pattern([names[i], names[j]]), *mean))
    return contributions, interactions


def _add_up_worths(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Return (P, N, K) sums over subsets of (P, 2**M) weights times the worth of each.

    K is 1, or the number of labels or targets.
    """
    nothing = _measure_nothing(predictions)
    sums = weights[:, 0, None, None] * nothing
    names = predictions.modalities
    for subset in predictions.ensemble:
        left = subset.split("+")
        code = sum(1 << i for i, m in enumerate(names) if m in left)
        worth = _measure_worth(predictions, "ensemble", subset)
        worth = np.where(np.isnan(worth), nothing, worth)
        sums += weights[:, code, None, None] * worth
    return sums


def _measure_nothing(predictions: Predictions) -> np.ndarray:
    """Return the (N, K) worth of the prior; where it is unknown, of the shares in these samples."""
    target, task = predictions.target, predictions.task
    if not predictions.has_prior:
        shares = target.mean(0, dtype=np.float64)
        if task == "multiclass":
            shares = np.bincount(target, minlength=len(predictions.classes)) / len(target)
        predictions = replace(predictions, prior=shares.tolist())
    return _measure_worth(predictions, "prior", "")


def _measure_worth(predictions: Predictions, model: str, subset: str) -> np.ndarray:
    """Return (N, K) bits: log2 of the probability or density of what is right."""
    task = predictions.task
    if task == "multiclass":
        return -predictions.log_loss(model, subset)[:, None] / np.log(2)
    return predictions.map_blocks(
        lambda block: _measure_columns(block.logits(model, subset), block.target, task)
    )


def _measure_columns(outputs: np.ndarray, target: np.ndarray, task: str) -> np.ndarray:
    count = target.shape[1]
    columns = []
    for k in range(count):
        own = [k]
        if task == "regression":
            own = [k, count + k]
        columns.append(log_loss(outputs[:, own], target[:, [k]]))
    return -np.stack(columns, 1) / np.log(2)


def _split_by_name(
    values: np.ndarray, answered: np.ndarray, predictions: Predictions, bootstrap: Bootstrap
) -> list[list[Contribution]]:
    """Return what each modality adds to each class, label or target, from (M, N, K) contributions.

    A list for each modality; empty where they have no names.
    """
    names, n = predictions.classes, int(answered.sum())
    if not names:
        return [[] for _ in predictions.modalities]
    if predictions.task == "multiclass":
        return _split_by_class(values[..., 0].T, answered, predictions, bootstrap)
    rows = []
    for modality, own in zip(predictions.modalities, values, strict=True):
        means = zip(names, bootstrap.estimate_means(own), strict=True)
        rows.append([Contribution(modality, name, n, *mean) for name, mean in means])
    return rows


def _split_by_class(
    values: np.ndarray, answered: np.ndarray, predictions: Predictions, bootstrap: Bootstrap
) -> list[list[Contribution]]:
    """Return for each modality what it adds to each class that has samples, from (N, M) values."""
    # The sums over the samples of a class, and their number, stand side by side.
    count, width = len(predictions.classes), values.shape[1] + 1
    columns = width * predictions.target[:, None] + np.arange(width)
    known = np.where(answered[:, None], values, 0.0)
    stats = Stats(columns, np.column_stack([known, answered]), width * count)
    weight = np.ones(len(values))
    totals = stats.total(weight).reshape(-1, width)
    resampled = bootstrap.totals(stats, weight)
    resampled = resampled.reshape(*resampled.shape[:2], -1, width)
    rows: list[list[Contribution]] = []
    for i, modality in enumerate(predictions.modalities):
        bits = mean_of_sums(totals[:, [i, -1]])
        draws = mean_of_sums(resampled[..., [i, -1]])
        own = []
        for k, name in enumerate(predictions.classes):
            if n := int(totals[k, -1]):
                mean = float(bits[k])
                low, high = bootstrap.bounds(draws[..., k], mean)
                own.append(Contribution(modality, name, n, mean, low, high))
        rows.append(own)
    return rows


def select_overall(contributions: Sequence[Contribution]) -> list[Contribution]:
    """Return what each modality adds to everything."""
    return [row for row in contributions if row.name == ALL]


def group_by_class(
    contributions: Sequence[Contribution],
) -> Mapping[str, dict[str, Contribution]]:
    """Return {class, label or target: {modality: what it adds}}."""
    by_class: dict[str, dict[str, Contribution]] = {}
    for row in contributions:
        if row.name != ALL:
            by_class.setdefault(row.name, {})[row.modality] = row
    return by_class

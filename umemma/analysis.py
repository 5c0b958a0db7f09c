"""The information report: bits that each set of modalities tells, what one adds to the others, and what holds it back.

For answers p(y|x) the cross entropy CE (bits) bounds the information of the modalities S about the label from below:
I(Y; X_S) >= H(Y) - CE (Barber & Agakov, NIPS 2003; Poole et al., ICML 2019, arXiv 1905.06922). It is tight for the true
posterior; for a given family of models it is the V-information (Xu et al., ICLR 2020, arXiv 2002.10689). Below 0 the answers
are worse than the labels' shares alone. A difference of two bounds is an estimate, no bound.

For sets of labels H and CE are sums over labels: so is the information, of each label by itself. It is not that of the
whole set, as labels depend on one another.

Each number is a mean over the samples that it can be made on, told by `n`, and each difference over those that have both;
where samples really lack modalities, these are different samples. Intervals resample groups. The mean of -log2 of a
label's share is H, so H(Y) - CE is the mean of each sample's pointwise information (Ethayarajh et al., ICML 2022, arXiv
2110.08420) and H and CE are resampled together, without the bias that the entropy of a resample has. H(Y) of N samples
of C classes is itself low by about (C - 1) / 2N nats (Miller, 1955), so that the bound stays one. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.special import xlog1py, xlogy

from umemma.contracts import joined
from umemma.metrics import USUAL, Bootstrap, get, log_loss, score
from umemma.missing import patterns
from umemma.predictions import Predictions

FEW = 10  # independent groups, below which intervals say nothing


class Bound(NamedTuple):
    """A model's lower bound of I(Y; X_S), bits per sample: entropy - cross_entropy, with its 95 % interval."""

    model: str
    modalities: str
    n: int
    entropy: float
    cross_entropy: float
    bits: float
    low: float
    high: float


class Difference(NamedTuple):
    """Of two models' answers to the same samples: in what the task is scored by, and in bits; with 95 % intervals."""

    modality: str
    n: int
    score: float
    score_low: float
    score_high: float
    bits: float
    bits_low: float
    bits_high: float


class Information(NamedTuple):
    """complementary: all modalities less all but this one, over samples that have this and another. gaps: the ensemble
    with only this modality less its uni-modal model. shortfalls: all modalities less that uni-modal model."""

    task: str
    entropy_bits: float
    bounds: list[Bound]
    complementary: list[Difference]
    gaps: list[Difference]
    shortfalls: list[Difference]
    advice: list[str]

    def as_json(self) -> dict[str, Any]:
        return {
            "metric": USUAL[self.task][0],
            "entropy_bits": self.entropy_bits,
            "information": [row._asdict() for row in self.bounds],
            "complementary": [row._asdict() for row in self.complementary],
            "gaps": [row._asdict() for row in self.gaps],
            "shortfalls": [row._asdict() for row in self.shortfalls],
            "advice": self.advice,
        }


def surprise(target: np.ndarray) -> np.ndarray:
    """(N,) bits: -log2 of the share that each sample's label has in `target`, summed over labels of a set."""
    if target.ndim == 1:
        return -np.log2(np.bincount(target)[target] / len(target))
    share = target.mean(0, dtype=np.float64)
    return -(xlogy(target, share) + xlog1py(1 - target, -share)).sum(1) / np.log(2)


def cross_entropy(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) bits, summed over labels of a set; NaN where the logits are NaN."""
    return log_loss(logits, target) * (1 if target.ndim == 1 else target.shape[1]) / np.log(2)


def bits(predictions: Predictions, bootstrap: Bootstrap) -> Information:
    """Everything that is told in bits, and the advice drawn from it."""
    target, names = predictions.target, predictions.modalities
    ensemble = {joined(pattern): predictions.ensemble[joined(pattern)] for pattern in patterns(names)}
    models = {("ensemble", subset): logits for subset, logits in ensemble.items()}
    models |= {("unimodal", m): predictions.unimodal[m] for m in names}
    costs = {model: cross_entropy(logits, target) for model, logits in models.items()}
    scores = {model: score(logits, target) for model, logits in models.items()}
    bounds = []
    for (model, subset), cost in costs.items():
        scored = ~np.isnan(cost)
        prior = np.full(len(cost), np.nan)
        if scored.any():
            prior[scored] = surprise(target[scored])
            n, value, low, high = _mean(prior - cost, bootstrap)
            bounds.append(Bound(model, subset, n, float(np.nanmean(prior)), float(np.nanmean(cost)), value, low, high))

    def less(modality: str, one: tuple[str, str], other: tuple[str, str], both: np.ndarray) -> list[Difference]:
        """`one` less `other`, where `both`; [] where no sample is."""
        gain = np.where(both, scores[one] - scores[other], np.nan)
        saved = np.where(both, costs[other] - costs[one], np.nan)
        if np.isnan(gain).all():
            return []
        n, value, low, high = _mean(gain, bootstrap)
        return [Difference(modality, n, value, low, high, *_mean(saved, bootstrap)[1:])]

    every, complementary, gaps, shortfalls = joined(names), [], [], []
    for m in names:
        there = ~np.isnan(costs["ensemble", m])
        if rest := joined({*names} - {m}):
            complementary += less(m, ("ensemble", every), ("ensemble", rest), there)
            shortfalls += less(m, ("ensemble", every), ("unimodal", m), there)
        gaps += less(m, ("ensemble", m), ("unimodal", m), there)
    entropy = float(surprise(target).mean())
    found = Information(predictions.task, entropy, bounds, complementary, gaps, shortfalls, [])
    return found._replace(advice=list(advise(found, bootstrap.weights.shape[1])))


def advise(found: Information, groups: int) -> Iterator[str]:
    """Lines in plain words. An interval has to support what they claim, otherwise they say that it can't be told.

    1. Most worth protecting is what costs most where it is missing, if its whole interval lies above the others'.
    2. More is an interval of the score or of the bits above 0, less is one below if none is above: a modality adds to the
       others, or harms.
    3. The fusion holds a modality back if the ensemble that has nothing else is less than the uni-modal model. Of the modality
       whose uni-modal model lacks most to all together: what the fusion isn't to blame for is up to its encoder, or not
       in its data.
    """
    if groups < FEW:
        yield f"Only {groups} independent groups of samples: too few for intervals, and so for advice."
        return
    metric = _metric(found.task)
    # 1.
    costly = [row for row in found.complementary if row.score_low > 0]
    top = max(costly, key=lambda row: row.score, default=None)
    if top:
        close = [row.modality for row in found.complementary if row.score_high >= top.score_low]
        if len(close) == 1:
            yield (
                f"Protect {top.modality} most: without it {metric} falls by {_points(top)}; it tells an estimated "
                f"{_bits(top)} that the others don't."
            )
        else:
            yield f"Most worth protecting is one of {', '.join(close)}; the intervals don't tell which."
    elif found.complementary:
        yield f"No modality's absence is seen to cost {metric} while the others are there."
    # 2.
    for row in found.complementary:
        if _sign(row) < 0:
            yield f"{row.modality} does harm: with it {metric} changes by {_points(row)}, what is told by {_bits(row)}."
        elif not _sign(row):
            most = f"{100 * row.score_high:.1f} points, {row.bits_high:.2f} bits"
            yield f"It can't be told that {row.modality} adds anything to the others: at most {most}."
    # 3.
    for gap in found.gaps:
        if _sign(gap) < 0:
            yield (
                f"The fusion holds {gap.modality} back: alone in the ensemble it differs from its uni-modal model by "
                f"{_points(gap)} and {_bits(gap)}."
            )
    weakest = max(found.shortfalls, key=lambda row: row.score, default=None)
    if weakest and _sign(weakest) > 0:
        held = next(gap for gap in found.gaps if gap.modality == weakest.modality)
        if _sign(held) >= 0:
            yield (
                f"{weakest.modality} by itself is {_points(weakest)} behind all modalities together, and the fusion isn't seen "
                f"to hold it back: a better encoder is what could help, if more is in its data."
            )


def _sign(row: Difference) -> int:
    """1 more, -1 less, 0 where the intervals can't tell; see `advise`."""
    return int(max(row.score_low, row.bits_low) > 0) or -int(min(row.score_high, row.bits_high) < 0)


def _points(row: Difference) -> str:
    return f"{100 * row.score:z.1f} points ({100 * row.score_low:z.1f} to {100 * row.score_high:z.1f})"


def _bits(row: Difference) -> str:
    return f"{row.bits:z.2f} bits ({row.bits_low:z.2f} to {row.bits_high:z.2f})"


def _metric(task: str) -> str:
    return get(USUAL[task][0], task, 0).label


def _mean(values: np.ndarray, bootstrap: Bootstrap) -> tuple[int, float, float, float]:
    """n, mean, low, high of (N,) values, NaN ones left out."""
    return int((~np.isnan(values)).sum()), float(np.nanmean(values)), *bootstrap.interval(values)

"""Bits that each set of modalities tells, what one adds to the others, and what holds it back.

For answers p(y|x) the cross entropy CE (bits) bounds the information of the modalities S about the
label from below: I(Y; X_S) >= H(Y) - CE (Barber & Agakov, NIPS 2003; Poole et al., ICML 2019, arXiv
1905.06922). It is tight for the true posterior; for a given family of models it is the
V-information (Xu et al., ICLR 2020, arXiv 2002.10689). Below 0 the answers are worse than the
labels' shares alone. A difference of two bounds is an estimate, no bound.

In regression H(Y) is the entropy of a normal distribution with the targets' mean and variance, the
largest that they can have. H - CE is then what the answers are better by than that constant answer;
it is a bound of the information only where the target is normal.

For sets of labels H and CE are sums over labels: so is the information, of each label by itself. It
is not that of the whole set, as labels depend on one another.

Each number is a mean over the samples that it can be computed on, whose number is `n`, and each
difference over those that have both; where samples really lack modalities, these are different
samples. Intervals resample groups. The mean of -log2 of a label's share is H, so H(Y) - CE is the
mean of each sample's pointwise information (Ethayarajh et al., ICML 2022, arXiv 2110.08420) and H
and CE are resampled together, without the bias that the entropy of a resample has. H(Y) of N
samples of C classes is itself low by about (C - 1) / 2N nats (Miller, 1955), so that the bound
stays one. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.special import xlog1py, xlogy

from umemma.evaluation.attribution.additions import count_changes
from umemma.evaluation.attribution.right_answers import estimate_attribution
from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.grid_sums import make_stats
from umemma.evaluation.information_report import (
    Information,
    InformationBound,
    ModelDifference,
    advise,
)
from umemma.evaluation.metrics import USUAL, Metric, get
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.regression import measures
from umemma.missing import list_shown_patterns
from umemma.types import format_pattern

ModelKey: TypeAlias = tuple[str, str]  # ("ensemble", "unimodal" or "probe"; modalities)
ModelOf: TypeAlias = Callable[[str], ModelKey]  # which model, for a modality


def label_surprise(target: np.ndarray, task: str = "") -> np.ndarray:
    """Return (N,) bits: -log2 of the share of each sample's label in `target`.

    It is summed over the labels of a set. In regression, -log2 of the density of a normal
    distribution with the mean and the variance of each target.
    """
    if task == "regression":
        return measures.label_surprise(target) / np.log(2)
    if target.ndim == 1:
        shares = np.bincount(target)[target] / len(target)
        return -np.log2(shares)
    share = target.mean(0, dtype=np.float64)
    nats = (xlogy(target, share) + xlog1py(1 - target, -share)).sum(1)
    return -nats / np.log(2)


def estimate_information(
    predictions: Predictions,
    bootstrap: Bootstrap,
    metric: Metric | None = None,
    smallest: float = 0.01,
    is_ours: bool = True,
) -> Information:
    """Return everything that is measured in bits, and the advice drawn from it.

    metric: of the scores, one that can lead the tables; None = what the task is usually scored by;
    smallest: the smallest difference of it that counts; is_ours: see `Information`. Without
    uni-modal models there are no differences to them.
    """
    target, names = predictions.target, predictions.modalities
    if metric is None:
        metric = get(USUAL[predictions.task][0], predictions.task, 0)
    models: list[ModelKey] = []
    for pattern in list_shown_patterns(names):
        models.append(("ensemble", format_pattern(pattern)))
    trained_alone = [m for m in names if m in predictions.unimodal]
    models += [("unimodal", m) for m in trained_alone]
    costs = {model: _measure_cost(predictions, model) for model in models}
    bounds = _estimate_bounds(costs, predictions, bootstrap)
    for m in predictions.probes:
        costs["probe", m] = _measure_cost(predictions, ("probe", m))

    differences = _Differences(costs, predictions, bootstrap, metric)
    complete = format_pattern(names)
    probed = sorted(predictions.probes)
    several: list[str] = []  # of a single modality there is nothing to compare with
    rivals: list[str] = []
    if len(names) > 1:
        several, rivals = names, trained_alone

    def everything(m: str) -> ModelKey:
        return "ensemble", complete

    def rest(m: str) -> ModelKey:
        return "ensemble", format_pattern({*names} - {m})

    information = Information(
        predictions.task,
        metric,
        smallest,
        float(label_surprise(target, predictions.task).mean()),
        bounds,
        complementary=differences.estimate(several, everything, rest),
        singles=differences.estimate(several, everything, _alone),
        gaps=differences.estimate(trained_alone, _alone, _unimodal),
        shortfalls=differences.estimate(rivals, everything, _unimodal),
        encoder_gaps=differences.estimate(probed, _probe, _unimodal),
        fusion_gaps=differences.estimate(probed, _alone, _probe),
        is_ours=is_ours,
    )
    contributions, interactions = estimate_attribution(predictions, bootstrap)
    return information._replace(
        contributions=contributions,
        interactions=interactions,
        additions=count_changes(predictions, bootstrap),
        advice=list(advise(information, min(bootstrap.counts))),
    )


def _measure_cost(predictions: Predictions, model: ModelKey) -> np.ndarray:
    """Return (N,) cross entropies in bits, summed over the labels of a set; NaN: no answer."""
    labels = 1
    if predictions.target.ndim == 2:
        labels = predictions.target.shape[1]
    return predictions.log_loss(*model) * labels / np.log(2)


def _alone(m: str) -> ModelKey:
    """Return the ensemble given nothing but this modality."""
    return "ensemble", m


def _unimodal(m: str) -> ModelKey:
    return "unimodal", m


def _probe(m: str) -> ModelKey:
    return "probe", m


class _Mean(NamedTuple):
    n: int
    value: float
    low: float
    high: float


class _Differences:
    """Differences between models {(kind, modalities): (N,) cross entropy}, resampled together."""

    def __init__(
        self,
        costs: Mapping[ModelKey, np.ndarray],
        predictions: Predictions,
        bootstrap: Bootstrap,
        metric: Metric,
    ) -> None:
        self.bootstrap = bootstrap
        self.metric = metric
        self.costs = costs
        self.there = {}
        self.stats = {}
        for model in costs:
            self.there[model] = predictions.has_logits(*model)
            self.stats[model] = make_stats(predictions, metric, *model)

    def estimate(
        self,
        modalities: Sequence[str],
        first: ModelOf,
        second: ModelOf,
    ) -> list[ModelDifference]:
        """Return `first` less `second` for each modality that both answer any sample of.

        A difference is over the samples that have the modality and that both answer.
        """
        rows = []
        for m in modalities:
            row = self._estimate_one(m, first(m), second(m))
            if row is not None:
                rows.append(row)
        return rows

    def _estimate_one(
        self,
        modality: str,
        first: ModelKey,
        second: ModelKey,
    ) -> ModelDifference | None:
        both = self.there["ensemble", modality] & self.there[first] & self.there[second]
        if not both.any():
            return None
        weight = both.astype(np.float64)
        first_total, first_draws = self._score(first, weight)
        second_total, second_draws = self._score(second, weight)
        score = float(first_total - second_total)
        low, high = self.bootstrap.bounds(first_draws - second_draws, score)
        saved = np.where(
            both,
            self.costs[second] - self.costs[first],
            np.nan,
        )
        bits = _mean(saved, self.bootstrap)
        return ModelDifference(
            modality,
            bits.n,
            score,
            max(low, self.metric.lowest - 1.0),
            min(high, 1.0 - self.metric.lowest),
            bits.value,
            bits.low,
            bits.high,
        )

    def _score(
        self,
        model: ModelKey,
        weight: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the value of the metric over the samples, and (R, times) over the resamples."""
        assert self.metric.value
        total = self.metric.value(self.stats[model].total(weight))
        draws = self.metric.value(self.bootstrap.totals(self.stats[model], weight))
        return total, draws


def _estimate_bounds(
    costs: Mapping[ModelKey, np.ndarray], predictions: Predictions, bootstrap: Bootstrap
) -> list[InformationBound]:
    bounds = []
    for (model, subset), cost in costs.items():
        scored = ~np.isnan(cost)
        if not scored.any():
            continue
        prior = np.full(len(cost), np.nan)
        prior[scored] = label_surprise(predictions.target[scored], predictions.task)
        bits = _mean(prior - cost, bootstrap)
        bound = InformationBound(
            model,
            subset,
            bits.n,
            entropy=float(np.nanmean(prior)),
            cross_entropy=float(np.nanmean(cost)),
            bits=bits.value,
            low=bits.low,
            high=bits.high,
        )
        bounds.append(bound)
    return bounds


def _mean(values: np.ndarray, bootstrap: Bootstrap) -> _Mean:
    """Return the mean of (N,) values with its interval, NaN values left out."""
    n = int((~np.isnan(values)).sum())
    return _Mean(n, *bootstrap.estimate_means(values[:, None])[0])

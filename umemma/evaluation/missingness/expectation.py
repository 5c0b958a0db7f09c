"""What is left of a model under a protocol: the exact expectation over all that may go missing.

A sample counts under each subset with the probability that the subset is what is left. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.grid_sums import make_stats, take_logits
from umemma.evaluation.metrics import Metric, select_metrics
from umemma.evaluation.missingness.protocol import SubsetWeights
from umemma.evaluation.predictions import Predictions
from umemma.types import format_pattern


class ProtocolScore(NamedTuple):
    """A metric of a model under a protocol, with 95 % intervals that resample groups.

    model: "ensemble", or "average" of the uni-modal models; complete: the metric of the same
    samples with everything; difference: of the two, resampled together. NaN bounds: the metric
    needs the samples in order.
    """

    metric: Metric
    model: str
    value: float
    low: float
    high: float
    complete: float
    difference: float
    difference_low: float
    difference_high: float


def score_protocol(
    predictions: Predictions,
    weights: SubsetWeights,
    seed: int,
    times: int,
    names: Sequence[str] | None = None,
) -> Iterator[ProtocolScore]:
    """Yield each metric of the ensemble, then the first of the average of the uni-modal models.

    times: resamples; names: of the metrics, None = those that are usual for the task.
    """
    bootstrap = Bootstrap(predictions.groups, seed, times)
    complete = format_pattern(predictions.modalities)
    width = predictions.ensemble[complete].shape[1]
    metrics = select_metrics(names, predictions.task, width, predictions.unit)
    everything = {complete: weights.scored.astype(np.float64)}
    for metric in metrics:
        yield _score(predictions, metric, "ensemble", weights.weights, everything, bootstrap)
    if predictions.unimodal:
        yield _score(predictions, metrics[0], "average", weights.weights, everything, bootstrap)


def _score(
    predictions: Predictions,
    metric: Metric,
    model: str,
    weights: dict[str, np.ndarray],
    everything: dict[str, np.ndarray],
    bootstrap: Bootstrap,
) -> ProtocolScore:
    nan = float("nan")
    if metric.ranked:
        value = _rank(predictions, metric, model, weights)
        complete = _rank(predictions, metric, model, everything)
        return ProtocolScore(metric, model, value, nan, nan, complete, value - complete, nan, nan)
    sums = add_up(predictions, metric, model, weights, bootstrap)
    whole = add_up(predictions, metric, model, everything, bootstrap)
    return ProtocolScore(metric, model, *compare_sums(metric, sums, whole, bootstrap))


class Comparison(NamedTuple):
    """A metric with its interval, that of the same samples with everything, and the difference."""

    value: float
    low: float
    high: float
    complete: float
    difference: float
    difference_low: float
    difference_high: float


def compare_sums(metric: Metric, sums: Sums, whole: Sums, bootstrap: Bootstrap) -> Comparison:
    """Return what a metric is of sums, and how far that is from what it is of others, `whole`."""
    assert metric.value
    value = float(metric.value(sums.total))
    draws = metric.value(sums.draws)
    low, high = bootstrap.bounds(draws, value)
    if metric.percent:
        low, high = max(low, metric.lowest), min(high, 1.0)
    complete = float(metric.value(whole.total))
    difference = value - complete
    bounds = bootstrap.bounds(draws - metric.value(whole.draws), difference)
    return Comparison(value, low, high, complete, difference, *bounds)


class Sums(NamedTuple):
    """The (K,) sums that a metric is made from, and (R, times, K) of the resamples."""

    total: np.ndarray
    draws: np.ndarray


def add_up(
    predictions: Predictions,
    metric: Metric,
    model: str,
    weights: dict[str, np.ndarray],
    bootstrap: Bootstrap,
) -> Sums:
    """Return the sums over the samples of all subsets. weights: {subset: (N,)}."""
    total: np.ndarray | None = None
    by_cluster: list[np.ndarray] = []
    for subset, weight in weights.items():
        stats = make_stats(predictions, metric, model, subset)
        sums = bootstrap.sum_by_cluster(stats, weight)
        if total is None:
            total, by_cluster = stats.total(weight), sums
        else:
            total = total + stats.total(weight)
            by_cluster = [old + new for old, new in zip(by_cluster, sums, strict=True)]
    assert total is not None
    return Sums(total, bootstrap.resample(by_cluster))


def _rank(
    predictions: Predictions, metric: Metric, model: str, weights: dict[str, np.ndarray]
) -> float:
    assert metric.ranked
    logits = np.concatenate([_take(predictions, metric, model, subset) for subset in weights])
    target = np.concatenate([predictions.target] * len(weights))
    return float(metric.ranked(logits, target, np.concatenate([*weights.values()])))


def _take(predictions: Predictions, metric: Metric, model: str, subset: str) -> np.ndarray:
    """Return (N, C) logits without NaN, after thresholds where the metric is one of answers."""
    return np.nan_to_num(take_logits(predictions, metric, model, subset))

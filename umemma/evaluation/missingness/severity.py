"""A metric by the severity of a corruption, between the modality intact and the modality absent.

A sample is scored that keeps something without the modality, so that every point of a curve is of
the same samples, as in the curves of missing ratios. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.metrics import Metric
from umemma.evaluation.missingness.expectation import add_up, compare_sums
from umemma.evaluation.predictions import Predictions
from umemma.types import format_pattern

INTACT, ABSENT = "0", "absent"
MODELS = ("ensemble", "average")


class SeverityScore(NamedTuple):
    """A metric of a model with one modality corrupted.

    severity: "1" to "5", or "0" for the modality intact and "absent" for the modality absent;
    model: "ensemble", or "average" of the uni-modal models; difference: from the modality intact,
    both resampled together; n: samples.
    """

    modality: str
    corruption: str
    severity: str
    model: str
    metric: str
    value: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    n: int


def score_severities(
    intact: Predictions,
    corrupted: Mapping[tuple[str, str, int], Predictions],
    metric: Metric,
    seed: int,
    times: int,
) -> Iterator[SeverityScore]:
    """Yield the scores of each modality and corruption: intact, by severity, absent.

    intact: has the subset of all modalities, and those that lack one; corrupted: {(modality,
    corruption, severity): predictions with the subset of all}; times: resamples.
    """
    bootstrap = Bootstrap(intact.groups, seed, times)
    complete = format_pattern(intact.modalities)
    curves: dict[tuple[str, str], list[tuple[str, Predictions, str]]] = {}
    for (modality, corruption, severity), predictions in corrupted.items():
        curve = curves.setdefault((modality, corruption), [(INTACT, intact, complete)])
        curve.append((str(severity), predictions, complete))
    for (modality, corruption), curve in curves.items():
        weight = np.ones(len(intact.keys))
        rest = format_pattern([m for m in intact.modalities if m != modality])
        if rest:
            weight = intact.has_logits("ensemble", rest).astype(np.float64)
            curve.append((ABSENT, intact, rest))
        for model in MODELS:
            for grade, numbers in _score(curve, metric, model, weight, bootstrap):
                yield SeverityScore(
                    modality, corruption, grade, model, metric.name, *numbers, int(weight.sum())
                )


def _score(
    curve: Sequence[tuple[str, Predictions, str]],
    metric: Metric,
    model: str,
    weight: np.ndarray,
    bootstrap: Bootstrap,
) -> Iterator[tuple[str, tuple[float, float, float, float, float, float]]]:
    """Yield a severity and (value, low, high, difference and its bounds). The first is intact."""
    whole = None
    for severity, predictions, subset in curve:
        sums = add_up(predictions, metric, model, {subset: weight}, bootstrap)
        if whole is None:
            whole = sums
        found = compare_sums(metric, sums, whole, bootstrap)
        yield severity, (*found[:3], *found[4:])

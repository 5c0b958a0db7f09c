"""How confident answers may be (selective prediction, reliability), and which classes they confuse.

Rows are over the samples that have logits, for each subset of the ensemble. No torch.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from umemma.evaluation.calibration import probabilities
from umemma.evaluation.metrics import Metric, get, join_stats, score
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.regression import gaussian, measures


class SelectiveScore(NamedTuple):
    """The mean score of the `n` most confident answers, a share `coverage` of all.

    confidence: the lowest confidence among them.
    """

    modalities: str
    coverage: float
    n: int
    score: float
    confidence: float


class ReliabilityBin(NamedTuple):
    """A bin of the calibration diagram.

    For sets of labels each label's probability counts, and how often the label is present. In
    regression confidence is the level of a central interval, and `right` the share within it.
    """

    modalities: str
    confidence: float
    right: float
    n: int


class CalibrationMeasures(NamedTuple):
    """What the probabilities of a subset are worth, over the samples that have logits.

    bins: of the calibration diagram, those that hold anything; error: the calibration error.
    """

    bins: list[ReliabilityBin]
    log_loss: float
    error: float


class ClassScore(NamedTuple):
    """Recall of a class, F1 of a label or R2 of a target.

    None where it neither occurs nor is predicted, and where all samples have the same number.
    n: the number of samples that it belongs to.
    """

    name: str
    modalities: str
    n: int
    score: float | None


class TargetError(NamedTuple):
    """Errors of a target of a regression, in its unit.

    deviation: the standard deviation of the samples; covered: the share in 95 % intervals.
    """

    name: str
    mean_absolute: float
    root_mean_square: float
    deviation: float
    covered: float


class Confusion(NamedTuple):
    """`n` samples of class `right` are answered as `answered`, a share of all that are `right`."""

    right: str
    answered: str
    n: int
    share: float


def selective_scores(predictions: Predictions, points: int = 20) -> list[SelectiveScore]:
    """Return the score of each subset where only the most confident share of samples is answered.

    The share grows in `points` equal steps. Reference: Geifman & El-Yaniv, Selective classification
    for deep neural networks, NIPS 2017.
    """
    rows = []
    for subset in predictions.ensemble:
        confidences, means = _sort_by_confidence(predictions, subset)
        total = len(confidences)
        if not total:
            continue
        counts = {math.ceil(total * step / points) for step in range(1, points + 1)}
        for n in sorted(counts):
            mean = float(means[n - 1])
            confidence = float(confidences[n - 1])
            rows.append(
                SelectiveScore(
                    subset,
                    n / total,
                    n,
                    mean,
                    confidence,
                )
            )
    return rows


def aurc(predictions: Predictions, subset: str) -> float:
    """Return the area under risk (1 - score) against coverage, the mean over every n.

    Lower is better. NaN where there are no logits of the subset.
    """
    _, means = _sort_by_confidence(predictions, subset)
    if not len(means):
        return float("nan")
    return float(1 - means.mean())


def reliability_bins(predictions: Predictions) -> list[ReliabilityBin]:
    """Return the bins of each subset's calibration diagram that hold anything.

    Reference: Guo et al., ICML 2017.
    """
    rows = []
    for subset in predictions.ensemble:
        rows += measure_calibration(predictions, subset).bins
    return rows


def measure_calibration(
    predictions: Predictions, subset: str, uncalibrated: bool = False
) -> CalibrationMeasures:
    """Return what the probabilities of a subset are worth, or were before calibration."""

    def take(block: Predictions) -> np.ndarray:
        if uncalibrated:
            return block.uncalibrated(subset)
        return block.ensemble[subset]

    width = predictions.ensemble[subset].shape[1]
    sums = {}
    values = {}
    for name in ("ece", "log_loss"):
        metric = get(name, predictions.task, width)
        assert metric.value
        sums[name] = _sum_stats(metric, predictions, take)
        values[name] = float(metric.value(sums[name]))
    bins = []
    for confidence, right, count in zip(*np.split(sums["ece"], 3), strict=True):
        if count:
            mean = float(confidence / count)
            share = float(right / count)
            bins.append(ReliabilityBin(subset, mean, share, int(count)))
    return CalibrationMeasures(bins, values["log_loss"], values["ece"])


def score_classes(predictions: Predictions) -> list[ClassScore]:
    """Return the score of each class under each subset."""
    rows = []
    for subset in predictions.ensemble:
        if predictions.task == "regression":
            rows += _score_targets(predictions, subset)
            continue
        width = predictions.ensemble[subset].shape[1]
        metric = get("f1_macro", predictions.task, width)
        decide = operator.methodcaller("decide", "ensemble", subset)
        sums = _sum_stats(metric, predictions, decide)
        hits, predicted, right = np.split(sums, 3)
        totals = right
        if predictions.target.ndim == 2:
            totals = (predicted + right) / 2
        for name, n, hit, total in zip(
            predictions.classes,
            right,
            hits,
            totals,
            strict=True,
        ):
            value = None
            if total:
                value = float(hit / total)
            rows.append(ClassScore(name, subset, int(n), value))
    return rows


def _score_targets(predictions: Predictions, subset: str) -> list[ClassScore]:
    """Return the R2 of each target; None where all samples have the same number."""
    logits = predictions.ensemble[subset]
    scored = ~np.isnan(logits).any(1)
    moments = measures.list_moments(logits[scored], predictions.target[scored])
    rows = []
    values = measures.r2_of_targets(moments.sum(0))
    for name, value in zip(predictions.classes, values.tolist(), strict=True):
        score_of_target = None
        if math.isfinite(value):
            score_of_target = value
        rows.append(ClassScore(name, subset, int(scored.sum()), score_of_target))
    return rows


def measure_targets(predictions: Predictions, subset: str) -> list[TargetError]:
    """Return the errors of each target under a subset, over the samples that have outputs."""
    outputs = predictions.ensemble[subset]
    scored = ~np.isnan(outputs).any(1)
    target = predictions.target[scored]
    mean, precision = gaussian.to_gaussian(outputs[scored])
    errors = np.abs(target - mean)
    covered = errors * np.sqrt(precision) <= gaussian.half_width(gaussian.INTERVAL)
    rows = []
    for t, (name, scale) in enumerate(zip(predictions.classes, predictions.scales, strict=True)):
        row = TargetError(
            name,
            scale.std * float(errors[:, t].mean()),
            scale.std * float(np.sqrt((errors[:, t] ** 2).mean())),
            scale.std * float(target[:, t].std()),
            float(covered[:, t].mean()),
        )
        rows.append(row)
    return rows


def confusion_matrix(predictions: Predictions, subset: str) -> np.ndarray:
    """Return (C, C) counts for single classes: the target's row and the answer's column.

    Samples without logits don't count.
    """
    classes = predictions.ensemble[subset].shape[1]
    pairs = predictions.target * classes + answer_classes(predictions, subset)
    pairs = pairs[predictions.has_logits("ensemble", subset)]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def answer_classes(predictions: Predictions, subset: str) -> np.ndarray:
    """Return (N,) the class that is answered, -1 where nothing of the subset is present."""

    def answer(block: Predictions) -> np.ndarray:
        decided = block.decide("ensemble", subset)
        is_absent = np.isnan(decided).any(1)
        answered = np.where(is_absent[:, None], 0.0, decided).argmax(1)
        return np.where(is_absent, -1, answered)

    return predictions.map_blocks(answer)


def rate_answers(predictions: Predictions, subset: str) -> np.ndarray:
    """Return (N,) how confident each answer is; NaN where nothing of the subset is present."""

    def rate(block: Predictions) -> np.ndarray:
        decided = block.decide("ensemble", subset)
        return _rate_confidence(block.ensemble[subset], decided, predictions.task)

    return predictions.map_blocks(rate)


def list_confusions(
    matrix: np.ndarray,
    classes: Sequence[str],
    most: int = 10,
) -> list[Confusion]:
    """Return the most frequent confusions of a (C, C) matrix, `most` at most."""
    off_diagonal = matrix * ~np.eye(len(matrix), dtype=bool)
    rows = []
    for place in np.argsort(
        -off_diagonal,
        axis=None,
        kind="stable",
    )[:most]:
        right, answered = divmod(int(place), len(matrix))
        count = int(off_diagonal[right, answered])
        if count:
            share = count / int(matrix[right].sum())
            rows.append(
                Confusion(
                    classes[right],
                    classes[answered],
                    count,
                    share,
                )
            )
    return rows


def _sum_stats(
    metric: Metric,
    predictions: Predictions,
    take: Callable[[Predictions], np.ndarray],
) -> np.ndarray:
    """Return the sums of a metric over the samples with logits. take: gives (N, C) logits."""
    assert metric.stats is not None  # only average precision has none
    parts = []
    for _, block in predictions.blocks():
        logits = take(block)
        scored = ~np.isnan(logits).any(1)
        parts.append(metric.stats(logits[scored], block.target[scored]))
    stats = join_stats(parts)
    return stats.total(np.ones(len(stats.values)))


def _sort_by_confidence(
    predictions: Predictions,
    subset: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) confidences of the samples with logits, highest first, and (n,) mean scores.

    Each mean is over all samples down to this one. Equally confident samples stand in no order:
    each counts as their mean.
    """

    def rate(block: Predictions) -> np.ndarray:
        """Return the confidence and the score of each sample with logits, (n, 2)."""
        logits = block.ensemble[subset]
        scored = ~np.isnan(logits).any(1)
        decided = block.decide("ensemble", subset)[scored]
        confidence = _rate_confidence(logits[scored], decided, predictions.task)
        return np.stack([confidence, score(decided, block.target[scored])], 1)

    confidence, scores = predictions.map_blocks(rate).T
    levels, level = np.unique(-confidence, return_inverse=True)
    counts = np.bincount(level, minlength=len(levels))
    level_means = np.bincount(level, scores, len(levels)) / counts
    ranks = np.arange(1, len(confidence) + 1)
    means = np.cumsum(np.repeat(level_means, counts)) / ranks
    return np.repeat(-levels, counts), means


def _rate_confidence(logits: np.ndarray, decided: np.ndarray, task: str) -> np.ndarray:
    """Return (n,) confidences. decided: (n, C) logits after thresholds.

    Of a class the probability of the answer; of a set of labels the mean over labels of that
    probability; in regression minus the predicted standard deviation, the mean over targets.
    """
    if task == "regression":
        return -measures.mean_deviation(logits)
    p = probabilities(logits, task)
    if task == "multiclass":
        return np.take_along_axis(p, decided.argmax(1)[:, None], 1)[:, 0]
    return np.where(decided > 0, p, 1 - p).mean(1)

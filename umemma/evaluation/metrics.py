"""The metrics, each computed from sums over samples.

Because a metric is a function of sums, it can be averaged over draws, mixed, weighted and resampled
without another pass over the logits: `stats` turns (N, C) logits and the target into what each
sample adds to some sums, and `value` turns these sums, over any samples and with any weights, into
the value of the metric. Average precision and AUROC need the samples in order; they have `ranked`
instead.

To add a metric:

1. Write a function of (logits, target) that returns (N,) values, if the metric is a mean over
   samples (see `log_loss`), and wrap it with `_mean_of`. Otherwise write one that returns `Stats`
   and one that turns the sums into the value (see `_count_classes` and `f1_macro`).
2. Add a line for it to `_list_metrics`, with the tasks that it fits.
3. Compare it with scikit-learn, or with numbers by hand, in tests/evaluation/test_metrics.py.

The setting evaluate.metrics then accepts its name. Add the name to `USUAL` to compute it by
default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from scipy.special import expit, log_expit, softmax

from umemma.errors import UserError, unknown_name
from umemma.evaluation.classification.counts import (
    balanced_accuracy,
    cohen_kappa,
    f1_macro,
    f1_micro,
    f1_weighted,
    matthews_correlation,
)
from umemma.evaluation.classification.ranks import auroc, average_precision
from umemma.evaluation.regression import gaussian, measures

BINS = 15  # bins of confidence, for the calibration error
# The metrics that are computed where the settings name none. The first is a mean over samples.
USUAL = {
    "multiclass": ("accuracy", "f1_macro", "log_loss", "ece"),
    "multilabel": ("f1_samples", "f1_macro", "f1_micro", "f1_weighted", "map", "log_loss", "ece"),
    "regression": ("r2", "mae", "rmse", "log_loss", "ece"),
}
SETTING = "evaluate.metrics"
LOG_LOSS = "log_loss"
# Metrics of what is likely, and not of what is answered: thresholds don't change them.
OF_PROBABILITIES = {"map", "auroc", LOG_LOSS, "ece"}


@dataclass(frozen=True)
class Stats:
    """What each sample adds to `width` sums.

    values: (N, J) numbers; columns: the sums that they belong to, (N, J), or (J,) for all samples.
    """

    columns: np.ndarray
    values: np.ndarray
    width: int

    def sum_by_label(
        self,
        label: np.ndarray,
        count: int,
        weight: np.ndarray,
    ) -> np.ndarray:
        """Return (count, width) sums over the samples of each label.

        label: (N,) in 0..count - 1; weight: (N,).
        """
        sums = np.zeros(count * self.width)
        table = sums.reshape(count, self.width)  # a view of the same numbers
        for j, values in enumerate(self.values.T):
            weighted = weight * values
            if self.columns.ndim == 1:
                table[:, self.columns[j]] += np.bincount(label, weighted, count)
            else:
                places = label * self.width + self.columns[:, j]
                sums += np.bincount(places, weighted, len(sums))
        return table

    def total(self, weight: np.ndarray) -> np.ndarray:
        """Return (width,) sums over all samples, weighted by (N,)."""
        one_label = np.zeros(len(weight), np.int64)
        return self.sum_by_label(one_label, 1, weight)[0]


def join_stats(parts: Sequence[Stats]) -> Stats:
    """Return the stats of consecutive samples as those of all of them."""
    if len(parts) == 1:
        return parts[0]
    columns = parts[0].columns
    if columns.ndim > 1:
        columns = np.concatenate([part.columns for part in parts])
    values = np.concatenate([part.values for part in parts])
    return Stats(columns, values, parts[0].width)


PerSample: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
MakeStats: TypeAlias = Callable[[np.ndarray, np.ndarray], Stats]
MakeValue: TypeAlias = Callable[[np.ndarray], np.ndarray]
RankedValue: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, named and shown.

    stats: (N, C) logits and the target -> K sums; value: (..., K) sums -> (...); ranked: (N, C)
    logits, the target and (..., N) weights -> (...). percent: whether it is a share; higher:
    whether higher is better. lowest: of a share; significant: whether its unit is the target's, so
    that four significant digits are shown; prior: what the constant answer is called.
    """

    name: str
    label: str
    stats: MakeStats | None
    value: MakeValue | None = None
    ranked: RankedValue | None = None
    percent: bool = True
    higher: bool = True
    lowest: float = 0.0
    significant: bool = False
    prior: str = "class prior"

    @property
    def of_answers(self) -> bool:
        """Whether the logits that it takes are those after thresholds, `Predictions.decide`."""
        return self.name not in OF_PROBABILITIES

    def shown(self, value: float) -> str:
        """Return a value as it is printed."""
        if self.percent:
            return f"{100 * value:.1f} %"
        if self.significant:
            return show_significant(value)
        return f"{value:.3f}"


def show_significant(value: float) -> str:
    """Return a number with four significant digits, without an exponent."""
    if not value or not math.isfinite(value):
        return f"{value:.3f}"
    return f"{value:.{count_decimals(value)}f}"


def count_decimals(value: float) -> int:
    """Return the decimals of a number, other than 0, that is shown with four significant digits."""
    return max(3 - math.floor(math.log10(abs(value))), 0)


def task_of(target: np.ndarray, width: int = 0) -> str:
    """Return the task of models with `width` outputs.

    (N,) classes are multiclass, (N, C) sets of labels are multilabel, and (N, T) numbers with twice
    as many outputs are a regression. width: 0 where the models are known to be classifiers.
    """
    if target.ndim == 1:
        return "multiclass"
    if gaussian.is_regression(width, target):
        return "regression"
    return "multilabel"


def get(name: str, task: str, classes: int, unit: float = 1.0) -> Metric:
    """Return the metric of this name. UserError if it is unknown or does not fit the task.

    unit: of errors of a regression, in standard deviations of the target.
    """
    known = _list_metrics()
    of_regression = _list_regression_metrics(unit)
    if task == "regression" and name in of_regression:
        return of_regression[name]
    if name in of_regression and name not in known:
        raise _does_not_fit(name, f"the task is {task}")
    top = re.fullmatch(r"top_([1-9]\d*)", name)
    if top:
        k = int(top[1])
        if task == "multiclass" and k >= classes:
            raise _does_not_fit(name, f"there are only {classes} classes")
        tasks, metric = _top_k_accuracy(name, k)
    elif name in known:
        tasks, metric = known[name]
    else:
        raise unknown_name("metric", name, [*known, "top_5", *of_regression], SETTING)
    if task not in tasks:
        raise _does_not_fit(name, f"the task is {task}")
    return metric


def select_metrics(
    names: Sequence[str] | None,
    task: str,
    classes: int,
    unit: float = 1.0,
) -> list[Metric]:
    """Return the metrics of `names`, or those that are usual for the task where it is None.

    UserError as in `get`, where none is named, and where the first can't lead the tables.
    """
    if names is None:
        names = USUAL[task]
    if not names or len(set(names)) < len(names):
        problem = "has to name each metric once, and at least one"
        raise UserError(problem, SETTING, usage=True)
    metrics = [get(name, task, classes, unit) for name in names]
    leading = metrics[0]
    if not leading.percent or not leading.higher or leading.ranked:
        fitting = ", ".join(USUAL[task][:2])
        hint = f"Put one such as {fitting} first."
        raise UserError(f"{leading.name} can't lead the tables", SETTING, hint, usage=True)
    return metrics


def _does_not_fit(name: str, reason: str) -> UserError:
    problem = f"{name} doesn't fit: {reason}"
    return UserError(problem, SETTING, "Take it out of the settings.", usage=True)


# Values of each sample. -------------------------------------------------------------------------


def score(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N, ...) scores in 0..1 of (N, ..., C) logits: correctness, or F1 for sets of labels.

    In regression what a sample adds to R2, which is at most 1.
    NaN where the logits are NaN.
    """
    task = task_of(target, logits.shape[-1])
    if task == "multiclass":
        return score_correct(logits, target)
    if task == "regression":
        return measures.score(logits, target)
    return sample_f1(logits, target)


def sample_f1(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N, ...) F1: 2 |predicted and right| / (|predicted| + |right|).

    A label is predicted where its logit is above 0. target: (N, C) of 0 and 1. Averaged over
    samples this is scikit-learn's f1_score(average="samples"); nothing predicted and nothing right
    is 0.
    """
    more_axes = [1] * (logits.ndim - 2)
    target = target.reshape(
        len(target),
        *more_axes,
        target.shape[-1],
    )
    predicted = logits > 0
    sizes = predicted.sum(-1) + target.sum(-1)
    f1 = 2 * (predicted * target).sum(-1) / np.maximum(sizes, 1)
    return np.where(
        np.isnan(logits).any(-1),
        np.nan,
        f1,
    )


def score_correct(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N, ...): 1 where the largest of (N, ..., C) logits is the (N,) target, else 0.

    NaN where the logits are NaN.
    """
    more_axes = [1] * (logits.ndim - 2)
    target = target.reshape(-1, *more_axes)
    predicted = np.nan_to_num(logits, nan=-np.inf).argmax(-1)
    hits = (predicted == target).astype(np.float64)
    return np.where(
        np.isnan(logits).any(-1),
        np.nan,
        hits,
    )


def log_loss(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return (N,) cross entropies in nats; for sets of labels the mean binary one over labels.

    In regression the negative log-likelihood, the mean over targets.
    """
    if task_of(target, logits.shape[-1]) == "regression":
        return measures.negative_log_likelihood(logits, target)
    logits = logits.astype(np.float64)
    if target.ndim == 1:
        # The bits of log_softmax, in three quarters of its time: only the target's is needed.
        below_highest = logits - logits.max(-1, keepdims=True)
        of_target = below_highest[np.arange(len(target)), target]
        return np.log(np.exp(below_highest).sum(-1)) - of_target
    return -(target * log_expit(logits) + (1 - target) * log_expit(-logits)).mean(-1)


def _is_in_top(
    logits: np.ndarray,
    target: np.ndarray,
    k: int,
) -> np.ndarray:
    target_logits = np.take_along_axis(logits, target[:, None], -1)
    larger = (logits > target_logits).sum(-1)
    return (larger < k).astype(np.float64)


# Sums, and values of sums. ----------------------------------------------------------------------


def stats_of_mean(values: np.ndarray) -> Stats:
    """Return the two sums that the mean of (N,) values is made of: of the values, and of ones."""
    return Stats(
        np.arange(2),
        np.stack([values, np.ones(len(values))], 1),
        2,
    )


def mean_of_sums(sums: np.ndarray) -> np.ndarray:
    """Return the means of (..., 2) sums and counts; NaN where the count is 0."""
    with np.errstate(invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def _mean_of(per_sample: PerSample) -> MakeStats:
    def make_stats(logits: np.ndarray, target: np.ndarray) -> Stats:
        return stats_of_mean(per_sample(logits, target))

    return make_stats


def _count_classes(logits: np.ndarray, target: np.ndarray) -> Stats:
    """Return 3C sums: for each class how often it was predicted and right, predicted, right."""
    n, classes = logits.shape
    if target.ndim == 2:
        predicted = logits > 0
        parts = [predicted * target, predicted, target]
        values = np.concatenate(parts, 1).astype(np.float64)
        return Stats(np.arange(3 * classes), values, 3 * classes)
    best = logits.argmax(-1)
    columns = np.stack([best, classes + best, 2 * classes + target], 1)
    values = np.stack([best == target, np.ones(n), np.ones(n)], 1)
    return Stats(columns, values, 3 * classes)


def _bin_confidences(logits: np.ndarray, target: np.ndarray) -> Stats:
    """Return 3 BINS sums: for each bin the confidence in it, the right answers, and their number.

    For sets of labels each label's probability counts by itself, against how often it is right.
    """
    logits = logits.astype(np.float64)
    if target.ndim == 1:
        confidence = softmax(logits, axis=-1).max(-1, keepdims=True)
        right = (logits.argmax(-1) == target)[:, None].astype(np.float64)
    else:
        confidence = expit(logits)
        right = target
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    columns = np.concatenate([bins, BINS + bins, 2 * BINS + bins], 1)
    values = np.concatenate([confidence, right, np.ones_like(confidence)], 1)
    return Stats(columns, values, 3 * BINS)


def _calibration_error(sums: np.ndarray) -> np.ndarray:
    """Return the expected calibration error. Reference: Guo et al., ICML 2017, equation 3."""
    confidence, right, count = np.split(sums, 3, -1)
    with np.errstate(invalid="ignore"):
        return np.abs(confidence - right).sum(-1) / count.sum(-1)


# The table of metrics. --------------------------------------------------------------------------

Entry: TypeAlias = tuple[set[str], Metric]


def _list_metrics() -> dict[str, Entry]:
    """Return {name: (the tasks that it fits, metric)}."""
    multiclass = {"multiclass"}
    multilabel = {"multilabel"}
    both = multiclass | multilabel
    accuracy = Metric("accuracy", "accuracy", _mean_of(score_correct), mean_of_sums)
    f1_samples = Metric("f1_samples", "F1 (samples)", _mean_of(sample_f1), mean_of_sums)
    macro = Metric("f1_macro", "F1 (macro)", _count_classes, f1_macro)
    micro = Metric("f1_micro", "F1 (micro)", _count_classes, f1_micro)
    weighted = Metric("f1_weighted", "F1 (weighted)", _count_classes, f1_weighted)
    balanced = Metric("balanced_accuracy", "balanced accuracy", _count_classes, balanced_accuracy)
    mcc = Metric("mcc", "Matthews correlation", _count_classes, matthews_correlation, percent=False)
    kappa = Metric("kappa", "Cohen's kappa", _count_classes, cohen_kappa, percent=False)
    mean_ap = Metric("map", "mean average precision", None, ranked=average_precision)
    area = Metric("auroc", "AUROC", None, ranked=auroc)
    nats = Metric(
        "log_loss",
        "log-loss",
        _mean_of(log_loss),
        mean_of_sums,
        percent=False,
        higher=False,
    )
    ece = Metric("ece", "calibration error", _bin_confidences, _calibration_error, higher=False)
    return {
        "accuracy": (multiclass, accuracy),
        "f1_samples": (multilabel, f1_samples),
        "f1_macro": (both, macro),
        "f1_micro": (both, micro),
        "f1_weighted": (both, weighted),
        "balanced_accuracy": (multiclass, balanced),
        "mcc": (multiclass, mcc),
        "kappa": (multiclass, kappa),
        "map": (both, mean_ap),
        "auroc": (both, area),
        "log_loss": (both, nats),
        "ece": (both, ece),
    }


def _list_regression_metrics(unit: float) -> dict[str, Metric]:
    """Return {name: metric}. unit: of the errors, in standard deviations of the target."""

    def absolute_error(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        return unit * measures.absolute_error(outputs, target)

    def root_mean_square(sums: np.ndarray) -> np.ndarray:
        return unit * measures.root_mean_square(sums)

    def columns_of(per_sample: PerSample) -> MakeStats:
        def make_stats(outputs: np.ndarray, target: np.ndarray) -> Stats:
            values = per_sample(outputs, target)
            return Stats(np.arange(values.shape[1]), values, values.shape[1])

        return make_stats

    squared_errors = columns_of(measures.list_squared_errors)
    moments = columns_of(measures.list_moments)
    levels = columns_of(measures.count_levels)
    mae = Metric("mae", "MAE", _mean_of(absolute_error), mean_of_sums)
    rmse = Metric("rmse", "RMSE", squared_errors, root_mean_square)
    errors = [replace(m, percent=False, higher=False, significant=True) for m in (mae, rmse)]
    nats = Metric(
        "log_loss", "log-loss", _mean_of(log_loss), mean_of_sums, percent=False, higher=False
    )
    covered = _mean_of(measures.is_covered)
    metrics = [
        Metric("r2", "R2", moments, measures.r2, lowest=-math.inf),
        *errors,
        nats,
        Metric("ece", "calibration error", levels, _calibration_error, higher=False),
        Metric("coverage", "share in 95 % interval", covered, mean_of_sums),
    ]
    return {metric.name: replace(metric, prior="training mean") for metric in metrics}


def _top_k_accuracy(name: str, k: int) -> Entry:
    def is_in_top(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
        return _is_in_top(logits, target, k)

    return {"multiclass"}, Metric(name, f"top-{k} accuracy", _mean_of(is_in_top), mean_of_sums)

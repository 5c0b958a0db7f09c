"""What a validation scores by, so that the best epoch of a training can be chosen.

Labels of a multi-label task are predicted by thresholds that are fitted to the very logits that are
scored, as a trained model's are: at a fixed threshold of 0.5 rare labels are predicted by no good
model, and an untrained one, whose probabilities are all about 0.5, would look best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from umemma.errors import UserError, unknown_name
from umemma.evaluation.classification import thresholds
from umemma.evaluation.metrics import Metric, get
from umemma.system.seeds import hash_keys

NAMES = {
    "multiclass": (
        "accuracy",
        "balanced_accuracy",
        "f1_macro",
        "f1_micro",
        "f1_weighted",
        "mcc",
        "kappa",
        "map",
        "auroc",
        "log_loss",
    ),
    "multilabel": (
        "f1_samples",
        "f1_macro",
        "f1_micro",
        "f1_weighted",
        "map",
        "auroc",
        "log_loss",
    ),
}
# What selects where the setting names none; other tasks have what is computed per sample.
DEFAULTS = {"multilabel": "f1_samples"}
FOLDS = 20  # of the jackknife


class Selection:
    """Scores (N, S, C) logits of S patterns by a metric; a higher score is always better.

    weights: (N, S) of the patterns of each sample. groups: {grouping: N names}.
    """

    def __init__(
        self,
        metric: Metric,
        target: np.ndarray,
        weights: np.ndarray,
        groups: Mapping[str, Sequence[str]],
    ) -> None:
        self.metric = metric
        self.target = target
        self.weights = weights
        self.folds = _make_folds(groups, len(target))

    def shown(self, score: float) -> str:
        """Return a score as it is printed: the value of the metric."""
        return self.metric.shown(self._sign * score)

    def score(self, logits: np.ndarray) -> float:
        """Return the mean of the metric over the patterns, minus it where lower is better."""
        return self._score(self._decide(logits), np.ones(len(self.target)))

    def jackknife(self, logits: np.ndarray) -> np.ndarray:
        """Return (1 + K,) scores: of all samples, and without each of K groups of samples.

        Reference: Efron & Stein, The jackknife estimate of variance, Ann. Stat. 1981.
        """
        decided = self._decide(logits)
        kept = [np.ones(len(self.target))]
        for fold in np.unique(self.folds):
            kept.append((self.folds != fold).astype(np.float64))
        return np.array([self._score(decided, is_kept) for is_kept in kept])

    @property
    def _sign(self) -> int:
        if self.metric.higher:
            return 1
        return -1

    def _decide(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits after thresholds where the metric is one of labels' answers."""
        if self.target.ndim == 1 or not self.metric.of_answers:
            return logits
        tables = []
        for s in range(logits.shape[1]):
            scored = np.where(self.weights[:, s, None] > 0, logits[:, s], np.nan)
            found = thresholds.fit(scored, self.target)
            tables.append(thresholds.shift_logits(logits[:, s], found, "multilabel"))
        return np.stack(tables, 1)

    def _score(self, logits: np.ndarray, sample_weights: np.ndarray) -> float:
        values = []
        totals = []
        for s in range(logits.shape[1]):
            weights = self.weights[:, s] * sample_weights
            if weights.any():
                values.append(self._measure(logits[:, s], weights))
                totals.append(weights.sum())
        return self._sign * float(np.average(values, weights=totals))

    def _measure(self, logits: np.ndarray, weights: np.ndarray) -> float:
        metric = self.metric
        if metric.ranked:
            value = metric.ranked(logits, self.target, weights)
        else:
            assert metric.stats
            assert metric.value
            value = metric.value(metric.stats(logits, self.target).total(weights))
        return float(np.nan_to_num(value))  # NaN: of no class that can be scored


def choose_metric(name: str | None, task: str, classes: int, where: str) -> Metric | None:
    """Return the metric that the setting `select` names, or `DEFAULTS` where it names none.

    None is the mean over samples of `metrics.score`. UserError for one that doesn't fit the task.
    """
    if name is None:
        name = DEFAULTS.get(task)
    if name is None:
        return None
    known = NAMES.get(task, ())
    if not known:
        raise UserError(f"{name} can't select the epoch of a {task}", where, "Set it to null.")
    if name not in known:
        raise unknown_name("metric to select an epoch by", name, known, where)
    return get(name, task, classes)


def standard_error(scores: np.ndarray) -> float:
    """Return the standard error of a score, from the (K,) scores of a jackknife."""
    count = len(scores)
    return float(np.sqrt((count - 1) / count * ((scores - scores.mean()) ** 2).sum()))


def _make_folds(groups: Mapping[str, Sequence[str]], samples: int) -> np.ndarray:
    """Return the (N,) fold of each sample. The groups of the coarsest grouping stay together."""
    fewest = min(groups.values(), key=lambda names: len(set(names)), default=None)
    if fewest is None:
        return np.arange(samples) % FOLDS
    names, member = np.unique(np.asarray(fewest), return_inverse=True)
    rank = np.argsort(np.argsort(hash_keys(names.tolist())))
    return np.asarray((rank % FOLDS)[member])

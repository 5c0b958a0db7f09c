"""What the grid's numbers are made of: conditions, and sums over samples, resamples and draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.metrics import LOG_LOSS, Metric, Stats, join_stats, stats_of_mean
from umemma.evaluation.predictions import Predictions
from umemma.missing import draw_test_absences
from umemma.types import ResultRow

NO_BOUNDS = (math.nan, math.nan)
CACHE_BYTES = 2**28  # bytes of statistics that are kept for the next condition

CacheKey: TypeAlias = tuple[Callable[..., Stats], str, str, bytes]


class MetricSums(NamedTuple):
    """The sums of a metric for one model and subset.

    total: (K,) over all samples; resampled: (R, times, K); lost: (draws, ratios, K) over the
    samples that a draw takes something away from.
    """

    total: np.ndarray
    resampled: np.ndarray
    lost: np.ndarray


@dataclass(frozen=True)
class Condition:
    """What goes missing, and how it is scored.

    lefts: the subsets that remain, one for each set that a sample may lose; where: (N,) the samples
    that have something left of each.
    """

    metric: Metric
    model: str
    missing: str
    lefts: list[str]
    where: np.ndarray

    def row(
        self,
        ratio: float,
        draw: int,
        value: float,
        bounds: tuple[float, float] = NO_BOUNDS,
    ) -> ResultRow:
        n = int(self.where.sum())
        return ResultRow(
            model=self.model,
            missing=self.missing,
            left="|".join(self.lefts),
            ratio=ratio,
            draw=draw,
            metric=self.metric.name,
            value=value,
            low=bounds[0],
            high=bounds[1],
            n=n,
            refused=len(self.where) - n,
        )


class SeededDraw:
    """A seeded draw of the samples that lose something, at every ratio at once.

    A higher ratio only takes more samples, so the samples are sorted into those that are lost from
    the first ratio on, from the second on, and so on.
    """

    def __init__(
        self,
        sample_numbers: np.ndarray,
        seed: int,
        number: int,
        ratios: Sequence[float],
    ) -> None:
        self.sample_numbers = sample_numbers
        self.seed = seed
        self.number = number
        shares = np.asarray(ratios, dtype=np.float64)
        self.sorted_ratios, self.place_of_ratio = np.unique(shares, return_inverse=True)
        self.thresholds, _ = draw_test_absences(sample_numbers, seed, number, 1)
        # How many of the sorted ratios leave a sample whole.
        self.level = np.searchsorted(
            self.sorted_ratios,
            self.thresholds,
            side="right",
        )

    def lost(
        self,
        stats: Stats,
        where: np.ndarray,
        part: int,
        parts: int,
    ) -> np.ndarray:
        """Return (ratios, K) sums over the samples that lose the part-th of `parts` sets."""
        set_numbers = self._draw_sets(parts)
        weight = (where & (set_numbers == part)).astype(np.float64)
        levels = len(self.sorted_ratios) + 1
        by_level = stats.sum_by_label(self.level, levels, weight)
        return by_level.cumsum(0)[self.place_of_ratio]

    def choose_answers(self, ratio: int, sets: int) -> np.ndarray:
        """Return (N,) numbers: 0 = the complete answer, i = the answer without the i-th set.

        ratio: the number of a ratio.
        """
        set_numbers = self._draw_sets(sets)
        share = self.sorted_ratios[self.place_of_ratio[ratio]]
        return np.where(self.thresholds < share, 1 + set_numbers, 0)

    def _draw_sets(self, sets: int) -> np.ndarray:
        _, set_numbers = draw_test_absences(
            self.sample_numbers,
            self.seed,
            self.number,
            sets,
        )
        return set_numbers


class SumsCache:
    """Computes the sums of predictions, and keeps those that the next condition may need."""

    def __init__(self, predictions: Predictions, bootstrap: Bootstrap) -> None:
        self.predictions = predictions
        self.bootstrap = bootstrap
        self.cached_bytes = 0
        self.cached: dict[CacheKey, tuple[Stats, np.ndarray, np.ndarray]] = {}

    def sums(
        self,
        metric: Metric,
        model: str,
        subset: str,
        where: np.ndarray,
        draws: Sequence[SeededDraw] = (),
        part: int = 0,
        parts: int = 1,
    ) -> MetricSums:
        """Return the sums over the samples `where` the subset is scored.

        `lost` is over those of them that lose the part-th of `parts` sets.
        """
        if model == "average" and "+" not in subset:
            model = "unimodal"
        stats, total, resampled = self._load(metric, model, subset, where)
        lost = np.array([draw.lost(stats, where, part, parts) for draw in draws])
        return MetricSums(total, resampled, lost)

    def total(self, metric: Metric, model: str, subset: str, where: np.ndarray) -> np.ndarray:
        """Return the (K,) sums over the samples `where` the subset is scored, without resamples."""
        stats = make_stats(self.predictions, metric, model, subset)
        return stats.total(where.astype(np.float64))

    def _load(
        self,
        metric: Metric,
        model: str,
        subset: str,
        where: np.ndarray,
    ) -> tuple[Stats, np.ndarray, np.ndarray]:
        assert metric.stats
        samples = b""
        if not where.all():
            samples = where.tobytes()
        key = (metric.stats, model, subset, samples)
        if key not in self.cached:
            if self.cached_bytes > CACHE_BYTES:
                self.cached.clear()
                self.cached_bytes = 0
            stats = make_stats(self.predictions, metric, model, subset)
            weight = where.astype(np.float64)
            resampled = self.bootstrap.totals(stats, weight)
            self.cached[key] = (stats, stats.total(weight), resampled)
            self.cached_bytes += stats.values.nbytes
        return self.cached[key]


def make_stats(predictions: Predictions, metric: Metric, model: str, subset: str) -> Stats:
    """Return the stats of all samples; those without logits need a weight of 0."""
    assert metric.stats
    if metric.name == LOG_LOSS:
        losses = predictions.log_loss(model, subset)
        return stats_of_mean(np.where(np.isnan(losses), 0.0, losses))
    parts = []
    for _, block in predictions.blocks():
        logits = take_logits(block, metric, model, subset)
        if np.isnan(logits[:, 0]).any():
            logits = np.nan_to_num(logits)
        parts.append(metric.stats(logits, block.target))
    return join_stats(parts)


def take_logits(predictions: Predictions, metric: Metric, model: str, subset: str) -> np.ndarray:
    """Return (N, C) logits of "ensemble", "unimodal", "average" or "prior".

    They are after thresholds where the metric is one of answers.
    """
    if metric.of_answers:
        return predictions.decide(model, subset)
    return predictions.logits(model, subset)

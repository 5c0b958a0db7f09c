"""From kept predictions to results: every modality subset, and every (what goes missing, ratio).

One encoder pass gave the logits of each sample under each subset. Every metric is a function of sums over samples, so
taking something away from a share of the samples only mixes sums, and memory doesn't grow with the number of settings.
A sample then counts (1 - ratio) with its complete answer and ratio with the lesser one. For a mean over samples, such as
accuracy, that is the exact expectation over all draws; for the others (F1, calibration error, average precision) it is
the metric of the mixture, which draws on many samples come to. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma.errors import UserError
from umemma.evaluation.metrics import USUAL, Bootstrap, Metric, Stats, chosen, score
from umemma.evaluation.predictions import Predictions
from umemma.missing import Missing, drawn, patterns, written
from umemma.system.files import new_file
from umemma.system.seeds import hashes
from umemma.types import ResultRow, joined

AT_ONCE = 50  # resamples of a metric that needs the samples in order
KEPT = 2**28  # bytes of statistics that are kept for the next setting


class Grid:
    """Scores predictions by some metrics. The interval of a value is over groups of samples of the split (see Bootstrap),
    not over seeds."""

    def __init__(
        self,
        predictions: Predictions,
        seed: int,
        draws: int,
        bootstrap: int,
        names: Sequence[str] | None = None,
    ) -> None:
        self.predictions, self.seed, self.draws = predictions, seed, draws
        self.bootstrap = Bootstrap(predictions.groups, seed, bootstrap)
        self.modalities = predictions.modalities
        self.complete = joined(self.modalities)
        classes = predictions.unimodal[self.modalities[0]].shape[1]
        self.metrics = chosen(names, predictions.task, classes)
        self.numbers = hashes(predictions.keys) if draws else np.empty(0, np.uint64)
        self.made: dict[
            tuple[Callable[..., Stats], str, str, bytes], tuple[Stats, np.ndarray, np.ndarray]
        ] = {}
        self.there = {
            subset: ~np.isnan(logits[:, 0]) for subset, logits in predictions.ensemble.items()
        }

    def rows(
        self, asked: Sequence[Missing], ratios: Sequence[float]
    ) -> tuple[list[ResultRow], list[ResultRow]]:
        """Return the `subsets` of every metric, the `gaps` of the first and the `worst` case; and the `ratios`."""
        subsets, mixed = list[ResultRow](), list[ResultRow]()
        for metric in self.metrics:
            subsets += self.subsets(metric)
            mixed += self.ratios(metric, asked, ratios)
        return [*subsets, *self.gaps(self.metrics[0]), self.worst()], mixed

    def subsets(self, metric: Metric) -> Iterator[ResultRow]:
        """The ensemble with every subset of the modalities; each uni-modal model alone: the ceilings; and the average of
        the uni-modal models."""
        for model in ("ensemble", "unimodal", "average"):
            for pattern in patterns(self.modalities):
                if model == "ensemble" or (model == "unimodal") == (len(pattern) == 1):
                    yield self._subset(metric, model, joined(pattern))

    def gaps(self, metric: Metric) -> Iterator[ResultRow]:
        """Yield for every subset the ensemble less its ceiling, which is the best uni-modal model of what is left. The
        interval is of the difference, both resampled together; the best is chosen on these same numbers. Of a metric that
        is a mean or is made from sums, and where more is better, as the first one is."""
        assert metric.value
        alone = {m: self._sums(metric, "unimodal", m, self.there[m], []) for m in self.modalities}
        scores = {m: float(metric.value(sums.total)) for m, sums in alone.items()}
        for pattern in patterns(self.modalities):
            left = joined(pattern)
            best = max(pattern, key=lambda m: scores[m])
            ours = self._sums(metric, "ensemble", left, self.there[left], [])
            gap = float(metric.value(ours.total)) - scores[best]
            low, high = self.bootstrap.bounds(
                metric.value(ours.resampled) - metric.value(alone[best].resampled), gap
            )
            low, high = max(low, -1.0), min(high, 1.0)
            missing = joined({*self.modalities} - {*pattern})
            n = int(self.there[left].sum())
            ratio = 1.0 if missing else 0.0
            refused = len(self.predictions.keys) - n
            yield ResultRow(
                "gap", missing, left, ratio, -1, metric.name, gap, low, high, n, refused
            )

    def worst(self) -> ResultRow:
        """The exact worst case: what a sample's answer is worth (right or wrong; its F1) under the subset that hurts it
        most. A mean over samples: with accuracy, the share answered rightly under every subset."""
        values = np.full(len(self.predictions.keys), np.inf)
        for logits in self.predictions.ensemble.values():
            values = np.fmin(values, score(logits, self.predictions.target))
        low, high = self.bootstrap.interval(values)
        metric = USUAL[self.predictions.task][0]
        return ResultRow(
            "ensemble",
            "any",
            "worst",
            1.0,
            -1,
            metric,
            float(values.mean()),
            low,
            high,
            len(values),
            0,
        )

    def ratios(
        self, metric: Metric, asked: Sequence[Missing], ratios: Sequence[float]
    ) -> Iterator[ResultRow]:
        """Of each that is `asked`, taken from each ratio of the samples: the expectation (draw -1), then the seeded draws;
        and the expectation for the average of the uni-modal models.

        Samples of which nothing would be left are refused at every ratio, so that all ratios score the same samples.
        """
        draws = [_Draw(self.numbers, self.seed, number, ratios) for number in range(self.draws)]
        for missing in asked:
            yield from self._mixed(metric, "ensemble", missing, ratios, draws)
            yield from self._mixed(metric, "average", missing, ratios, [])

    def _mixed(
        self,
        metric: Metric,
        model: str,
        missing: Missing,
        ratios: Sequence[float],
        draws: Sequence[_Draw],
    ) -> Iterator[ResultRow]:
        lefts = [joined({*self.modalities} - {*one}) for one in missing]
        where = np.logical_and.reduce([self.there[left] for left in lefts])
        n = int(where.sum())
        if not n:
            raise UserError(
                f"no sample of the split has {' and '.join(lefts)}",
                "evaluate",
                "Ask for another set.",
            )

        def row(
            ratio: float, draw: int, value: float, low: float = np.nan, high: float = np.nan
        ) -> ResultRow:
            left = "|".join(lefts)
            name = metric.name
            return ResultRow(
                model,
                written(missing),
                left,
                ratio,
                draw,
                name,
                value,
                low,
                high,
                n,
                len(where) - n,
            )

        if metric.ranked:
            yield from self._ranked(metric, model, lefts, where, ratios, draws, row)
            return
        assert metric.value
        whole = self._sums(metric, model, self.complete, where, draws)
        parts = [
            self._sums(metric, model, left, where, draws, i, len(lefts))
            for i, left in enumerate(lefts)
        ]
        part = np.mean([one.total for one in parts], 0)
        resampled = np.mean([one.resampled for one in parts], 0)
        for r, ratio in enumerate(ratios):
            value = float(metric.value((1 - ratio) * whole.total + ratio * part))
            low, high = self._bounds(
                metric, metric.value((1 - ratio) * whole.resampled + ratio * resampled), value
            )
            yield row(ratio, -1, value, low, high)
            for number in range(len(draws)):
                kept = whole.total - whole.lost[number, r]
                yield row(
                    ratio,
                    number,
                    float(metric.value(kept + sum(one.lost[number, r] for one in parts))),
                )

    def _ranked(
        self,
        metric: Metric,
        model: str,
        lefts: Sequence[str],
        where: np.ndarray,
        ratios: Sequence[float],
        draws: Sequence[_Draw],
        row: Callable[[float, int, float], ResultRow],
    ) -> Iterator[ResultRow]:
        """As `_mixed`, for a metric that needs the samples in order: without intervals, as each would need a sorting."""
        assert metric.ranked
        tables = [self._logits(model, subset)[where] for subset in (self.complete, *lefts)]
        target, n = self.predictions.target[where], int(where.sum())
        weights = np.ones((len(tables), n))
        for r, ratio in enumerate(ratios):
            weights[0], weights[1:] = 1 - ratio, ratio / len(lefts)
            of_all = np.concatenate(tables), np.concatenate([target] * len(tables)), weights.ravel()
            yield row(ratio, -1, float(metric.ranked(*of_all)))
            for number, one in enumerate(draws):
                answers = one.answers(r, len(lefts))[where]
                logits = np.stack(tables)[answers, np.arange(n)]
                yield row(ratio, number, float(metric.ranked(logits, target, np.ones(n))))

    def _subset(self, metric: Metric, model: str, subset: str) -> ResultRow:
        where = self.there[subset]
        n = int(where.sum())
        if not n:
            raise UserError(
                f"no sample of the split has {subset}", "evaluate", "Take it out of modalities."
            )
        if metric.ranked:
            logits, target = np.nan_to_num(self._logits(model, subset)), self.predictions.target
            value = float(metric.ranked(logits, target, where.astype(np.float64)))
            low, high = self._bounds(metric, self._ranked_draws(metric, logits, where), value)
        else:
            assert metric.value
            sums = self._sums(metric, model, subset, where, [])
            value = float(metric.value(sums.total))
            low, high = self._bounds(metric, metric.value(sums.resampled), value)
        missing = joined({*self.modalities} - {*subset.split("+")})
        ratio = 1.0 if missing else 0.0
        return ResultRow(
            model,
            missing,
            subset,
            ratio,
            -1,
            metric.name,
            value,
            low,
            high,
            n,
            len(self.predictions.keys) - n,
        )

    def _ranked_draws(self, metric: Metric, logits: np.ndarray, where: np.ndarray) -> np.ndarray:
        """(R, times): a metric that needs the samples in order, of the samples `where` it is scored in each resample."""
        assert metric.ranked
        draws = []
        for one in self.bootstrap.clusterings:
            parts = np.array_split(one.weights, math.ceil(len(one.weights) / AT_ONCE))
            values = [
                metric.ranked(logits, self.predictions.target, part[:, one.member] * where)
                for part in parts
            ]
            draws.append(np.concatenate(values))
        return np.stack(draws)

    def _bounds(self, metric: Metric, draws: np.ndarray, value: float) -> tuple[float, float]:
        """The interval of a value, from (R, times) resamples; a share stays within 0..1."""
        low, high = self.bootstrap.bounds(draws, value)
        if metric.percent:
            low, high = float(np.clip(low, 0.0, 1.0)), float(np.clip(high, 0.0, 1.0))
        return low, high

    def _sums(
        self,
        metric: Metric,
        model: str,
        subset: str,
        where: np.ndarray,
        draws: Sequence[_Draw],
        part: int = 0,
        parts: int = 1,
    ) -> _Sums:
        """Of the samples `where` it is scored; `lost` of those that lose the part-th of `parts` sets."""
        assert metric.stats
        model = "unimodal" if model == "average" and "+" not in subset else model
        name = metric.stats, model, subset, b"" if where.all() else where.tobytes()
        if name not in self.made:
            if sum(stats.values.nbytes for stats, *_ in self.made.values()) > KEPT:
                self.made.clear()
            stats = metric.stats(
                np.nan_to_num(self._logits(model, subset)), self.predictions.target
            )
            weight = where.astype(np.float64)
            self.made[name] = stats, stats.total(weight), self.bootstrap.totals(stats, weight)
        stats, total, resampled = self.made[name]
        lost = np.array([draw.lost(stats, where, part, parts) for draw in draws])
        return _Sums(total, resampled, lost)

    def _logits(self, model: str, subset: str) -> np.ndarray:
        """(N, C). The average is over the uni-modal models of what is there."""
        if model == "ensemble":
            return self.predictions.ensemble[subset]
        tables = [self.predictions.unimodal[m] for m in subset.split("+")]
        if len(tables) == 1:
            return tables[0]
        there = sum((~np.isnan(table[:, :1])).astype(np.float32) for table in tables)
        total = sum(np.nan_to_num(table) for table in tables)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / there)


class _Sums(NamedTuple):
    """total: (K,) over all samples; resampled: (R, times, K); lost: (draws, ratios, K) over those that a draw takes."""

    total: np.ndarray
    resampled: np.ndarray
    lost: np.ndarray


class _Draw:
    """A seeded draw at every ratio at once: as a higher ratio only takes more samples, they are sorted into those that are
    lost from the first ratio on, from the second on, and so on."""

    def __init__(
        self, numbers: np.ndarray, seed: int, number: int, ratios: Sequence[float]
    ) -> None:
        self.numbers, self.seed, self.number = numbers, seed, number
        self.up, self.back = np.unique(np.asarray(ratios, dtype=np.float64), return_inverse=True)
        self.chance, _ = drawn(numbers, seed, number, 1)
        self.level = np.searchsorted(
            self.up, self.chance, side="right"
        )  # of the ratios so many don't take it

    def lost(self, stats: Stats, where: np.ndarray, part: int, parts: int) -> np.ndarray:
        """(ratios, K): the sums over the samples that lose the part-th of `parts` sets."""
        _, which = drawn(self.numbers, self.seed, self.number, parts)
        weight = (where & (which == part)).astype(np.float64)
        return stats.by(self.level, len(self.up) + 1, weight).cumsum(0)[self.back]

    def answers(self, ratio: int, sets: int) -> np.ndarray:
        """(N,) 0 = the complete answer, i = without the i-th set."""
        _, which = drawn(self.numbers, self.seed, self.number, sets)
        return np.where(self.chance < self.up[self.back[ratio]], 1 + which, 0)


def write_rows(path: Path, rows: Iterable[ResultRow], constants: Mapping[str, str]) -> None:
    """Result rows as Parquet, each with what is the same for all of them (dataset, split, absence)."""
    table = pa.Table.from_pylist([{**constants, **row._asdict()} for row in rows])
    with new_file(path) as aside:
        pq.write_table(table, aside)

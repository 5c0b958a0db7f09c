"""From saved predictions to results: every modality subset, and every (what goes missing, ratio).

One encoder pass gave the logits of each sample under each subset. Every metric is a function of
sums over samples, so taking something away from a share of the samples only mixes sums, and memory
does not grow with the number of conditions. A sample then counts (1 - ratio) with its complete
answer and ratio with the answer from what is left. For a mean over samples, such as accuracy, that
is the exact expectation over all draws; for the others (F1, calibration error, average precision)
it is the metric of the mixture, which draws on many samples come to. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma.errors import UserError
from umemma.evaluation.bootstrap import Bootstrap, Clustering
from umemma.evaluation.grid_sums import (
    NO_BOUNDS,
    Condition,
    SeededDraw,
    SumsCache,
    take_logits,
)
from umemma.evaluation.metrics import USUAL, Metric, select_metrics
from umemma.evaluation.predictions import Predictions
from umemma.missing import Missing, format_missing, list_patterns, list_shown_patterns
from umemma.system.files import new_file
from umemma.system.seeds import hash_keys
from umemma.types import ResultRow, format_pattern

AT_ONCE = 50  # resamples at once of a metric that needs the samples in order


class Grid:
    """Scores predictions by some metrics.

    The interval of a value is over groups of samples of the split (see `Bootstrap`), not over
    seeds. names: of the metrics; None = those that are usual for the task.
    """

    def __init__(
        self,
        predictions: Predictions,
        seed: int,
        draws: int,
        bootstrap: int,
        names: Sequence[str] | None = None,
    ) -> None:
        self.predictions = predictions
        self.seed = seed
        self.draws = draws
        self.bootstrap = Bootstrap(predictions.groups, seed, bootstrap)
        self.modalities = predictions.modalities
        self.complete = format_pattern(self.modalities)
        self.listed = set(map(format_pattern, list_shown_patterns(self.modalities)))
        classes = predictions.ensemble[self.complete].shape[1]
        self.metrics = select_metrics(names, predictions.task, classes, predictions.unit)
        self.sample_numbers = np.empty(0, np.uint64)
        if draws:
            self.sample_numbers = hash_keys(predictions.keys)
        self.cache = SumsCache(predictions, self.bootstrap)
        self.there: dict[str, np.ndarray] = {}  # {subset: (N,) whether a sample has logits}
        for subset in predictions.ensemble:
            self.there[subset] = predictions.has_logits("ensemble", subset)

    def rows(
        self, missing_sets: Sequence[Missing], ratios: Sequence[float]
    ) -> tuple[list[ResultRow], list[ResultRow]]:
        """Return the subset rows and the ratio rows.

        The first are the `subsets` of every metric, the `gaps` of the first metric and the `worst`
        case.
        """
        subset_rows: list[ResultRow] = []
        ratio_rows: list[ResultRow] = []
        for metric in self.metrics:
            subset_rows += self.subsets(metric)
            ratio_rows += self.ratios(metric, missing_sets, ratios)
        subset_rows += self.gaps(self.metrics[0])
        subset_rows.append(self.worst())
        return subset_rows, ratio_rows

    def subsets(self, metric: Metric) -> Iterator[ResultRow]:
        """Yield a row for each model and subset.

        The ensemble is scored with every subset of the modalities; each uni-modal model alone, as
        the ceiling; the average of the uni-modal models with the larger subsets; and the class
        prior, for the samples of the complete set. Without uni-modal models there is no row of
        them. Of many modalities, the subsets that tables do
        not list have an interval, and an average, in the first metric only.
        """
        patterns = list_patterns(self.modalities)
        single = [format_pattern(pattern) for pattern in patterns if len(pattern) == 1]
        larger = [format_pattern(pattern) for pattern in patterns if len(pattern) > 1]
        for subset in larger + single:
            yield self._score_subset(metric, "ensemble", subset)
        if self.predictions.unimodal:
            for subset in single:
                yield self._score_subset(metric, "unimodal", subset)
            for subset in larger:
                if self._is_scored(metric, subset):
                    yield self._score_subset(metric, "average", subset)
        if self.predictions.has_prior:
            yield self._score_subset(metric, "prior", self.complete)

    def gaps(self, metric: Metric) -> Iterator[ResultRow]:
        """Yield for every subset the ensemble less its ceiling.

        The ceiling is the best uni-modal model of what is left. The interval is of the difference,
        both resampled together; the best is chosen on these same numbers. The metric has to be a
        mean or made from sums, and higher has to be better, as with the first one. There are none
        without uni-modal models.
        """
        if not self.predictions.unimodal:
            return
        assert metric.value
        ceilings = {}
        scores = {}
        for m in self.modalities:
            ceilings[m] = self.cache.sums(
                metric,
                "unimodal",
                m,
                self.there[m],
            )
            scores[m] = float(metric.value(ceilings[m].total))
        for pattern in list_patterns(self.modalities):
            left = format_pattern(pattern)
            best = max(pattern, key=lambda m: scores[m])
            ours = self.cache.sums(
                metric,
                "ensemble",
                left,
                self.there[left],
            )
            gap = float(metric.value(ours.total)) - scores[best]
            our_draws = metric.value(ours.resampled)
            ceiling_draws = metric.value(ceilings[best].resampled)
            low, high = self.bootstrap.bounds(our_draws - ceiling_draws, gap)
            largest = 1.0 - metric.lowest
            bounds = max(low, -largest), min(high, largest)
            yield self._subset_row(metric, "gap", left, gap, bounds)

    def worst(self) -> ResultRow:
        """Return the exact worst case: each sample is scored under the subset that hurts it most.

        It is a mean over samples: with accuracy, the share that is right under every subset.
        """
        values = np.full(len(self.predictions.keys), np.inf)
        for subset in self.predictions.ensemble:
            values = np.fmin(values, self.predictions.score("ensemble", subset))
        low, high = self.bootstrap.interval(values)
        return ResultRow(
            model="ensemble",
            missing="any",
            left="worst",
            ratio=1.0,
            draw=-1,
            metric=USUAL[self.predictions.task][0],
            value=float(values.mean()),
            low=low,
            high=high,
            n=len(values),
            refused=0,
        )

    def ratios(
        self,
        metric: Metric,
        missing_sets: Sequence[Missing],
        ratios: Sequence[float],
    ) -> Iterator[ResultRow]:
        """Yield the rows of each of `missing_sets`, taken from each ratio of the samples.

        First the expectation (draw -1), then the seeded draws; and the expectation for the average
        of the uni-modal models. Samples of which nothing would be left are refused at every ratio,
        so that all ratios score the same samples.
        """
        draws = []
        for number in range(self.draws):
            draws.append(
                SeededDraw(
                    self.sample_numbers,
                    self.seed,
                    number,
                    ratios,
                )
            )
        for missing in missing_sets:
            ensemble = self._condition(metric, "ensemble", missing)
            yield from self._score_condition(ensemble, ratios, draws)
            if self.predictions.unimodal:
                average = self._condition(metric, "average", missing)
                yield from self._score_condition(average, ratios, [])

    def _condition(
        self,
        metric: Metric,
        model: str,
        missing: Missing,
    ) -> Condition:
        lefts = [format_pattern({*self.modalities} - {*taken}) for taken in missing]
        where = np.logical_and.reduce([self.there[left] for left in lefts])
        if not where.any():
            problem = f"no sample of the split has {' and '.join(lefts)}"
            raise UserError(problem, "evaluate", "Ask for another set.")
        return Condition(metric, model, format_missing(missing), lefts, where)

    def _score_condition(
        self,
        condition: Condition,
        ratios: Sequence[float],
        draws: Sequence[SeededDraw],
    ) -> Iterator[ResultRow]:
        metric, model, where = condition.metric, condition.model, condition.where
        if metric.ranked:
            yield from self._score_ranked(condition, ratios, draws)
            return
        assert metric.value
        sets = len(condition.lefts)
        whole = self.cache.sums(
            metric,
            model,
            self.complete,
            where,
            draws,
        )
        parts = []
        for i, left in enumerate(condition.lefts):
            parts.append(
                self.cache.sums(
                    metric,
                    model,
                    left,
                    where,
                    draws,
                    i,
                    sets,
                )
            )
        part_total = np.mean([part.total for part in parts], 0)
        part_resampled = np.mean([part.resampled for part in parts], 0)
        for r, ratio in enumerate(ratios):
            value = float(metric.value((1 - ratio) * whole.total + ratio * part_total))
            resampled = (1 - ratio) * whole.resampled + ratio * part_resampled
            bounds = self._bounds(metric, metric.value(resampled), value)
            yield condition.row(ratio, -1, value, bounds)
            for number in range(len(draws)):
                complete_sums = whole.total - whole.lost[number, r]
                lesser_sums = sum(part.lost[number, r] for part in parts)
                value = float(metric.value(complete_sums + lesser_sums))
                yield condition.row(ratio, number, value)

    def _score_ranked(
        self,
        condition: Condition,
        ratios: Sequence[float],
        draws: Sequence[SeededDraw],
    ) -> Iterator[ResultRow]:
        """Yield the rows of a metric that needs the samples in order.

        They have no intervals, as each would need a sorting.
        """
        ranked, where, lefts = condition.metric.ranked, condition.where, condition.lefts
        assert ranked
        tables = []
        for subset in (self.complete, *lefts):
            logits = take_logits(self.predictions, condition.metric, condition.model, subset)
            tables.append(logits[where])
        target = self.predictions.target[where]
        n = int(where.sum())
        weights = np.ones((len(tables), n))
        all_logits = np.concatenate(tables)
        all_targets = np.concatenate([target] * len(tables))
        for r, ratio in enumerate(ratios):
            weights[0] = 1 - ratio
            weights[1:] = ratio / len(lefts)
            value = float(ranked(all_logits, all_targets, weights.ravel()))
            yield condition.row(ratio, -1, value)
            for number, draw in enumerate(draws):
                table_of_sample = draw.choose_answers(r, len(lefts))[where]
                logits = np.stack(tables)[table_of_sample, np.arange(n)]
                value = float(ranked(logits, target, np.ones(n)))
                yield condition.row(ratio, number, value)

    def _score_subset(
        self,
        metric: Metric,
        model: str,
        subset: str,
    ) -> ResultRow:
        where = self.there[subset]
        if not where.any():
            problem = f"no sample of the split has {subset}"
            raise UserError(problem, "evaluate", "Take it out of modalities.")
        if metric.ranked:
            logits = np.nan_to_num(take_logits(self.predictions, metric, model, subset))
            weights = where.astype(np.float64)
            value = float(
                metric.ranked(
                    logits,
                    self.predictions.target,
                    weights,
                )
            )
            if not self._has_interval(metric, model, subset):
                return self._subset_row(metric, model, subset, value, NO_BOUNDS)
            draws = self._resample_ranked(metric, logits, where)
        elif not self._has_interval(metric, model, subset):
            assert metric.value
            value = float(metric.value(self.cache.total(metric, model, subset, where)))
            return self._subset_row(metric, model, subset, value, NO_BOUNDS)
        else:
            assert metric.value
            sums = self.cache.sums(metric, model, subset, where)
            value = float(metric.value(sums.total))
            draws = metric.value(sums.resampled)
        bounds = self._bounds(metric, draws, value)
        return self._subset_row(metric, model, subset, value, bounds)

    def _is_scored(self, metric: Metric, subset: str) -> bool:
        """Whether the average of the uni-modal models is scored with this subset."""
        return metric is self.metrics[0] or subset in self.listed

    def _has_interval(self, metric: Metric, model: str, subset: str) -> bool:
        if model == "ensemble" and metric is self.metrics[0]:
            return True
        return subset in self.listed

    def _subset_row(
        self,
        metric: Metric,
        model: str,
        subset: str,
        value: float,
        bounds: tuple[float, float],
    ) -> ResultRow:
        missing = format_pattern({*self.modalities} - {*subset.split("+")})
        n = int(self.there[subset].sum())
        return ResultRow(
            model=model,
            missing=missing,
            left=subset,
            ratio=float(missing != ""),
            draw=-1,
            metric=metric.name,
            value=value,
            low=bounds[0],
            high=bounds[1],
            n=n,
            refused=len(self.predictions.keys) - n,
        )

    def _resample_ranked(
        self,
        metric: Metric,
        logits: np.ndarray,
        where: np.ndarray,
    ) -> np.ndarray:
        """Return the (R, times) values in each resample of a metric that needs samples in order.

        where: (N,) the samples that are scored.
        """
        draws = []
        for clustering in self.bootstrap.clusterings:
            draws.append(self._resample_clustering(clustering, metric, logits, where))
        return np.stack(draws)

    def _resample_clustering(
        self,
        clustering: Clustering,
        metric: Metric,
        logits: np.ndarray,
        where: np.ndarray,
    ) -> np.ndarray:
        assert metric.ranked
        chunks = math.ceil(len(clustering.weights) / AT_ONCE)
        values = []
        for weights in np.array_split(clustering.weights, chunks):
            of_samples = weights[:, clustering.member] * where
            values.append(
                metric.ranked(
                    logits,
                    self.predictions.target,
                    of_samples,
                )
            )
        return np.concatenate(values)

    def _bounds(
        self,
        metric: Metric,
        draws: np.ndarray,
        value: float,
    ) -> tuple[float, float]:
        """Return the interval of a value from (R, times) resamples; a share stays within 0..1."""
        low, high = self.bootstrap.bounds(draws, value)
        if not metric.percent:
            return low, high
        return float(np.clip(low, metric.lowest, 1.0)), float(np.clip(high, metric.lowest, 1.0))


def write_rows(
    path: Path,
    rows: Iterable[ResultRow],
    constants: Mapping[str, str],
) -> None:
    """Write result rows as Parquet, each with what all have in common (dataset, split, absence)."""
    table = pa.Table.from_pylist([{**constants, **row._asdict()} for row in rows])
    with new_file(path) as aside:
        pq.write_table(table, aside)

"""A comparison of methods: its numbers as they are shown, its notes, and its headline.

`terminal` prints it, `files` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from umemma.evaluation.comparison import (
    ALONE,
    AVERAGE,
    PRIOR,
    WORST,
    CurvePoint,
    MethodDifference,
    MethodScore,
)
from umemma.evaluation.experiments import COMPLETE, Experiment
from umemma.evaluation.metrics import Metric

ABOUT_TRAINING = (
    "Every method: the same shards, the same absences in training, the same seeds, and from "
    "scratch the epochs of both trainings of the others together. What learning rate, epoch and "
    "calibration a method gets, validation chooses."
)
ABOUT_TESTS = (
    "{method} is tested against {baselines} in each column; nothing is chosen by the numbers of "
    "this table. Differences are of means over samples, paired by seed and sample, in points, with "
    "95 % intervals. {mark} p < 0.05 after Holm's adjustment for all tests of a table together: "
    "with equal methods at most one table in twenty has any such mark. An interval is of its own "
    "test, so it may leave out 0 where there is no mark."
)
ABOUT_SEEDS = (
    "Chance is in seeds and in groups of samples, and both are in the intervals: they are of what "
    "the methods do with other seeds and other samples. With {seeds} seeds they are wide where "
    "seeds differ; more seeds then help, more samples don't."
)
ABOUT_ONE_SEED = (
    "One seed: chance is in groups of samples only. The differences are of these two trainings "
    "each, and say nothing of what the methods do with another seed."
)
ABOUT_FOLDS = (
    "{folds} folds: each sample is tested once, by the models of its fold, and the first table "
    "scores the samples of all folds together. The table over folds has mean and standard "
    "deviation of the scores of single folds. A fold is a group of samples, and since training "
    "sets of folds overlap, the variance over folds counts {inflation:.2f} times (Nadeau & Bengio "
    "2003)."
)
ABOUT_ONE_SEED_OF_FOLDS = (
    "One seed: chance is in folds and groups of samples, so in what is trained on too, but each "
    "fold starts from the same initial weights."
)
OVER_FOLDS = "mean and standard deviation over {folds} folds"
ABOUT_ROWS = (
    "{worst}: of each sample the answer under the subset that hurts it most. {alone}: the models "
    "that were trained on one modality; {average}: the mean of their logits{calibrated}, a "
    "baseline that trains nothing; {prior}: {shares} in training, whatever the sample."
)

LEVEL = 0.05  # of the tests
MARK = "*"  # of a difference that is more than chance


@dataclass(frozen=True)
class ComparisonSetup:
    """What the numbers belong to. samples: of the split; absent: what becomes of a modality."""

    dataset: str
    variant: str
    split: str
    samples: int
    absent: str
    calibrated: bool


@dataclass(frozen=True)
class ComparisonReport:
    """The numbers of a comparison.

    method: the preset that the others are compared with; columns: of each `train`, in order; rates:
    the learning rate of each experiment that had a choice; folds: those that `scores` pools;
    fold_scores: mean and standard deviation over them; inflation: of the variance over them.
    """

    setup: ComparisonSetup
    metrics: list[Metric]
    method: str
    seeds: list[int]
    columns: dict[str, list[str]]
    scores: list[MethodScore]
    points: list[CurvePoint]
    differences: list[MethodDifference]
    rates: dict[Experiment, float]
    folds: list[int] = field(default_factory=list)
    fold_scores: list[MethodScore] = field(default_factory=list)
    inflation: float = 1.0

    @property
    def title(self) -> str:
        """The dataset with its variant, the split, the number of seeds and folds."""
        dataset = self.setup.dataset
        if self.setup.variant:
            dataset += f" ({self.setup.variant})"
        seeds = f"{len(self.seeds)} seed"
        if len(self.seeds) > 1:
            seeds += "s"
        if len(self.folds) > 1:
            seeds += f", {len(self.folds)} folds together"
        elif self.folds:
            seeds += f", fold {self.folds[0]}"
        return f"{dataset} {self.setup.split}, {seeds}"

    @property
    def over_folds(self) -> ComparisonReport | None:
        """The same report with the scores of single folds; None for less than two folds."""
        if len(self.folds) < 2:
            return None
        return replace(self, scores=self.fold_scores)

    @property
    def tested_metric(self) -> str:
        """The metric of the differences."""
        return self.differences[0].metric

    @property
    def notes(self) -> list[str]:
        """How to read the tables."""
        calibrated = ""
        if self.setup.calibrated:
            calibrated = ", each calibrated on validation"
        prior = self.metrics[0].prior
        shares = "the shares of the classes"
        if prior != PRIOR:
            shares = "the mean and the variance of the targets"
        rows = ABOUT_ROWS.format(
            worst=WORST,
            alone=ALONE,
            average=AVERAGE,
            prior=prior,
            shares=shares,
            calibrated=calibrated,
        )
        baselines = list(dict.fromkeys(test.baseline for test in self.differences))
        folds = []
        if self.over_folds:
            folds = [ABOUT_FOLDS.format(folds=len(self.folds), inflation=self.inflation)]
        if not baselines:
            return [ABOUT_TRAINING, *folds, rows]
        name = "each of the other methods"
        if len(baselines) == 1:
            name = baselines[0]
        tests = ABOUT_TESTS.format(method=self.method, baselines=name, mark=MARK)
        chance = ABOUT_ONE_SEED
        if folds:
            chance = ABOUT_ONE_SEED_OF_FOLDS
        if len(self.seeds) > 1:
            chance = ABOUT_SEEDS.format(seeds=len(self.seeds))
        return [ABOUT_TRAINING, *folds, tests, chance, rows]

    def scores_of(self, train: str, metric: Metric) -> dict[str, dict[str, MethodScore]]:
        """Return {method: {column: score}}, the presets first, in their order."""
        by_method: dict[str, dict[str, MethodScore]] = {}
        for score in self.scores:
            if (score.train, score.metric) == (train, metric.name):
                name = score.method
                if name == PRIOR:
                    name = metric.prior
                by_method.setdefault(name, {})[score.column] = score
        methods = sorted(by_method, key=lambda name: name in (ALONE, AVERAGE, metric.prior))
        return {name: by_method[name] for name in methods}

    def columns_of(self, train: str, metric: Metric) -> list[str]:
        """Return the columns that have any score of this metric."""
        by_method = self.scores_of(train, metric)
        scored = {column for scores in by_method.values() for column in scores}
        return [column for column in self.columns[train] if column in scored]

    def best_of(self, train: str, metric: Metric, column: str) -> set[str]:
        """Return the methods whose mean in a column is the best, as it is shown."""
        means: dict[str, float] = {}
        for name, scores in self.scores_of(train, metric).items():
            score = scores.get(column)
            if score is not None and not math.isnan(score.mean):
                means[name] = round(score.mean, 3)
        if not means:
            return set()
        best = min(means.values())
        if metric.higher:
            best = max(means.values())
        return {name for name, mean in means.items() if mean == best}

    def differences_of(self, train: str) -> dict[str, list[MethodDifference]]:
        """Return {baseline: its differences, column by column}."""
        by_baseline: dict[str, list[MethodDifference]] = {}
        for test in self.differences:
            if test.train == train:
                by_baseline.setdefault(test.baseline, []).append(test)
        return by_baseline

    def list_runs(self) -> dict[tuple[int, int | None], str]:
        """Return {(seed, fold): its heading}."""
        runs: dict[tuple[int, int | None], str] = {}
        for seed in self.seeds:
            if not self.folds:
                runs[seed, None] = f"seed {seed}"
            for fold in self.folds:
                runs[seed, fold] = f"seed {seed} fold {fold}"
        return runs

    def rate_rows(self, train: str) -> Iterator[list[str]]:
        """Yield a preset, then its learning rate for each of `list_runs`."""
        presets = dict.fromkeys(one.preset for one in self.rates if one.train == train)
        for preset in presets:
            rates = []
            for seed, fold in self.list_runs():
                rates.append(self.rates[Experiment(train, seed, preset, fold)])
            yield [preset, *(f"{rate:g}" for rate in rates)]


def format_headline(report: ComparisonReport) -> str:
    """Return in how many tests the method is better or worse, and in which."""
    tests = report.differences
    if not tests:
        return f"{report.method} alone: there is no baseline to compare with."
    significant = [test for test in tests if is_significant(test)]
    better = [test for test in significant if test.difference > 0]
    worse = [test for test in significant if test.difference < 0]
    name_train = len(report.columns) > 1
    return (
        f"By {report.tested_metric}, {report.method} is better in "
        f"{_count_and_list(better, name_train)}, worse in {_count_and_list(worse, name_train)}; in "
        f"the other {len(tests) - len(significant)} of {len(tests)} tests the difference may be "
        "chance (p after Holm's adjustment, 5 %)."
    )


def describe_training(train: str) -> str:
    """Return what training misses, in words."""
    if train == COMPLETE:
        return "trained on complete samples"
    return f"trained with {train} missing"


def describe_tests(report: ComparisonReport) -> str:
    """Return the caption of a table of differences."""
    return (
        f"{report.method} minus each baseline: {report.tested_metric}, points; "
        f"{MARK} p < {LEVEL} after Holm's adjustment"
    )


def list_tested_columns(tests: Mapping[str, Sequence[MethodDifference]]) -> list[str]:
    """Return the columns of a table of differences."""
    first = next(iter(tests.values()))
    return [test.column for test in first]


def is_significant(test: MethodDifference) -> bool:
    return test.p_holm < LEVEL


def format_score(score: MethodScore | None, metric: Metric, separator: str = " ± ") -> str:
    """Return mean ± standard deviation over the seeds, in % for a share; "" for no score."""
    if score is None:
        return ""
    scale, digits = 1, 3
    if metric.percent:
        scale, digits = 100, 1
    mean = f"{scale * score.mean:.{digits}f}"
    if math.isnan(score.std):
        return mean
    return f"{mean}{separator}{scale * score.std:.{digits}f}"


def format_difference(test: MethodDifference) -> str:
    """Return a difference in points, with the mark of one that is more than chance."""
    if math.isnan(test.difference):
        return "not scored"
    points = f"{100 * test.difference:+.1f}"
    if is_significant(test):
        points += MARK
    return points


def format_test_interval(test: MethodDifference) -> str:
    if math.isnan(test.low):
        return "unknown"
    return f"{100 * test.low:.1f} to {100 * test.high:.1f}"


def format_metric(metric: Metric) -> str:
    """Return the name of a metric with its unit."""
    if metric.percent:
        return f"{metric.label}, %"
    return metric.label


def _count_and_list(tests: Sequence[MethodDifference], name_train: bool) -> str:
    """Return the number of tests, and the columns of each baseline.

    name_train: also say what training missed, as there are several.
    """
    if not tests:
        return "0"
    columns: dict[str, list[str]] = {}
    for test in tests:
        name = test.baseline
        if name_train:
            name += f" {describe_training(test.train)}"
        columns.setdefault(name, []).append(test.column)
    names = "; ".join(f"{name}: {', '.join(columns[name])}" for name in columns)
    return f"{len(tests)} ({names})"

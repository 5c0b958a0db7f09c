"""Measure how often a comparison over folds calls equal methods different.

    python benchmarks/fold_alarms.py               # the table of docs/comparison.md, as Markdown

Two methods are equally good: each classifies by the nearest class mean, one by the first half of
the features of a sample and the other by the second half, which are drawn alike. Every repetition
draws 200 samples of two classes anew, divides them into folds as `preprocess.options.folds` does
(a fold is tested, the next one validates, the rest is for training), and tests the difference over
all samples. Which method is better with these samples is chance, so a test at 5 % should be wrong
in 5 % of the repetitions.

The code that is tested is the code that the command runs. Beside it stand two rules that take too
much for independent: folds whose training sets overlap, and samples that one model answers.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from umemma.evaluation.paired_test import (
    FOLD,
    inflate_for_folds,
    run_paired_test,
    sample_contributions,
)

SAMPLES = 200
LEVEL = 0.05
FOLDS = (3, 5, 10, 20)
WIDTHS = (2, 20)  # features of a method
DISTANCE = 1.5  # between the class means, in standard deviations


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repetitions", type=int, default=2000)
    arguments = parser.parse_args()
    start = time.perf_counter()
    error = 100 * (LEVEL * (1 - LEVEL) / arguments.repetitions) ** 0.5
    print(f"False alarms in %, {arguments.repetitions} repetitions (standard error {error:.1f}):\n")
    print("| features | folds | the command | folds as independent | samples as independent |")
    print("|--:|--:|--:|--:|--:|")
    for width in WIDTHS:
        for folds in FOLDS:
            alarms = measure_alarms(width, folds, arguments.repetitions)
            row = " | ".join(f"{100 * share:.1f}" for share in alarms)
            print(f"| {width} | {folds} | {row} |")
    print(f"\n({time.perf_counter() - start:.0f} s)")


def measure_alarms(width: int, folds: int, repetitions: int) -> tuple[float, ...]:
    """Return the shares of tests with p < 5 %: of the command, and of the two other rules."""
    random = np.random.default_rng([width, folds])
    alarms = np.zeros(3)
    fold = np.arange(SAMPLES) // 2 % folds  # as many of each class
    for _ in range(repetitions):
        label = np.arange(SAMPLES) % 2
        means = DISTANCE / width**0.5 * label[:, None, None]
        features = random.normal(size=(SAMPLES, 2, width)) + means
        right = np.stack([answer(features[:, method], label, fold) for method in range(2)])
        alarms += [p < LEVEL for p in run_tests(right[0] - right[1], fold)]
    return tuple((alarms / repetitions).tolist())


def answer(features: np.ndarray, label: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return (N,) 1.0 where a sample is classified right by the models of its fold."""
    right = np.zeros(len(label))
    folds = fold.max() + 1
    for tested in range(folds):
        is_trained = (fold != tested) & (fold != (tested + 1) % folds)
        means = [features[is_trained & (label == one)].mean(0) for one in (0, 1)]
        distances = [((features - mean) ** 2).sum(1) for mean in means]
        answers = distances[1] < distances[0]
        right[fold == tested] = (answers == label)[fold == tested]
    return right


def run_tests(difference: np.ndarray, fold: np.ndarray) -> tuple[float, float, float]:
    """Return the p-values of the command and of the two other rules."""
    contributions = sample_contributions(difference[None, :, None], np.ones((1, 1)))
    test = np.bincount(fold)
    train = len(fold) - test - np.roll(test, -1)
    inflation = inflate_for_folds(train.tolist(), test.tolist())
    return (
        float(run_paired_test(*contributions, {FOLD: fold}, inflation).p[0]),
        float(run_paired_test(*contributions, {FOLD: fold}).p[0]),
        float(run_paired_test(*contributions, {}).p[0]),
    )


if __name__ == "__main__":
    main()

"""Measure how often `umemma compare` calls equal methods different, and finds a real difference.

    python benchmarks/false_alarms.py              # all tables of docs/comparison.md, as Markdown
    python benchmarks/false_alarms.py single       # or one: single, crossed, tables, rules, power

The answers are simulated, those of equally good methods. An answer is right where a sum of random
numbers exceeds a threshold: how hard the sample is, for all methods alike; what the method makes of
the sample, and of all samples of its group, with every seed; what a seed does to all answers of a
training (the spread, in points of accuracy); and what a training makes of the sample (noise).

The code that is tested is the code that the command runs. Beside it stands the rule that the
command had before: the best of the baselines, chosen on the same numbers, and a bootstrap over
seeds and groups.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import ndtri, stdtr
from simulated_answers import (
    SAMPLES,
    Design,
    Effects,
    draw_normal,
    in_deviations,
    simulate_answers,
)

from umemma.evaluation.paired_test import PairedTest, adjust_holm, run_paired_test

METHODS = 8
LEVEL = 0.05
COLUMNS = 5  # of a table: audio, image, both, the mean of the single ones, the worst
PER_BLOCK = 50  # tables that are simulated at once
SEEDS = (3, 5, 10)
GROUPS = (25, 400)
SPREADS = (0.0, 0.5, 1.0, 3.0)
TABLE_SPREADS = (0.0, 1.0, 3.0)
ACCURACY = (0.70, 0.66, 0.88)  # of audio, image, and both
DIFFER = "the methods differ in | spread"

ONLY_SAMPLES = Effects("samples", sample=0.1)
AND_GROUPS = Effects("samples, groups", sample=0.1, group=0.02)
AND_NOISE = Effects("samples, noise", sample=0.05, noise=0.1)
ALL = Effects("samples, groups, noise", sample=0.05, group=0.02, noise=0.1)
ONLY_NOISE = Effects("noise (one method twice)", noise=0.1)
KINDS = (ONLY_SAMPLES, AND_GROUPS, AND_NOISE, ALL, ONLY_NOISE)
TABLE_KINDS = (AND_GROUPS, ALL, ONLY_NOISE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=list(BENCHMARKS))
    parser.add_argument("--repetitions", type=int, default=2000, help="of a single test")
    parser.add_argument("--tables", type=int, default=400)
    arguments = parser.parse_args()
    names = list(BENCHMARKS)
    if arguments.what:
        names = [arguments.what]
    for name in names:
        count = arguments.tables
        if name in ("single", "crossed"):
            count = arguments.repetitions
        start = time.perf_counter()
        BENCHMARKS[name](count)
        print(f"\n({time.perf_counter() - start:.0f} s)\n")


# Single tests. ------------------------------------------------------------------------------------


def measure_single_tests(repetitions: int) -> None:
    """Print the false alarms of one test of one column."""
    error = standard_error(repetitions)
    print(
        f"False alarms of a test at 5 %, in %, {repetitions} repetitions "
        f"(standard error {error:.1f}):\n"
    )
    print_heading(DIFFER, name_seeds_and_groups())
    for effects, spread in itertools.product(KINDS, SPREADS):
        row = []
        for groups in GROUPS:
            for seeds in SEEDS:
                design = Design(effects, spread, seeds, groups)
                row.append(100 * measure_alarms(design, repetitions))
        print_line(f"{effects.title} | {spread:g}", row)


def measure_alarms(design: Design, repetitions: int) -> float:
    """Return the share of tests of two equal methods that have p < 5 %."""
    random = make_generator(0, design)
    right = simulate_answers(random, design, 2, repetitions, ACCURACY[:1])
    p = compare(right[0] - right[1]).p
    return float((p < LEVEL).mean())


# Two groupings that cross. ------------------------------------------------------------------------


def measure_crossed_groupings(repetitions: int) -> None:
    """Print the false alarms with 25 voices and 400 images, each sample one of both.

    The methods differ in both groupings, in one, or in neither.
    """
    print(
        f"Crossed groupings (25 voices x 400 images, {SAMPLES} samples), "
        f"false alarms in %, {repetitions} repetitions:\n"
    )
    print_heading("effect of voice, image | spread", [f"{seeds} seeds" for seeds in SEEDS])
    words = {True: "yes", False: "no"}
    variances = ((0.0, 0.0), (0.02, 0.0), (0.02, 0.05))
    for (voice, image), spread in itertools.product(variances, TABLE_SPREADS):
        row = []
        for seeds in SEEDS:
            row.append(100 * measure_crossed_alarms(voice, image, spread, seeds, repetitions))
        print_line(f"{words[voice > 0]}, {words[image > 0]} | {spread:g}", row)


def measure_crossed_alarms(
    voice: float,
    image: float,
    spread: float,
    seeds: int,
    repetitions: int,
) -> float:
    """Return the share of tests that have p < 5 %, with sample 0.05 and noise 0.1 as in ALL."""
    entropy = [2, int(100 * voice), int(100 * image), int(10 * spread), seeds]
    random = np.random.default_rng(entropy)
    members = {
        "voice": np.arange(SAMPLES) % 25,
        "image": random.permutation(SAMPLES) % 400,
    }
    names = {}
    for grouping, member in members.items():
        names[grouping] = [str(number) for number in member]
    seed_variance = in_deviations(spread, ACCURACY[0]) ** 2
    block = 250
    alarms = []
    for _ in range(max(1, repetitions // block)):
        # (methods, seeds, N, repetitions)
        latent = draw_normal(random, 0.85 - voice - image, 1, 1, SAMPLES, block)
        of_sample = draw_normal(random, 0.05, 2, 1, SAMPLES, block)
        of_noise = draw_normal(random, 0.1, 2, seeds, SAMPLES, block)
        latent = latent + of_sample + of_noise
        latent += draw_normal(random, seed_variance, 2, seeds, 1, block)
        latent += draw_normal(random, voice, 2, 1, 25, block)[:, :, members["voice"]]
        latent += draw_normal(random, image, 2, 1, 400, block)[:, :, members["image"]]
        right = (latent > -ndtri(ACCURACY[0])).astype(np.float32)
        alarms.append(compare(right[0] - right[1], names).p < LEVEL)
    return float(np.mean(alarms))


# Tables. ------------------------------------------------------------------------------------------


def measure_tables(count: int) -> None:
    """Print the tables with any false alarm, by the rule of today and by the one before.

    A table has 8 equal methods and 5 columns; Holm adjusts over all 35 tests.
    """
    error = standard_error(count)
    print(
        f"Tables with any false alarm at 5 %, in %, {count} tables "
        f"(standard error {error:.1f}), and by the old rule:\n"
    )
    print_heading(DIFFER, name_seeds_and_groups())
    for effects, spread in itertools.product(TABLE_KINDS, TABLE_SPREADS):
        cells = []
        for groups, seeds in itertools.product(GROUPS, SEEDS):
            design = Design(effects, spread, seeds, groups)
            random = make_generator(1, design)
            alarms = [apply_both_rules(random, design) for _ in range(count // PER_BLOCK)]
            new, old = 100 * np.mean(alarms, (0, 1))
            cells.append(f"{new:.1f} ({old:.1f})")
        print(f"| {effects.title} | {spread:g} | {' | '.join(cells)} |", flush=True)


def apply_both_rules(random: np.random.Generator, design: Design) -> np.ndarray:
    """Return (PER_BLOCK, 2): whether a table has a false alarm by today's rule, and by the old."""
    columns = simulate_answers(random, design, METHODS, PER_BLOCK, ACCURACY)
    p = np.stack([compare(columns[0] - other).p for other in columns[1:]], 1)
    new = smallest_adjusted(p, PER_BLOCK)
    old = apply_old_rule(columns, random)
    return np.stack([new < LEVEL, old < LEVEL], 1)


def apply_old_rule(
    columns: np.ndarray,
    random: np.random.Generator,
    times: int = 999,
) -> np.ndarray:
    """Return (tables,): the smallest adjusted p of each table by the rule before.

    It took the best baseline of each column, and resampled seeds and groups. See `git log
    umemma/evaluation/comparison.py`.
    """
    _, seeds, groups, width = columns.shape
    means = columns.mean((1, 2), dtype=np.float64)
    best = 1 + means[1:].argmax(0)
    difference = columns[0] - columns[best, :, :, np.arange(width)].transpose(1, 2, 0)
    group_counts = random.multinomial(groups, np.full(groups, 1 / groups), times)
    group_weights = group_counts.astype(np.float32) / groups
    seed_weights = random.multinomial(seeds, np.full(seeds, 1 / seeds), times) / seeds
    seed_weights = 1 / seeds + (seed_weights - 1 / seeds) * np.sqrt(seeds / (seeds - 1))
    resamples = 0
    for seed in range(seeds):
        resamples = resamples + seed_weights[:, [seed]] * (group_weights @ difference[seed])
    below = (1 + (resamples <= 0).sum(0)) / (1 + times)
    above = (1 + (resamples >= 0).sum(0)) / (1 + times)
    p = np.minimum(1.0, 2 * np.minimum(below, above))
    return smallest_adjusted(p, width // COLUMNS)


# Other rules. -------------------------------------------------------------------------------------


def measure_rules(count: int, seeds: int = 3, groups: int = 400) -> None:
    """Print the false alarms with other degrees of freedom, of the same variance.

    These are Satterthwaite's, and the fewer of seeds and groups.
    """
    print(
        f"False alarms with {seeds} seeds and {groups} groups, in %: "
        f"of single tests, and of {count} tables:\n"
    )
    headings = []
    for what in ("test", "table"):
        for rule in ("the command", "Satterthwaite", "min(S, G) - 1"):
            headings.append(f"{what}: {rule}")
    print_heading(DIFFER, headings)
    for effects, spread in itertools.product(TABLE_KINDS, TABLE_SPREADS):
        random = np.random.default_rng([4, KINDS.index(effects), int(10 * spread)])
        design = Design(effects, spread, seeds, groups)
        rows = []
        for _ in range(count // PER_BLOCK):
            columns = simulate_answers(random, design, METHODS, PER_BLOCK, ACCURACY)
            p = np.stack([apply_each_rule(columns[0] - other) for other in columns[1:]], -1)
            of_tests = (p < LEVEL).mean((1, 2))
            of_tables = [(smallest_adjusted(by_rule, PER_BLOCK) < LEVEL).mean() for by_rule in p]
            rows.append([*of_tests, *of_tables])
        print_line(f"{effects.title} | {spread:g}", 100 * np.mean(rows, 0))


def apply_each_rule(difference: np.ndarray) -> np.ndarray:
    """Return (3, K): p of (S, N, K) differences by the command, Satterthwaite, and the fewest."""
    result = compare(difference)
    seeds, n, _ = difference.shape
    sample_variance = difference.mean(0).var(0, ddof=1) / n
    seed_share = 1 - sample_variance / result.error**2  # as they are added to it
    of_seeds = seed_share**2 / (seeds - 1)
    of_samples = (1 - seed_share) ** 2 / (n - 1)
    freedom = 1 / (of_seeds + of_samples)
    t = np.abs(result.difference) / result.error
    satterthwaite = 2 * stdtr(freedom, -t)
    fewest = 2 * stdtr(min(seeds, n) - 1, -t)
    return np.stack([result.p, satterthwaite, fewest])


# Power. -------------------------------------------------------------------------------------------


def measure_power(count: int, better: float = 2.0) -> None:
    """Print how often a method that is better by 2 points everywhere is found better with audio."""
    print(f"A real difference of {better:g} points is found, in % of {count} tables:\n")
    headings = [
        "one test",
        "Holm, one baseline fixed (5 tests)",
        "Holm, all 7 baselines (35 tests)",
    ]
    print_heading("the methods differ in | spread | seeds", headings)
    for effects, spread, seeds in itertools.product((AND_NOISE, ALL), TABLE_SPREADS, SEEDS):
        random = np.random.default_rng([3, KINDS.index(effects), int(10 * spread), seeds])
        design = Design(effects, spread, seeds, 400)
        p_values = []
        for _ in range(count // PER_BLOCK):
            columns = simulate_answers(random, design, METHODS, PER_BLOCK, ACCURACY, better)
            p = np.stack([compare(columns[0] - other).p for other in columns[1:]], 1)
            for table in p.reshape(PER_BLOCK, COLUMNS, METHODS - 1):
                one_baseline = adjust_holm(table[:, 0])
                all_baselines = adjust_holm(table.ravel())
                p_values.append([table[0, 0], one_baseline[0], all_baselines[0]])
        shares = 100 * (np.array(p_values) < LEVEL).mean(0)
        print_line(f"{effects.title} | {spread:g} | {seeds}", shares)


# Tests and tables. --------------------------------------------------------------------------------


def compare(difference: np.ndarray, groups: dict[str, list[str]] | None = None) -> PairedTest:
    """Test (S, N, K) differences of equal weight, by the code of the command.

    Without groupings each of the N stands by itself.
    """
    n = difference.shape[1]
    values = difference.mean(1, dtype=np.float64)
    contributions = (difference - values[:, None]) / n
    weights = np.full((n, 1), 1 / n)
    return run_paired_test(values, contributions, weights, groups or {})


def smallest_adjusted(p: np.ndarray, tables: int) -> np.ndarray:
    """Return (tables,): the smallest adjusted p of each table, from (tables * columns, ...)."""
    return np.array([min(adjust_holm(of_table)) for of_table in p.reshape(tables, -1)])


def standard_error(count: int) -> float:
    """Return the standard error, in %, of a share of LEVEL among `count`."""
    return 100 * np.sqrt(LEVEL * (1 - LEVEL) / count)


def name_seeds_and_groups() -> list[str]:
    pairs = itertools.product(GROUPS, SEEDS)
    return [f"{seeds} seeds, {groups} groups" for groups, seeds in pairs]


def make_generator(benchmark: int, design: Design) -> np.random.Generator:
    kind = KINDS.index(design.effects)
    spread = int(10 * design.spread)
    return np.random.default_rng([benchmark, kind, spread, design.seeds, design.groups])


def print_heading(names: str, columns: Sequence[str]) -> None:
    print(f"| {names} | {' | '.join(columns)} |")
    print(f"|{'---|' * (names.count('|') + 1)}{'--:|' * len(columns)}", flush=True)


def print_line(names: str, numbers: Iterable[float]) -> None:
    cells = " | ".join(f"{number:.1f}" for number in numbers)
    print(f"| {names} | {cells} |", flush=True)


BENCHMARKS = {
    "single": measure_single_tests,
    "crossed": measure_crossed_groupings,
    "tables": measure_tables,
    "rules": measure_rules,
    "power": measure_power,
}


if __name__ == "__main__":
    main()

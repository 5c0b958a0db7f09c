"""How often `umemma compare` calls equal methods different, and how often it finds a difference that is there.

    python benchmarks/false_alarms.py              # all tables of docs/compare.md, as Markdown
    python benchmarks/false_alarms.py single       # one of them: single, crossed, tables, rules or power

Made answers, right or wrong, of equally good methods. Whether an answer is right is a threshold of a sum of chances: how
hard the sample is, for all methods alike; what the method makes of the sample, and of all samples of its group, with every
seed; what a seed does to all answers of a training (the spread, in points of accuracy); what a training makes of the sample
(noise). Tested is the code that the command runs. Beside it stands the rule that it had before: the best of the baselines,
chosen on the same numbers, and a bootstrap over seeds and groups.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtr

from umemma.evaluation.paired_test import PairedTest, adjust_holm, run_paired_test

SAMPLES, METHODS, LEVEL = 800, 8, 0.05
SEEDS, GROUPS, SPREADS = (3, 5, 10), (25, 400), (0.0, 0.5, 1.0, 3.0)
ACCURACY = (0.70, 0.66, 0.88)  # of audio, image, and both


class Differ(NamedTuple):
    """In what two methods differ, as shares of the variance of the sum of chances."""

    what: str
    sample: float = 0.0
    group: float = 0.0
    noise: float = 0.0


ONLY_SAMPLES = Differ("samples", sample=0.1)
AND_GROUPS = Differ("samples, groups", sample=0.1, group=0.02)
AND_NOISE = Differ("samples, noise", sample=0.05, noise=0.1)
ALL = Differ("samples, groups, noise", sample=0.05, group=0.02, noise=0.1)
ONLY_NOISE = Differ("noise (one method twice)", noise=0.1)
KINDS = (ONLY_SAMPLES, AND_GROUPS, AND_NOISE, ALL, ONLY_NOISE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="?", choices=["single", "crossed", "tables", "rules", "power"]
    )
    parser.add_argument("--repetitions", type=int, default=2000, help="of a single test")
    parser.add_argument("--tables", type=int, default=400)
    arguments = parser.parse_args()
    singles, whole = arguments.repetitions, arguments.tables
    counts = {single: singles, crossed: singles, tables: whole, rules: whole, power: whole}
    for made, count in counts.items():
        if arguments.what in (None, made.__name__):
            started = time.perf_counter()
            made(count)
            print(f"\n({time.perf_counter() - started:.0f} s)\n")


def single(repetitions: int) -> None:
    """False alarms of one test of one column."""
    error = 100 * np.sqrt(LEVEL * (1 - LEVEL) / repetitions)
    print(
        f"False alarms of a test at 5 %, in %, {repetitions} repetitions (standard error {error:.1f}):\n"
    )
    heading(
        "the methods differ in | spread",
        [f"{runs} seeds, {groups} groups" for groups in GROUPS for runs in SEEDS],
    )
    for kind, spread in itertools.product(KINDS, SPREADS):
        row = [
            100 * alarms(kind, spread, runs, groups, repetitions)
            for groups in GROUPS
            for runs in SEEDS
        ]
        line(f"{kind.what} | {spread:g}", row)


def alarms(kind: Differ, spread: float, runs: int, groups: int, repetitions: int) -> float:
    """The share of tests of two equal methods that have p < 5 %."""
    chance = np.random.default_rng([0, KINDS.index(kind), int(10 * spread), runs, groups])
    right = answers(chance, kind, spread, runs, groups, 2, repetitions, ACCURACY[:1])
    return float((compared(right[0] - right[1]).p < LEVEL).mean())


def tables(count: int) -> None:
    """Tables with any false alarm: 8 equal methods, 5 columns, Holm over all 35 tests; and by the rule before."""
    error = 100 * np.sqrt(LEVEL * (1 - LEVEL) / count)
    print(
        f"Tables with any false alarm at 5 %, in %, {count} tables (standard error {error:.1f}), and by the old rule:\n"
    )
    heading(
        "the methods differ in | spread",
        [f"{runs} seeds, {groups} groups" for groups in GROUPS for runs in SEEDS],
    )
    for kind, spread in itertools.product((AND_GROUPS, ALL, ONLY_NOISE), (0.0, 1.0, 3.0)):
        row = []
        for groups, runs in itertools.product(GROUPS, SEEDS):
            chance = np.random.default_rng([1, KINDS.index(kind), int(10 * spread), runs, groups])
            found = [both_rules(chance, kind, spread, runs, groups) for _ in range(count // 50)]
            row.append(100 * np.mean(found, (0, 1)))
        print(
            f"| {kind.what} | {spread:g} | {' | '.join(f'{new:.1f} ({old:.1f})' for new, old in row)} |",
            flush=True,
        )


def both_rules(
    chance: np.random.Generator, kind: Differ, spread: float, runs: int, groups: int
) -> np.ndarray:
    """(50, 2): whether each of 50 tables has a false alarm by the rule of today, and by the one before."""
    columns = answers(chance, kind, spread, runs, groups, METHODS, 50, ACCURACY)
    new = smallest(np.stack([compared(columns[0] - other).p for other in columns[1:]], 1), 50)
    return np.stack([new < LEVEL, before(columns, chance) < LEVEL], 1)


def crossed(repetitions: int) -> None:
    """Two groupings that cross: 25 voices and 400 images, each sample one of both; methods differ in both or in neither."""
    print(
        f"Crossed groupings (25 voices x 400 images, {SAMPLES} samples), false alarms in %, {repetitions} repetitions:\n"
    )
    heading("effect of voice, image | spread", [f"{runs} seeds" for runs in SEEDS])
    for (voice, image), spread in itertools.product(
        ((0.0, 0.0), (0.02, 0.0), (0.02, 0.05)), (0.0, 1.0, 3.0)
    ):
        row = [100 * alarms_crossed(voice, image, spread, runs, repetitions) for runs in SEEDS]
        line(f"{'yes' if voice else 'no'}, {'yes' if image else 'no'} | {spread:g}", row)


def alarms_crossed(voice: float, image: float, spread: float, runs: int, repetitions: int) -> float:
    """The share of tests that have p < 5 %, with sample 0.05 and noise 0.1 as in ALL."""
    chance = np.random.default_rng([2, int(100 * voice), int(100 * image), int(10 * spread), runs])
    members = {"voice": np.arange(SAMPLES) % 25, "image": chance.permutation(SAMPLES) % 400}
    names = {name: [str(i) for i in member] for name, member in members.items()}
    found = []
    for _ in range(max(1, repetitions // 250)):
        latent = scaled(
            chance, 0.85 - voice - image, 1, 1, SAMPLES, 250
        )  # (methods, S, N, repetitions)
        latent = (
            latent
            + scaled(chance, 0.05, 2, 1, SAMPLES, 250)
            + scaled(chance, 0.1, 2, runs, SAMPLES, 250)
        )
        latent += scaled(chance, of_latent(spread, ACCURACY[0]) ** 2, 2, runs, 1, 250)
        latent += scaled(chance, voice, 2, 1, 25, 250)[:, :, members["voice"]]
        latent += scaled(chance, image, 2, 1, 400, 250)[:, :, members["image"]]
        right = (latent > -ndtri(ACCURACY[0])).astype(np.float32)
        found.append(compared(right[0] - right[1], names).p < LEVEL)
    return float(np.mean(found))


def rules(count: int, runs: int = 3, groups: int = 400) -> None:
    """Why no other degrees of freedom: of the same variance, those of Satterthwaite and the fewest of seeds and groups."""
    print(
        f"False alarms with {runs} seeds and {groups} groups, in %: of single tests, and of {count} tables:\n"
    )
    names = ("the command", "Satterthwaite", "min(S, G) - 1")
    heading(
        "the methods differ in | spread",
        [f"{what}: {name}" for what in ("test", "table") for name in names],
    )
    for kind, spread in itertools.product((AND_GROUPS, ALL, ONLY_NOISE), (0.0, 1.0, 3.0)):
        chance = np.random.default_rng([4, KINDS.index(kind), int(10 * spread)])
        found = []
        for _ in range(count // 50):
            columns = answers(chance, kind, spread, runs, groups, METHODS, 50, ACCURACY)
            p = np.stack([by_each_rule(columns[0] - other) for other in columns[1:]], -1)
            any_test = [(smallest(one, 50) < LEVEL).mean() for one in p]
            found.append([*(p < LEVEL).mean((1, 2)), *any_test])
        line(f"{kind.what} | {spread:g}", 100 * np.mean(found, 0))


def by_each_rule(apart: np.ndarray) -> np.ndarray:
    """(3, K): p of (S, N, K) differences by the command, by Satterthwaite, by the fewest degrees of freedom."""
    found = compared(apart)
    runs, n, _ = apart.shape
    by_sample = apart.mean(0).var(0, ddof=1) / n
    seeds = 1 - by_sample / found.error**2  # as they are added to it
    freedom = 1 / (seeds**2 / (runs - 1) + (1 - seeds) ** 2 / (n - 1))
    t = np.abs(found.difference) / found.error
    return np.stack([found.p, 2 * stdtr(freedom, -t), 2 * stdtr(min(runs, n) - 1, -t)])


def power(count: int, better: float = 2.0) -> None:
    """How often a method that is better by 2 points everywhere is found better with audio, 400 groups."""
    print(f"A real difference of {better:g} points is found, in % of {count} tables:\n")
    kinds = ["one test", "Holm, one baseline fixed (5 tests)", "Holm, all 7 baselines (35 tests)"]
    heading("the methods differ in | spread | seeds", kinds)
    for kind, spread, runs in itertools.product((AND_NOISE, ALL), (0.0, 1.0, 3.0), SEEDS):
        chance = np.random.default_rng([3, KINDS.index(kind), int(10 * spread), runs])
        found = []
        for _ in range(count // 50):
            columns = answers(chance, kind, spread, runs, 400, METHODS, 50, ACCURACY, better)
            p = np.stack([compared(columns[0] - other).p for other in columns[1:]], 1).reshape(
                50, 5, METHODS - 1
            )
            for one in p:
                found.append([one[0, 0], adjust_holm(one[:, 0])[0], adjust_holm(one.ravel())[0]])
        line(f"{kind.what} | {spread:g} | {runs}", 100 * (np.array(found) < LEVEL).mean(0))


def answers(
    chance: np.random.Generator,
    kind: Differ,
    spread: float,
    runs: int,
    groups: int,
    methods: int,
    tables: int,
    accuracy: Sequence[float],
    better: float = 0.0,
) -> np.ndarray:
    """(methods, S, groups, K) the mean worth of each group's answers; K is of tables and, with three subsets, of five columns
    of each. better: by how many points the first method is."""
    shape = (SAMPLES // groups, groups, tables)

    def drawn(variance: float, *sizes: int) -> Iterable[np.ndarray]:
        """Of each subset, half of it the same for all."""
        if not variance:
            return [np.float32(0.0)] * len(accuracy)
        alike = scaled(chance, variance / 2, *sizes)
        return [alike + scaled(chance, variance / 2, *sizes) for _ in accuracy]

    rest = 1 - kind.sample - kind.group - kind.noise
    sums = zip(
        drawn(rest, 1, 1, *shape),
        drawn(kind.sample, methods, 1, *shape),
        drawn(kind.group, methods, 1, 1, *shape[1:]),
        drawn(kind.noise, methods, runs, *shape),
        drawn(1.0 if spread else 0.0, methods, runs, 1, 1, tables),
        strict=True,
    )
    right = []
    for share, (*latents, seed) in zip(accuracy, sums, strict=True):
        latent = sum(latents) + seed * np.float32(of_latent(spread, share))
        latent[0] += np.float32(of_latent(better, share))
        right.append(np.broadcast_to(latent > -ndtri(share), (methods, runs, *shape)))
    if len(right) == 1:
        return right[0].mean(2)
    audio, image, both = (one.astype(np.float32) for one in right)
    lesser, worst = (audio + image) / 2, np.minimum(np.minimum(audio, image), both)
    found = np.stack([one.mean(2) for one in (audio, image, both, lesser, worst)], -1)
    return found.reshape(*found.shape[:3], -1)


def compared(apart: np.ndarray, groups: dict[str, list[str]] | None = None) -> PairedTest:
    """Of (S, N, K) differences that weigh the same, by the code of the command; without groupings each by itself."""
    n = apart.shape[1]
    values = apart.mean(1, dtype=np.float64)
    return run_paired_test(
        values, (apart - values[:, None]) / n, np.full((n, 1), 1 / n), groups or {}
    )


def smallest(p: np.ndarray, tables: int) -> np.ndarray:
    """(tables,): the smallest adjusted p of each, of (tables * columns, ...) ones."""
    return np.array([min(adjust_holm(own)) for own in p.reshape(tables, -1)])


def before(columns: np.ndarray, chance: np.random.Generator, times: int = 999) -> np.ndarray:
    """(tables,): the smallest adjusted p of each by the rule before: the best baseline of each column, and resampled seeds and
    groups. See `git log umemma/evaluation/comparison.py`."""
    _, runs, groups, width = columns.shape
    means = columns.mean((1, 2), dtype=np.float64)
    best = 1 + means[1:].argmax(0)
    apart = columns[0] - columns[best, :, :, np.arange(width)].transpose(1, 2, 0)
    resampled = (
        chance.multinomial(groups, np.full(groups, 1 / groups), times).astype(np.float32) / groups
    )
    share = chance.multinomial(runs, np.full(runs, 1 / runs), times) / runs
    share = 1 / runs + (share - 1 / runs) * np.sqrt(runs / (runs - 1))
    drawn = sum(share[:, [s]] * (resampled @ apart[s]) for s in range(runs))
    below, above = (1 + (drawn <= 0).sum(0)) / (1 + times), (1 + (drawn >= 0).sum(0)) / (1 + times)
    return smallest(np.minimum(1.0, 2 * np.minimum(below, above)), width // 5)


def scaled(chance: np.random.Generator, variance: float, *shape: int) -> np.ndarray:
    """Normal numbers of this variance."""
    return chance.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(variance))


def of_latent(points: float, accuracy: float) -> float:
    """What moves the accuracy by so many points, in standard deviations of the sum of chances."""
    return points / 100 / float(np.exp(-(ndtri(accuracy) ** 2) / 2) / np.sqrt(2 * np.pi))


def heading(names: str, columns: Sequence[str]) -> None:
    print(f"| {names} | {' | '.join(columns)} |")
    print(f"|{'---|' * (names.count('|') + 1)}{'--:|' * len(columns)}", flush=True)


def line(names: str, numbers: Iterable[float]) -> None:
    print(f"| {names} | {' | '.join(f'{number:.1f}' for number in numbers)} |", flush=True)


if __name__ == "__main__":
    main()

"""Simulated answers of equally good methods, for false_alarms.py.

Every answer is right where a latent number, the sum of several random ones, exceeds a threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

SAMPLES = 800


class Effects(NamedTuple):
    """In what two methods differ, as shares of the variance of the sum of random numbers."""

    title: str
    sample: float = 0.0
    group: float = 0.0
    noise: float = 0.0


class Design(NamedTuple):
    """What is simulated. spread: of the seeds, in points of accuracy."""

    effects: Effects
    spread: float
    seeds: int
    groups: int


def simulate_answers(
    random: np.random.Generator,
    design: Design,
    methods: int,
    tables: int,
    accuracy: Sequence[float],
    better: float = 0.0,
) -> np.ndarray:
    """Return (methods, S, groups, K): the mean score of the answers of each group.

    K is the number of tables or, with three subsets, of the five columns of each table.
    better: by how many points the first method is better.
    """
    latents = zip(*draw_latents(random, design, methods, tables, len(accuracy)), strict=True)
    right = []
    for share, (*parts, of_seed) in zip(accuracy, latents, strict=True):
        latent = sum(parts) + of_seed * np.float32(in_deviations(design.spread, share))
        latent[0] += np.float32(in_deviations(better, share))
        shape = (methods, design.seeds, SAMPLES // design.groups, design.groups, tables)
        right.append(np.broadcast_to(latent > -ndtri(share), shape))
    if len(right) == 1:
        return right[0].mean(2)
    audio, image, both = (answers.astype(np.float32) for answers in right)
    mean = (audio + image) / 2
    worst = np.minimum(np.minimum(audio, image), both)
    columns = (audio, image, both, mean, worst)
    scores = np.stack([answers.mean(2) for answers in columns], -1)
    return scores.reshape(*scores.shape[:3], -1)


def draw_latents(
    random: np.random.Generator,
    design: Design,
    methods: int,
    tables: int,
    subsets: int,
) -> Iterator[Iterable[np.ndarray]]:
    """Yield the parts of the latent number, each for every subset; the last is of the seeds."""
    effects = design.effects
    samples = (SAMPLES // design.groups, design.groups, tables)
    groups = (1, design.groups, tables)
    rest = 1 - effects.sample - effects.group - effects.noise
    spread = float(design.spread > 0)
    yield draw_for_subsets(random, subsets, rest, 1, 1, *samples)
    yield draw_for_subsets(random, subsets, effects.sample, methods, 1, *samples)
    yield draw_for_subsets(random, subsets, effects.group, methods, 1, *groups)
    yield draw_for_subsets(random, subsets, effects.noise, methods, design.seeds, *samples)
    yield draw_for_subsets(random, subsets, spread, methods, design.seeds, 1, 1, tables)


def draw_for_subsets(
    random: np.random.Generator,
    subsets: int,
    variance: float,
    *shape: int,
) -> Iterable[np.ndarray]:
    """Return normal numbers for each subset; half of the variance is the same for all of them."""
    if not variance:
        return [np.float32(0.0)] * subsets
    shared = draw_normal(random, variance / 2, *shape)
    return [shared + draw_normal(random, variance / 2, *shape) for _ in range(subsets)]


def draw_normal(random: np.random.Generator, variance: float, *shape: int) -> np.ndarray:
    """Return normal numbers of a variance."""
    deviation = np.float32(np.sqrt(variance))
    return random.standard_normal(shape, dtype=np.float32) * deviation


def in_deviations(points: float, accuracy: float) -> float:
    """Convert points of accuracy to standard deviations of the latent number."""
    density = np.exp(-(ndtri(accuracy) ** 2) / 2) / np.sqrt(2 * np.pi)
    return points / 100 / float(density)

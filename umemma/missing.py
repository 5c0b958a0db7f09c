"""What absence means, in one place: the patterns, the draw that training makes (MMA), the draw that evaluation makes,
and what an absent modality becomes.

A pattern is a non-empty set of modalities that are left. keep (B, M) is True where a modality is both present in the
data and left by the pattern. Nothing here depends on torch at import; tensors come in and go out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from umemma.errors import UserError, unknown
from umemma.system.seeds import hashes, mixed, unit
from umemma.types import alternatives, joined

if TYPE_CHECKING:
    from torch import Tensor

Pattern = tuple[str, ...]  # sorted
Missing = tuple[Pattern, ...]  # sets, of which a sample loses one


def patterns(modalities: Sequence[str]) -> list[Pattern]:
    """Every non-empty subset, the complete one first, then by size and name."""
    names = sorted(modalities)
    return [pattern for size in range(len(names), 0, -1) for pattern in combinations(names, size)]


def missing_sets(modalities: Sequence[str]) -> list[Pattern]:
    """What can be taken away: every set that leaves something, smallest first."""
    names = sorted(modalities)
    return [taken for size in range(1, len(names)) for taken in combinations(names, size)]


def keep_table(modalities: Sequence[str]) -> np.ndarray:
    """(S, M) bool: row s is the s-th of `patterns(modalities)`."""
    return np.array(
        [[m in pattern for m in sorted(modalities)] for pattern in patterns(modalities)]
    )


def pattern_weights(modalities: Sequence[str], given: Mapping[str, float] | None) -> np.ndarray:
    """(S,) weights that sum to 1: `given` by pattern name ("audio+image": 2, unnamed = 0), or uniform for None."""
    names = [joined(pattern) for pattern in patterns(modalities)]
    if given is None:
        return np.full(len(names), 1 / len(names))
    where = "finetune.pattern_weights"
    for name in given:
        if joined(name.split("+")) not in names:
            raise unknown("modality subset", name, names, where)
    weights = {joined(name.split("+")): weight for name, weight in given.items()}
    total = sum(weights.values())
    if not total:
        raise UserError(
            "all weights are 0", where, "Give at least one subset a weight above 0.", usage=True
        )
    return np.array([weights.get(name, 0.0) / total for name in names])


def sample_weights(present: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    """(B, S): how much each pattern counts for each sample; a row sums to 1.

    A pattern that leaves nothing of a sample counts 0, the others keep their proportions. A sample all of whose
    weighted patterns leave nothing is trained with what it has (the complete pattern, column 0).

    present: (B, M) bool, table: (S, M) bool, weights: (S,).
    """
    left = (present[:, None, :] & table).any(-1) * weights
    left[:, 0] = left[:, 0].where(left.sum(1) > 0, 1.0)
    return left / left.sum(1, keepdim=True)


def draw(weights: Tensor, numbers: Tensor) -> Tensor:
    """(B,) the pattern drawn for each sample, from (B, S) weights and (B,) numbers in [0, 1)."""
    up_to = (
        weights.double() @ weights.new_ones(weights.shape[1], weights.shape[1]).double().triu()
    )  # cumsum isn't
    below = numbers[:, None] < up_to * (
        1 + 1e-6
    )  # repeatable on GPUs; float weights may sum to a little less than 1
    return below.int().argmax(1)


def average(
    answers: Mapping[str, Tensor], instead: Mapping[str, Tensor], keep: Tensor, imputed: bool
) -> Tensor:
    """The rule: the mean of the answers of the modalities that `keep` leaves, so that nothing absent can matter.

    answers: {modality: (B, C)}; instead: {modality: (C,)}, which an absent modality adds. imputed: it then counts as
    present. keep: (B, M) bool gives (B, C); (B, S, M), of S patterns, gives (B, S, C). Of nothing it is the sum of instead.
    """
    parts = []
    for i, (m, answer) in enumerate(sorted(answers.items())):
        of_patterns = answer.reshape(len(answer), *[1] * (keep.ndim - 2), -1)
        parts.append(of_patterns.where(keep[..., i, None], instead[m]))
    count = len(answers) if imputed else keep.sum(-1, keepdim=True).clamp(min=1)
    return sum(parts[1:], parts[0]) / count


def asked(text: str, modalities: Sequence[str], where: str) -> Missing:
    """What `text` takes away. UserError for an unknown modality, or where nothing would be left."""
    sets = alternatives(text)
    for name in (name for one in sets for name in one):
        if name not in modalities:
            raise unknown("modality", name, modalities, where)
    if any(set(one) == set(modalities) for one in sets):
        raise UserError(
            "nothing is left to predict from", f"{where} {text}", "Leave one out.", usage=True
        )
    return sets


def written(missing: Missing) -> str:
    """As `contracts.alternatives` reads it. "audio|image" is what papers call missing both (or either), "audio" their missing
    audio only."""
    return "|".join(joined(one) for one in missing)


def settings(modalities: Sequence[str]) -> list[Missing]:
    """Everything that an evaluation takes away: each missing set, and one modality of all."""
    names = sorted(modalities)
    found: list[Missing] = [(one,) for one in missing_sets(names)]
    return [*found, tuple((m,) for m in names)] if found else []


def drawn(numbers: np.ndarray, seed: int, number: int, sets: int) -> tuple[np.ndarray, np.ndarray]:
    """((N,) float, (N,) int): a sample is lost at every ratio above its number, and then loses set so and so of `sets`.

    From `seeds.hashes` of the sample keys, so the same on every machine and in any order; a higher ratio takes more
    samples, never others.
    """
    which = unit(mixed(numbers, seed, "missing", number, "which"))
    return unit(mixed(numbers, seed, "missing", number)), (which * sets).astype(np.int64)


def lost(keys: Sequence[str], seed: int, train: Mapping[str, float]) -> dict[str, np.ndarray]:
    """{modality: (N,) bool}: the training samples that lose it, where `train` takes {what: from this share of them}.

    By a hash of the sample key, independently for each entry, and before anything is decoded: pretraining and
    fine-tuning see the same absences.
    """
    numbers = hashes(keys)
    gone: dict[str, np.ndarray] = {}
    for text, ratio in train.items():
        sets = alternatives(text)
        name = written(sets)
        away = unit(mixed(numbers, seed, "missing.train", name)) < ratio
        which = (unit(mixed(numbers, seed, "missing.train", name, "which")) * len(sets)).astype(
            np.int64
        )
        for i, one in enumerate(sets):
            for m in one:
                gone[m] = gone.get(m, False) | (away & (which == i))
    return gone

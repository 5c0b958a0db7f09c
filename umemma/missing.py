"""Absence: what may be missing, which samples lose it, and how an absent modality is represented.

A modality of a sample is absent for one of three reasons. The model treats them alike.

    in the data     the sample came without it, or its medium cannot be read: `present` (B, M)
    in training     UME-MMA shows the model every pattern, or one drawn per sample:
                    `weigh_patterns`, `draw_patterns`; a missing ratio in the settings removes it
                    from a share of the samples before training: `draw_training_absences`
    in evaluation   the grid removes it from a share of the samples: `draw_test_absences`

A pattern is a non-empty set of modalities that remain. keep (B, M) is True where a modality is both
present in the data and part of the pattern.

An absent input enters no encoder, so it cannot change any number. In its place the head of the
modality gets one of the following, as the setting `finetune.absent` says, and the ensemble
averages the logits of the heads (`average_present`). The fusions of the field have rules of their
own (umemma/models/fusions.py).

    zero      nothing; the mean is over the present modalities
    learned   a trained feature vector, without the bias of the head; it is added to the sum of the
              present modalities, and the divisor stays their number
    blank     the features of a blank input (a black image, silence, an empty text); the modality
              counts as present

This module does not import torch. Tensors come in and go out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from umemma.errors import UserError, unknown_name
from umemma.system.seeds import hash_keys, mix, to_unit
from umemma.types import format_pattern, parse_alternatives

if TYPE_CHECKING:
    from torch import Tensor

Pattern = tuple[str, ...]  # modalities, sorted
Missing = tuple[Pattern, ...]  # alternative sets of modalities; a sample loses one of them

MANY = 4  # from more modalities on, evaluations and reports select among the patterns
PATTERN_WEIGHTS = "finetune.pattern_weights"


# Patterns. ----------------------------------------------------------------------------------------


def list_patterns(modalities: Sequence[str]) -> list[Pattern]:
    """Return every non-empty subset, the complete one first, then by decreasing size and name."""
    names = sorted(modalities)
    patterns: list[Pattern] = []
    for size in range(len(names), 0, -1):
        patterns.extend(combinations(names, size))
    return patterns


def list_shown_patterns(modalities: Sequence[str]) -> list[Pattern]:
    """Return the patterns that tables have room for, in the order of `list_patterns`.

    Of more than `MANY` modalities they are the complete one, those without one modality, and each
    modality alone; of fewer, all.
    """
    count = len(modalities)
    patterns = list_patterns(modalities)
    if count <= MANY:
        return patterns
    return [pattern for pattern in patterns if len(pattern) in (1, count - 1, count)]


def list_missing_sets(modalities: Sequence[str]) -> list[Pattern]:
    """Return every set of modalities that can be removed so that one remains, smallest first."""
    names = sorted(modalities)
    missing_sets: list[Pattern] = []
    for size in range(1, len(names)):
        missing_sets.extend(combinations(names, size))
    return missing_sets


def make_keep_table(modalities: Sequence[str]) -> np.ndarray:
    """Return (S, M) bool: row s holds the modalities of the s-th pattern of `list_patterns`."""
    names = sorted(modalities)
    rows = []
    for pattern in list_patterns(names):
        rows.append([name in pattern for name in names])
    return np.array(rows)


def normalize_pattern_weights(
    modalities: Sequence[str],
    given: Mapping[str, float] | None,
) -> np.ndarray:
    """Return (S,) weights of the patterns, which sum to 1.

    given: {pattern: weight}, such as {"audio+image": 2}. A pattern without an entry has weight 0.
        None weighs all patterns alike.
    """
    names = [format_pattern(pattern) for pattern in list_patterns(modalities)]
    if given is None:
        return np.full(len(names), 1 / len(names))
    weights = {}
    for name, weight in given.items():
        pattern_name = format_pattern(name.split("+"))
        if pattern_name not in names:
            raise unknown_name("modality subset", name, names, PATTERN_WEIGHTS)
        weights[pattern_name] = weight
    total = sum(weights.values())
    if not total:
        raise UserError(
            "all weights are 0",
            PATTERN_WEIGHTS,
            "Give at least one subset a weight above 0.",
            usage=True,
        )
    return np.array([weights.get(name, 0.0) / total for name in names])


# What an absent modality becomes. -----------------------------------------------------------------


def average_present(
    logits: Mapping[str, Tensor],
    replacements: Mapping[str, Tensor],
    keep: Tensor,
    imputed: bool,
) -> Tensor:
    """Return the mean of the logits of the kept modalities, with replacements for the absent ones.

    What a modality that is not kept holds in `logits`, NaN included, has no influence.

    logits: {modality: (B, C)}.
    replacements: {modality: (C,)}, which an absent modality adds to the sum.
    keep: (B, M) bool gives (B, C). (B, S, M), of S patterns, gives (B, S, C). Where nothing is
        kept, the result is the sum of the replacements.
    imputed: an absent modality counts as present, so the divisor is M.
    """
    parts = []
    for i, (m, modality_logits) in enumerate(sorted(logits.items())):
        pattern_dims = [1] * (keep.ndim - 2)
        # Not len(), which an export to ONNX would take for a constant.
        of_patterns = modality_logits.reshape(modality_logits.shape[0], *pattern_dims, -1)
        parts.append(of_patterns.where(keep[..., i, None], replacements[m]))
    total = sum(parts[1:], parts[0])
    if imputed:
        return total / len(logits)
    return total / keep.sum(-1, keepdim=True).clamp(min=1)


# Training. ----------------------------------------------------------------------------------------


def weigh_patterns(present: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    """Return (B, S): the weight of each pattern for each sample. A row sums to 1.

    A pattern that leaves nothing of a sample weighs 0, and the others keep their proportions. A
    sample of which every weighted pattern leaves nothing is trained with all that it has (column
    0, the complete pattern).

    present: (B, M) bool; table: (S, M) bool; weights: (S,).
    """
    pattern_leaves_some = (present[:, None, :] & table).any(-1)
    sample_weights = pattern_leaves_some * weights
    has_pattern = sample_weights.sum(1) > 0
    sample_weights[:, 0] = sample_weights[:, 0].where(has_pattern, 1.0)
    return sample_weights / sample_weights.sum(1, keepdim=True)


def draw_patterns(weights: Tensor, numbers: Tensor) -> Tensor:
    """Return (B,): the index of the pattern drawn for each sample.

    weights: (B, S); numbers: (B,) in [0, 1).
    """
    # A matrix product, because cumsum is not deterministic on GPUs.
    ones = weights.new_ones(weights.shape[1], weights.shape[1])
    cumulative = weights.double() @ ones.double().triu()
    # Weights in float32 may sum to slightly less than 1.
    is_below = numbers[:, None] < cumulative * (1 + 1e-6)
    return is_below.int().argmax(1)


def draw_training_absences(
    keys: Sequence[str],
    seed: int,
    train: Mapping[str, float],
) -> dict[str, np.ndarray]:
    """Return {modality: (N,) bool}: the samples that lose it.

    The draw is a hash of the sample key, independent for each entry of `train`, and is made before
    any sample is decoded. So pretraining and fine-tuning see the same absences.

    train: {what is removed, such as "audio" or "audio|image": missing ratio}.
    """
    numbers = hash_keys(keys)
    absences: dict[str, np.ndarray] = {}
    for text, ratio in train.items():
        sets = parse_alternatives(text)
        name = format_missing(sets)
        loses_one = to_unit(mix(numbers, seed, "missing.train", name)) < ratio
        unit = to_unit(mix(numbers, seed, "missing.train", name, "which"))
        set_index = (unit * len(sets)).astype(np.int64)
        for i, missing_set in enumerate(sets):
            loses_this = loses_one & (set_index == i)
            for m in missing_set:
                absences[m] = absences.get(m, False) | loses_this
    return absences


# Evaluation. --------------------------------------------------------------------------------------


def list_conditions(modalities: Sequence[str]) -> list[Missing]:
    """Return all that an evaluation removes: each missing set, and then one modality of all.

    Of more than `MANY` modalities the missing sets are each modality, and all but each one.
    """
    names = sorted(modalities)
    missing_sets = list_missing_sets(names)
    if not missing_sets:
        return []
    if len(names) > MANY:
        missing_sets = [taken for taken in missing_sets if len(taken) in (1, len(names) - 1)]
    conditions: list[Missing] = [(missing_set,) for missing_set in missing_sets]
    conditions.append(tuple((m,) for m in names))
    return conditions


def draw_test_absences(
    numbers: np.ndarray,
    seed: int,
    number: int,
    sets: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ((N,) float, (N,) int) of a draw.

    Per sample: the missing ratio above which it loses a modality, and the index of the set it
    loses. The same samples are drawn on every machine and in any order. A higher ratio removes
    from more samples, and from all those of a lower one.

    numbers: `hash_keys` of the sample keys.
    number: the number of the draw.
    sets: how many missing sets there are.
    """
    thresholds = to_unit(mix(numbers, seed, "missing", number))
    unit = to_unit(mix(numbers, seed, "missing", number, "which"))
    return thresholds, (unit * sets).astype(np.int64)


# Text. --------------------------------------------------------------------------------------------


def parse_missing(text: str, modalities: Sequence[str], where: str) -> Missing:
    """Return the sets of modalities that `text` removes, such as "audio+image" or "audio|image".

    Raises UserError for an unknown modality, and where no modality would remain.
    """
    sets = parse_alternatives(text)
    for missing_set in sets:
        for name in missing_set:
            if name not in modalities:
                raise unknown_name("modality", name, modalities, where)
    for missing_set in sets:
        if set(missing_set) == set(modalities):
            raise UserError(
                "nothing is left to predict from",
                f"{where} {text}",
                "Leave one modality out.",
                usage=True,
            )
    return sets


def format_missing(missing: Missing) -> str:
    """Return the text that `umemma.types.parse_alternatives` reads.

    "audio|image" is the condition that papers call "missing both" (or "either"), "audio" the one
    that they call "missing audio only".
    """
    return "|".join(format_pattern(missing_set) for missing_set in missing)

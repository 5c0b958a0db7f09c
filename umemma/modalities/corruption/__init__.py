"""Corruption of media in five severities, to measure what noise, blur, cover and gaps cost a model.

Each kind of modality has a module here that defines these names:

KINDS
    {name of a corruption: its `Grades`}.
decode(data, spec, kind, level, number) -> Tensor
    Decodes a tar member, as `decode` of the modality does, with a corruption of this level.
    number: (1,) uint64, from which everything random is drawn.

What is random belongs to the key of the sample, the modality and the corruption, and not to the
severity: a stronger noise is the same noise with a larger factor, and a longer burst contains the
shorter one. So a curve over severities compares like with like, in any batch and order.

Five severities are those of Hendrycks & Dietterich, Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations, ICLR 2019, arXiv 1903.12261 (ImageNet-C).
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from umemma.errors import UserError, unknown_name
from umemma.modalities import find_kind
from umemma.modalities.corruption.grades import Grades
from umemma.system.seeds import hash_keys, mix
from umemma.types import InputSpec

if TYPE_CHECKING:
    import torch

SEVERITIES = (1, 2, 3, 4, 5)
MODULES = {
    "audio": "umemma.modalities.corruption.sound",
    "image": "umemma.modalities.corruption.pictures",
    "spectrogram": "umemma.modalities.corruption.pictures",
    "series": "umemma.modalities.corruption.time_series",
    "table": "umemma.modalities.corruption.cells",
    "text": "umemma.modalities.corruption.words",
    "vector": "umemma.modalities.corruption.numbers",
    "video": "umemma.modalities.corruption.clips",
}
HINT = "docs/evaluation.md#graded-corruption lists the corruptions of each kind of modality."


class Corruption(NamedTuple):
    """A corruption of a modality, such as "noise", with a severity of 1 to 5."""

    modality: str
    kind: str
    severity: int
    seed: int


def decode(data: bytes, spec: InputSpec, corruption: Corruption, key: str) -> torch.Tensor:
    """Return the decoded medium of a sample, corrupted. Raises ValueError as `decode` does."""
    module = _find_module(find_kind(spec))
    level = module.KINDS[corruption.kind].levels[corruption.severity - 1]
    stream = ("corrupt", corruption.modality, corruption.kind)
    number = mix(hash_keys([key]), corruption.seed, *stream)
    corrupted: torch.Tensor = module.decode(data, spec, corruption.kind, level, number)
    return corrupted


def describe_level(modality_kind: str, corruption: str, severity: int) -> str:
    """Return the level of a severity: "10 dB"."""
    grades: Grades = _find_module(modality_kind).KINDS[corruption]
    return grades.shown.format(grades.levels[severity - 1])


def describe_measure(modality_kind: str, corruption: str) -> str:
    """Return what the levels of a corruption are: "signal-to-noise ratio"."""
    grades: Grades = _find_module(modality_kind).KINDS[corruption]
    return grades.measure


def list_corruptions(modality_kind: str) -> tuple[str, ...]:
    """Return the corruptions of a kind of modality, () for one that the user wrote."""
    if modality_kind not in MODULES:
        return ()
    return tuple(_find_module(modality_kind).KINDS)


def select_corruptions(
    modalities: Mapping[str, str], names: Collection[str], corruptions: Collection[str]
) -> list[tuple[str, str]]:
    """Return the pairs (modality, corruption) that are meant.

    modalities: {name: kind}; names, corruptions: those that the user chose, all where empty.
    UserError for what is unknown, and for a choice that fits nothing.
    """
    every = {corruption for kind in MODULES for corruption in list_corruptions(kind)}
    for name in names:
        if name not in modalities:
            raise unknown_name("modality", name, modalities, "--modality")
        if not list_corruptions(modalities[name]):
            what = f"{name} is of a kind that has no corruption, {modalities[name]}"
            raise UserError(what, "--modality", HINT, usage=True)
    for corruption in corruptions:
        if corruption not in every:
            raise unknown_name("corruption", corruption, sorted(every), "--kind")
    pairs = []
    for name, kind in sorted(modalities.items()):
        for corruption in list_corruptions(kind):
            if (not names or name in names) and (not corruptions or corruption in corruptions):
                pairs.append((name, corruption))
    _check_all_fit(pairs, names or modalities, names, corruptions, modalities)
    return pairs


def _check_all_fit(
    pairs: Collection[tuple[str, str]],
    searched: Collection[str],
    names: Collection[str],
    corruptions: Collection[str],
    modalities: Mapping[str, str],
) -> None:
    """UserError for a modality or a corruption that was chosen and is in no pair."""
    for corruption in corruptions:
        if corruption not in {pair[1] for pair in pairs}:
            raise _refuse(corruption, sorted(searched), modalities)
    for name in names:
        if name not in {pair[0] for pair in pairs}:
            raise _refuse(" and ".join(sorted(corruptions)), [name], modalities)
    if not pairs:
        raise UserError("no modality has a corruption", "modalities", HINT, usage=True)


def _refuse(corruption: str, names: Collection[str], modalities: Mapping[str, str]) -> UserError:
    lines = []
    for name in names:
        known = ", ".join(list_corruptions(modalities[name])) or "none"
        lines.append(f"{name} has {known}")
    what = f"{corruption} is no corruption of {', '.join(names)}"
    return UserError(what, "--kind", f"{'; '.join(lines)}.", usage=True)


def _find_module(modality_kind: str) -> ModuleType:
    return importlib.import_module(MODULES[modality_kind])

"""The list of encoders that `umemma encoders` prints."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from umemma.encoders import EXAMPLES, FAMILIES
from umemma.errors import UserError
from umemma.system.http import NotServed
from umemma.types import (
    AudioInput,
    ImageInput,
    InputSpec,
    SeriesInput,
    TableInput,
    TextInput,
    VectorInput,
    VideoInput,
    WaveInput,
)

MAX_ROWS = 40
KINDS = ("image", "text", "audio", "vector", "table", "series", "video")


class Row(NamedTuple):
    """An encoder in the list.

    width: D, 0 for that of the input. input: what it takes, in short. weights: where they are, or
    how to get them.
    """

    name: str
    modalities: str
    width: int
    input: str
    weights: str


def list_encoders(pattern: str = "", modality: str = "") -> tuple[list[Row], list[str]]:
    """Return the encoders whose names match `pattern` and which serve `modality`, and notes.

    The pattern is like that of file names. There are at most MAX_ROWS rows. Without a pattern the
    large families are a note each. UserError where nothing matches.
    """
    if pattern and ":" not in pattern:
        pattern = f"{pattern}:*" if pattern in FAMILIES else f"*:{pattern}"
    matches: list[tuple[str, str]] = []
    notes: list[str] = []
    for family, module in _match_families(pattern, modality):
        variant = pattern.partition(":")[2]
        if module.names() is None and variant and not _is_wildcard(pattern):
            matches.append((family, variant))
            continue
        variants = _list_variants(module, pattern)
        if _is_note(family, pattern, variants):
            notes.append(_describe_family(family, module, variants))
            continue
        for variant in variants:
            if fnmatch.fnmatchcase(f"{family}:{variant}", pattern or "*"):
                matches.append((family, variant))
    if not matches and not notes:
        hint = "Without a pattern it lists the families."
        raise UserError(f"no encoder matches {pattern!r}", "umemma encoders", hint, usage=True)
    if len(matches) > MAX_ROWS:
        notes.append(f"{len(matches) - MAX_ROWS:,} more match; a longer pattern shows them.")
    rows = [_make_row(family, variant) for family, variant in matches[:MAX_ROWS]]
    return rows, notes


def _match_families(pattern: str, modality: str) -> Iterator[tuple[str, ModuleType]]:
    family_pattern = pattern.partition(":")[0] or "*"
    for family, path in FAMILIES.items():
        if not fnmatch.fnmatchcase(family, family_pattern):
            continue
        module = importlib.import_module(path)
        if not modality or modality in module.MODALITIES:
            yield family, module


def _list_variants(module: ModuleType, pattern: str) -> list[str]:
    """Return the variants; those with a tag only where the pattern has one.

    A tag, after "@" or ".", tells sets of weights of the same model apart.
    """
    with_tags = _has_tag(pattern)
    return [variant for variant in module.names() or () if with_tags or not _has_tag(variant)]


def _is_wildcard(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


def _has_tag(name: str) -> bool:
    return "@" in name or "." in name


def _is_note(family: str, pattern: str, variants: list[str]) -> bool:
    """Whether a family is one line: a large one that the pattern does not search."""
    if family not in EXAMPLES:
        return False
    is_named = pattern.partition(":")[0] == family
    return not pattern or (is_named and not variants)


def _describe_family(family: str, module: ModuleType, variants: list[str]) -> str:
    count = f"{len(variants):,} models" if variants else "any"
    return f"{family}: {count}, for {', '.join(module.MODALITIES)}; such as {EXAMPLES[family]}."


def _make_row(family: str, variant: str) -> Row:
    module = importlib.import_module(FAMILIES[family])
    return Row(
        f"{family}:{variant}",
        ", ".join(module.MODALITIES),
        module.width(variant),
        _describe_input(_find_input(module, variant)),
        _describe_weights(module, family, variant),
    )


def _find_input(module: ModuleType, variant: str) -> InputSpec:
    """Return the input for the first modality that the encoder serves."""
    modalities = [m for m in KINDS if m in module.MODALITIES]
    for modality in modalities[:-1]:
        # An encoder of a user serves one kind of input out of all.
        with contextlib.suppress(UserError):
            spec: InputSpec = module.input_spec(variant, modality)
            return spec
    spec = module.input_spec(variant, modalities[-1])
    return spec


def _describe_input(spec: InputSpec) -> str:
    match spec:
        case ImageInput() | VideoInput():
            return f"{spec.size} px"
        case TextInput():
            return f"{spec.length} tokens"
        case AudioInput() | WaveInput():
            return f"{spec.sample_rate} Hz"
        case VectorInput():
            return "numbers"
        case TableInput():
            return "cells"
        case SeriesInput():
            return "channels, steps"


def _describe_weights(module: ModuleType, family: str, variant: str) -> str:
    from umemma.encoders.weights import find_cached, find_placed

    try:
        path = find_placed(f"{family}:{variant}")
        if path is None and module.PRETRAINED:
            path = find_cached(module.source(variant))
    except NotServed as error:
        return f"no: {error}"
    except UserError as error:  # a model of open_clip without the name of its weights
        return f"no: {error.what}"
    if path:
        return f"yes: {path}"
    if module.PRETRAINED:
        return "downloads"
    return "none needed"

"""The list of encoders that `umemma encoders` prints."""

from __future__ import annotations

import fnmatch
import importlib
from typing import NamedTuple

from umemma.encoders import EXAMPLES, FAMILIES
from umemma.errors import UserError
from umemma.system.http import NotServed
from umemma.types import ImageInput

MOST_ROWS = 40


class Row(NamedTuple):
    """An encoder in the listing. width: D; input: in short; weights: where they are, or how they come."""

    name: str
    modalities: str
    width: int
    input: str
    weights: str


def list_encoders(pattern: str = "", modality: str = "") -> tuple[list[Row], list[str]]:
    """The encoders whose names match `pattern` (as file names do) and serve `modality`, at most MOST_ROWS, and notes.

    Without a pattern the large families are a note each. UserError where nothing matches.
    """
    if pattern and ":" not in pattern:
        pattern = f"{pattern}:*" if pattern in FAMILIES else f"*:{pattern}"
    asked = pattern.partition(":")[0]
    tagged = (
        "@" in pattern or "." in pattern
    )  # a tag tells one set of weights from another of the same model
    found, notes = [], []
    for family, path in FAMILIES.items():
        module = importlib.import_module(path)
        if not fnmatch.fnmatchcase(family, asked or "*") or (
            modality and modality not in module.MODALITIES
        ):
            continue
        names = [one for one in module.names() or () if tagged or not ("@" in one or "." in one)]
        if family in EXAMPLES and (not pattern or (not names and asked == family)):
            many = f"{len(names):,} models" if names else "any"
            notes.append(
                f"{family}: {many}, for {', '.join(module.MODALITIES)}; such as {EXAMPLES[family]}."
            )
        else:
            found += [
                (family, one)
                for one in names
                if fnmatch.fnmatchcase(f"{family}:{one}", pattern or "*")
            ]
    if not found and not notes:
        raise UserError(
            f"no encoder matches {pattern!r}",
            "umemma encoders",
            "Without a pattern it lists the families.",
            usage=True,
        )
    if len(found) > MOST_ROWS:
        notes.append(f"{len(found) - MOST_ROWS:,} more match; a longer pattern shows them.")
    return [_row(family, variant) for family, variant in found[:MOST_ROWS]], notes


def _row(family: str, variant: str) -> Row:
    from umemma.encoders.weights import cached, placed

    module, name = importlib.import_module(FAMILIES[family]), f"{family}:{variant}"
    first = module.input_spec(
        variant, next(m for m in ("image", "text", "audio") if m in module.MODALITIES)
    )
    shape = f"{first.size} px" if isinstance(first, ImageInput) else ""
    shape = shape or (
        f"{first.length} tokens" if hasattr(first, "length") else f"{first.sample_rate} Hz"
    )
    try:
        at_hand = placed(name) or (cached(module.source(variant)) if module.PRETRAINED else None)
        weights = (
            f"yes: {at_hand}" if at_hand else "downloads" if module.PRETRAINED else "none needed"
        )
    except NotServed as error:
        weights = f"no: {error}"
    except UserError as error:  # a model of open_clip without its weights
        weights = f"no: {error.what}"
    return Row(name, ", ".join(module.MODALITIES), module.width(variant), shape, weights)

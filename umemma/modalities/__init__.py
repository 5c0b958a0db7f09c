"""The modalities. Each is a module with

SUFFIX                           the tar member's file name after the modality's: `key.image.png`
pack(media) -> bytes             encoded, encoder-neutral, byte-stable; ValueError for media that can't be read
decode(data, spec) -> Tensor     what the encoder asked for in its InputSpec; ValueError likewise
blank(spec) -> Tensor            what "nothing there" looks like: a black picture, silence
"""

from __future__ import annotations

import importlib
from types import ModuleType

from umemma.errors import unknown

NAMES = {"audio": "umemma.modalities.audio", "image": "umemma.modalities.image"}


def get(name: str) -> ModuleType:
    """The module of a modality. UserError for an unknown name."""
    if name not in NAMES:
        raise unknown("modality", name, NAMES)
    return importlib.import_module(NAMES[name])

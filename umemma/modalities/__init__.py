"""The modalities. Each is a module with

SUFFIXES                                    file names of its tar member: `key.image.jpg`, `key.image.png`
pack(media, packing) -> Packed | None       encoded, encoder-neutral, byte-stable; None = nothing there (an empty text, a
                                            silent sound); ValueError, a fixed phrase, for media that can't be read
decode(data, spec) -> Tensor                compact: uint8 pixels, float32 sound, int64 tokens; ValueError likewise
blank(spec) -> Tensor                       what "nothing there" looks like, compact: black, silence, the empty text
finish(x, spec) -> Tensor                   a compact batch (B, ...) -> what the encoder asked for in its InputSpec
recipe(spec, packing) -> dict               how a file becomes the same without umemma, as JSON: numbers, then `steps` in words
Augment                                     how samples of it are changed in training; by default not at all
check(options, spec)                        UserError for an option that the input has no use for
draw(options, numbers, spec) -> Drawn       chance first: what is done to each of B samples, from its own number, (B,) uint64
augment(x, spec, options, drawn) -> Tensor  then a pure function of a compact batch on any device, for `finish`

A batch is augmented exactly as its items one by one. What is off is neither drawn nor done: all off gives x itself.
Packing never imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

from umemma.contracts import Clip, Media, Packing
from umemma.errors import unknown

NAMES = {
    "audio": "umemma.modalities.audio",
    "image": "umemma.modalities.image",
    "spectrogram": "umemma.modalities.image",  # ready-made, as AV-MNIST distributes it
    "text": "umemma.modalities.text",
    "video": "umemma.modalities.video",
}


def get(name: str) -> ModuleType:
    """The module of a modality. UserError for an unknown name."""
    if name not in NAMES:
        raise unknown("modality", name, NAMES)
    return importlib.import_module(NAMES[name])


def pack(media: Mapping[str, Media], packing: Packing) -> dict[str, bytes]:
    """{"audio.flac": ..., "video.mjpeg": ...}: the tar members of one sample, without the modalities that aren't there.

    Modalities that name the same clip share one decoding pass. ValueError, a fixed phrase, for media that can't be read.
    """
    given = {name: one() if callable(one) else one for name, one in sorted(media.items())}
    members = {}
    for name in given:
        one: Media | None = given[name]
        if isinstance(one, Clip):
            from umemma.modalities import clips

            wanted = [other for other, its in given.items() if isinstance(its, Clip) and its == one]
            if wanted[0] == name:
                stretch = clips.read(one, packing, pictures="video" in wanted, sound="audio" in wanted)
            one = stretch.frames if name == "video" else stretch.sound
        packed = None if one is None else get(name).pack(one, packing)
        if packed is not None:
            members[f"{name}.{packed.suffix}"] = packed.data
    return members

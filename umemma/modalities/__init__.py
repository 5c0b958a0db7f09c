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

import contextlib
import importlib
from collections.abc import Mapping
from types import ModuleType

from umemma.errors import unknown_name
from umemma.types import Clip, Media, Packing, Unreadable

NAMES = {
    "audio": "umemma.modalities.audio",
    "image": "umemma.modalities.image",
    "spectrogram": "umemma.modalities.image",  # ready-made, as AV-MNIST distributes it
    "text": "umemma.modalities.text",
    "video": "umemma.modalities.video",
}


def get_module(name: str) -> ModuleType:
    """The module of a modality. UserError for an unknown name."""
    if name not in NAMES:
        raise unknown_name("modality", name, NAMES)
    return importlib.import_module(NAMES[name])


def pack(media: Mapping[str, Media], packing: Packing) -> dict[str, bytes]:
    """Return the tar members of one sample as `pack_readable` does; ValueError where a medium can't be read."""
    members, broken = pack_readable(media, packing)
    for reason in broken.values():
        raise ValueError(reason)
    return members


def pack_readable(
    media: Mapping[str, Media], packing: Packing
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the tar members of one sample and why a modality's medium can't be read, a fixed phrase:
    ({"audio.flac": ..., "video.mjpeg": ...}, {"image": "file is missing"}). A modality in neither isn't there.

    Sound and pictures of the same clip share one decoding pass.
    """
    given: dict[str, Media | None] = {}
    members: dict[str, bytes] = {}
    broken: dict[str, str] = {}
    for name, one in media.items():
        try:
            given[name] = one() if callable(one) else one
        except ValueError as error:
            broken[name] = str(error)
    audio, video = given.get("audio"), given.get("video")
    if isinstance(audio, Clip) and isinstance(video, Clip) and audio == video:
        from umemma.modalities import av_decoder

        # One of the two may be whole: below, each is read by itself.
        with contextlib.suppress(ValueError):
            stretch = av_decoder.read(audio, packing, pictures=True, sound=True)
            given |= {"audio": stretch.sound, "video": stretch.frames}
    for name, medium in sorted(given.items()):
        try:
            if isinstance(medium, Unreadable):
                raise ValueError(medium.reason)
            packed = None if medium is None else get_module(name).pack(medium, packing)
        except ValueError as error:
            broken[name] = str(error)
            continue
        if packed is not None:
            members[f"{name}.{packed.suffix}"] = packed.data
    return members, dict(sorted(broken.items()))


def format_reasons(broken: Mapping[str, str]) -> tuple[str, ...]:
    """Return {"image": "file is missing"} as it is told: ("image: file is missing",), in the order of the modalities."""
    return tuple(f"{name}: {reason}" for name, reason in sorted(broken.items()))

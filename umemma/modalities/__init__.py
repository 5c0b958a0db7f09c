"""The modalities. Each one is a module that defines these names:

SUFFIXES
    The file names of its tar members: `key.image.jpg`, `key.image.png`.
pack(media, packing) -> Packed | None
    Encodes a medium for the shards, whatever the encoder, always to the same bytes. Returns None if
    there is nothing (an empty text, a silent sound). Raises ValueError with a fixed phrase if the
    medium cannot be read.
decode(data, spec) -> Tensor
    Decodes a tar member compactly: uint8 pixels, float32 sound, int64 tokens. Raises ValueError
    likewise.
make_blank(spec) -> Tensor
    Returns the input of an absent modality, compact: black, silence, the empty text.
finish(x, spec) -> Tensor
    Turns a compact batch (B, ...) into what the encoder expects by its InputSpec.
make_recipe(spec, packing) -> dict
    Describes how to prepare a file without umemma, as JSON: numbers, then `steps` in words.
Augment
    The settings of its augmentation in training. The defaults change nothing.
check(options, spec)
    Raises UserError for an augmentation that the input has no use for.
draw(options, numbers, spec) -> SampleDraws
    Draws the augmentation of B samples, each from its own number: numbers (B,) uint64.
augment(x, spec, options, drawn) -> Tensor
    Applies these draws to a compact batch, before `finish`: a pure function on any device.

Where to find what: `image` resizes and crops pictures, `av_decoder` resizes the frames of a video
and resamples sound while it decodes a clip, `audio` makes the log-mel spectrogram, `text` has the
tokenizers, `vision` and `spec_augment` have the augmentation of pictures and of spectrograms.

A batch is augmented exactly as its items are one by one. An augmentation that is off is neither
drawn nor applied: with all of them off, `augment` returns x itself. Packing never imports torch.
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
    "series": "umemma.modalities.series",
    "table": "umemma.modalities.table",
    "vector": "umemma.modalities.vector",
    "video": "umemma.modalities.video",
}


def get_module(name: str) -> ModuleType:
    """Return the module of a modality. Raises UserError for an unknown name."""
    if name not in NAMES:
        raise unknown_name("modality", name, NAMES)
    return importlib.import_module(NAMES[name])


def pack(media: Mapping[str, Media], packing: Packing) -> dict[str, bytes]:
    """Return the tar members of one sample. Raises ValueError if a medium cannot be read."""
    members, broken = pack_readable(media, packing)
    for reason in broken.values():
        raise ValueError(reason)
    return members


def pack_readable(
    media: Mapping[str, Media], packing: Packing
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the tar members of one sample, and why each unreadable medium cannot be read.

    For example ({"audio.flac": ..., "video.mjpeg": ...}, {"image": "file is missing"}); the
    reasons are fixed phrases. A modality that is in neither is absent.
    """
    broken: dict[str, str] = {}
    loaded = _call_functions(media, broken)
    _decode_shared_clip(loaded, packing)
    members: dict[str, bytes] = {}
    for name, medium in sorted(loaded.items()):
        if medium is None:  # the shared clip has no sound
            continue
        try:
            if isinstance(medium, Unreadable):
                raise ValueError(medium.reason)
            packed = get_module(name).pack(medium, packing)
        except ValueError as error:
            broken[name] = str(error)
            continue
        if packed is not None:
            members[f"{name}.{packed.suffix}"] = packed.data
    return members, dict(sorted(broken.items()))


def _call_functions(media: Mapping[str, Media], broken: dict[str, str]) -> dict[str, Media | None]:
    """Replace each medium that is a function by its result, or put the reason into `broken`."""
    loaded: dict[str, Media | None] = {}
    for name, medium in media.items():
        try:
            if callable(medium):
                loaded[name] = medium()
            else:
                loaded[name] = medium
        except ValueError as error:
            broken[name] = str(error)
    return loaded


def _decode_shared_clip(loaded: dict[str, Media | None], packing: Packing) -> None:
    """Decode a clip that is both audio and video in one pass, in place.

    If that fails, the clip stays: one of the two may be intact, so each is then read separately.
    """
    audio = loaded.get("audio")
    video = loaded.get("video")
    if isinstance(audio, Clip) and isinstance(video, Clip) and audio == video:
        from umemma.modalities import av_decoder

        with contextlib.suppress(ValueError):
            decoded = av_decoder.read_clip(audio, packing, pictures=True, sound=True)
            loaded["audio"] = decoded.sound
            loaded["video"] = decoded.frames


def format_reasons(broken: Mapping[str, str]) -> tuple[str, ...]:
    """Return {"image": "file is missing"} as ("image: file is missing",), sorted by modality."""
    return tuple(f"{name}: {reason}" for name, reason in sorted(broken.items()))

"""The kinds of modalities.

A modality has a name of the user's, such as "front", and a kind, such as "image"; where nothing
else is said, its name is its kind. Each kind is a module that defines these names:

SUFFIXES
    The suffixes of its tar members: `key.image.jpg`, `key.front.png`.
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

and, where what the encoder takes depends on the samples,

Survey(name)
    What the training samples of a modality say: `add(key, split, data)` takes every tar member,
    `find()` returns fields of the InputSpec as JSON, from the training split alone, `summarize()`
    lines for the log. `add` raises UserError for a sample of another shape.

`import:package.module` is a kind that the user wrote: such a module (docs/own-modality.md), which
also defines `Input`, its InputSpec. It may lack SUFFIXES, make_recipe and the augmentation.

Where to find what: `image` resizes and crops pictures, `av_decoder` resizes the frames of a video
and resamples sound while it decodes a clip, `audio` makes the log-mel spectrogram, `text` has the
tokenizers, `vision` and `spec_augment` have the augmentation of pictures and of spectrograms,
`vector` computes means and standard deviations, for `series` and `table` too, and `files` reads
clips and arrays and tells whether a file is whole.

A batch is augmented exactly as its items are one by one. An augmentation that is off is neither
drawn nor applied: with all of them off, `augment` returns x itself. Packing never imports torch.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
from collections.abc import Mapping
from types import ModuleType

from umemma.errors import UserError, unknown_name
from umemma.system.imports import import_user_module
from umemma.types import (
    NO_KINDS,
    OWN,
    AudioInput,
    Clip,
    ImageInput,
    InputSpec,
    Media,
    Packing,
    SeriesInput,
    TableInput,
    TextInput,
    Unreadable,
    VectorInput,
    VideoInput,
    WaveInput,
)

KINDS = {
    "audio": "umemma.modalities.audio",
    "image": "umemma.modalities.image",
    "spectrogram": "umemma.modalities.image",  # ready-made, as AV-MNIST distributes it
    "text": "umemma.modalities.text",
    "series": "umemma.modalities.series",
    "table": "umemma.modalities.table",
    "vector": "umemma.modalities.vector",
    "video": "umemma.modalities.video",
}
# The kind whose module decodes an input.
INPUTS: dict[type, str] = {
    AudioInput: "audio",
    ImageInput: "image",
    SeriesInput: "series",
    TableInput: "table",
    TextInput: "text",
    VectorInput: "vector",
    VideoInput: "video",
    WaveInput: "audio",
}
OWN_PARTS = ("Input", "pack", "decode", "make_blank", "finish")  # that a module of the user needs


def get_module(kind: str) -> ModuleType:
    """Return the module of a kind of modality. Raises UserError for an unknown one."""
    if kind.startswith(OWN):
        return _import_own(kind)
    if kind not in KINDS:
        raise unknown_name("kind of modality", kind, KINDS, "modalities")
    return importlib.import_module(KINDS[kind])


def find_module(spec: InputSpec) -> ModuleType:
    """Return the module that decodes the input of an encoder: `get_module` of its kind."""
    return get_module(find_kind(spec))


def find_kind(spec: InputSpec) -> str:
    """Return the kind whose module decodes an input; for a spectrogram that is "image"."""
    if type(spec) in INPUTS:
        return INPUTS[type(spec)]
    return f"{OWN}{type(spec).__module__}"  # it is defined beside the functions


def pack(
    media: Mapping[str, Media],
    packing: Packing,
    kinds: Mapping[str, str] = NO_KINDS,
) -> dict[str, bytes]:
    """Return the tar members of one sample. Raises ValueError if a medium cannot be read."""
    members, broken = pack_readable(media, packing, kinds)
    for reason in broken.values():
        raise ValueError(reason)
    return members


def pack_readable(
    media: Mapping[str, Media],
    packing: Packing,
    kinds: Mapping[str, str] = NO_KINDS,
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the tar members of one sample, and why each unreadable medium cannot be read.

    kinds: {modality: its kind} of those that are not named like their kind.

    For example ({"audio.flac": ..., "video.mjpeg": ...}, {"image": "file is missing"}); the
    reasons are fixed phrases. A modality that is in neither is absent.
    """
    broken: dict[str, str] = {}
    loaded = _call_functions(media, broken)
    _decode_shared_clips(loaded, packing, kinds)
    members: dict[str, bytes] = {}
    for name, medium in sorted(loaded.items()):
        if medium is None:  # the shared clip has no sound
            continue
        try:
            if isinstance(medium, Unreadable):
                raise ValueError(medium.reason)
            packed = get_module(kinds.get(name, name)).pack(medium, packing)
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


def find_shared_clips(
    media: Mapping[str, Media | None],
    kinds: Mapping[str, str],
) -> list[tuple[str, str]]:
    """Return the pairs (audio, video) of modalities that are the sound and the pictures of one
    clip."""
    clips = {name: medium for name, medium in media.items() if isinstance(medium, Clip)}
    of_kind: dict[str, list[str]] = {"audio": [], "video": []}
    for name in sorted(clips):
        of_kind.get(kinds.get(name, name), []).append(name)
    pairs: list[tuple[str, str]] = []
    for audio, video in itertools.product(of_kind["audio"], of_kind["video"]):
        is_taken = any(audio in pair or video in pair for pair in pairs)
        if clips[audio] == clips[video] and not is_taken:
            pairs.append((audio, video))
    return pairs


def _decode_shared_clips(
    loaded: dict[str, Media | None],
    packing: Packing,
    kinds: Mapping[str, str],
) -> None:
    """Decode each clip that is both audio and video in one pass, in place.

    If that fails, the clip stays: one of the two may be intact, so each is then read separately.
    """
    for audio, video in find_shared_clips(loaded, kinds):
        from umemma.modalities.files import av_decoder

        clip = loaded[audio]
        assert isinstance(clip, Clip)
        with contextlib.suppress(ValueError):
            decoded = av_decoder.read_clip(clip, packing, pictures=True, sound=True)
            loaded[audio] = decoded.sound
            loaded[video] = decoded.frames


def _import_own(kind: str) -> ModuleType:
    """Import the module of a modality that the user wrote. UserError for one that lacks a part."""
    path = kind.removeprefix(OWN)
    module = import_user_module(path, kind)
    missing = [part for part in OWN_PARTS if not hasattr(module, part)]
    if missing:
        raise UserError(
            f"lacks {', '.join(missing)}",
            kind,
            "docs/own-modality.md shows a whole one.",
            usage=True,
        )
    return module


def format_reasons(broken: Mapping[str, str]) -> tuple[str, ...]:
    """Return {"image": "file is missing"} as ("image: file is missing",), sorted by modality."""
    return tuple(f"{name}: {reason}" for name, reason in sorted(broken.items()))

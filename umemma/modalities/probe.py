"""A quick look at the media of one sample: what packing would say of them, at a fraction of its time.

A clip is read packet by packet, by the rule that packing has for files that were cut off, but not decoded; an image is
decoded; what is small is packed. Only packing itself finds a packet that is damaged inside, the silence of a clip with a
sound stream, and what is wrong with media that a function of the dataset makes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from umemma import modalities
from umemma.modalities import image
from umemma.modalities.limits import read_file
from umemma.types import Clip, Media, Packing, Unreadable

if TYPE_CHECKING:
    from umemma.modalities.av_decoder import Stretch

SOUNDLESS = "no sound stream, or none where the event is"
EMPTY = "nothing in it"


class Probe(NamedTuple):
    """broken: {modality whose medium can't be read: why, as packing would say}; absent: {modality with nothing there:
    SOUNDLESS or EMPTY}; unseen: modalities whose media a function makes, which isn't called here."""

    broken: dict[str, str]
    absent: dict[str, str]
    unseen: frozenset[str]


def probe(media: Mapping[str, Media], packing: Packing) -> Probe:
    """Look at every medium of a sample.

    For threads: reading an image changes the warning filters of the whole process, so start them inside of
    `warnings.catch_warnings` with everything ignored.
    """
    unseen = frozenset(name for name, one in media.items() if callable(one))
    broken: dict[str, str] = {}
    absent: dict[str, str] = {}
    both = None
    audio, video = media.get("audio"), media.get("video")
    if isinstance(audio, Clip) and isinstance(video, Clip) and audio == video:
        with contextlib.suppress(ValueError):  # as in packing, each is looked at by itself then
            both = _look(audio, packing, {"audio", "video"})
    for name in sorted(media.keys() - unseen):
        try:
            why = _why_absent(name, media[name], packing, both)
        except ValueError as error:
            broken[name] = str(error)
        else:
            absent |= {name: why} if why else {}
    return Probe(broken, absent, unseen)


def _why_absent(name: str, one: Media, packing: Packing, both: Stretch | None) -> str:
    """SOUNDLESS, EMPTY or, for what is there, "". both: of a clip that sound and pictures share. ValueError as packing's."""
    kind = modalities.get(name)
    if isinstance(one, Unreadable):
        raise ValueError(one.reason)
    if both and name in ("audio", "video"):
        stretch = both
    elif name in ("audio", "video") and isinstance(one, Clip):
        stretch = _look(one, packing, {name})
    elif name == "video" and isinstance(one, Path):
        stretch = _look(Clip(one), packing, {name})
    elif name == "audio" and isinstance(one, (Path, bytes)) and _read(one)[:4] != b"fLaC":
        stretch = _look(Clip(one) if isinstance(one, Path) else one, packing, {name})
    elif kind is image and isinstance(one, (Path, bytes)):
        image._open(_read(one), packing.side)
        return ""
    else:
        return "" if kind.pack(one, packing) else EMPTY
    if name == "video":
        return "" if stretch.frames is not None else EMPTY
    return "" if stretch.sound is not None else SOUNDLESS


def _look(clip: Clip | bytes, packing: Packing, wanted: set[str]) -> Stretch:
    from umemma.modalities import av_decoder

    return av_decoder.read(
        clip, packing, pictures="video" in wanted, sound="audio" in wanted, decode=False
    )


def _read(one: Path | bytes) -> bytes:
    return read_file(one) if isinstance(one, Path) else one

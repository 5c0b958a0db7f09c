"""A quick look at the media of one sample: what packing would say of them, at a fraction of its time.

A clip is read packet by packet, by the rule that packing has for files that were cut off, but not decoded; an image is
decoded; what is small is packed. Only packing itself finds a packet that is damaged inside, the silence of a clip with a
sound stream, and what is wrong with media that a function of the dataset makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from umemma import modalities
from umemma.contracts import Clip, Media, Packing
from umemma.modalities import image
from umemma.modalities.packed import read_file

if TYPE_CHECKING:
    from umemma.modalities.clips import Stretch

SOUNDLESS = "no sound stream, or none where the event is"
EMPTY = "nothing in it"


class Probe(NamedTuple):
    """problem: what packing would say, "" for nothing, and `at` the modality that it is about.

    absent: {modality with nothing there: SOUNDLESS or EMPTY}; unseen: modalities whose media a function makes, which
    isn't called here.
    """

    problem: str
    at: str
    absent: dict[str, str]
    unseen: frozenset[str]


def probe(media: Mapping[str, Media], packing: Packing) -> Probe:
    """Goes in the order of packing and, like it, stops at the first problem.

    For threads: reading an image changes the warning filters of the whole process, so start them inside of
    `warnings.catch_warnings` with everything ignored.
    """
    unseen = frozenset(name for name, one in media.items() if callable(one))
    clips: dict[Clip, Stretch] = {}
    absent: dict[str, str] = {}
    for name in sorted(media.keys() - unseen):
        try:
            why = _why_absent(name, media, packing, clips)
        except ValueError as error:
            return Probe(str(error), name, absent, unseen)
        if why:
            absent[name] = why
    return Probe("", "", absent, unseen)


def _why_absent(name: str, media: Mapping[str, Media], packing: Packing, clips: dict[Clip, Stretch]) -> str:
    """SOUNDLESS, EMPTY or, for what is there, "". `clips` keeps what several modalities share. ValueError as packing's."""
    kind, one = modalities.get(name), media[name]
    if isinstance(one, Clip):
        if one not in clips:
            clips[one] = _look(one, packing, {other for other in media if _same(media[other], one)})
        stretch = clips[one]
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
    from umemma.modalities import clips

    return clips.read(clip, packing, pictures="video" in wanted, sound="audio" in wanted, decode=False)


def _same(one: Media, clip: Clip) -> bool:
    return isinstance(one, Clip) and one == clip  # an array compares element by element


def _read(one: Path | bytes) -> bytes:
    return read_file(one) if isinstance(one, Path) else one

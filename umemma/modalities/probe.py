"""A quick check of the media of one sample: what packing would report, in a fraction of its time.

A clip is read packet by packet, with the rule that packing has for truncated files, but it is not
decoded; an image is decoded; what is small is packed. Only packing itself finds a packet that is
damaged inside, the silence of a clip with a sound stream, and problems of media that a function of
the dataset makes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from umemma import modalities
from umemma.modalities import image
from umemma.modalities.limits import read_file
from umemma.types import NO_KINDS, Clip, Media, Packing, Unreadable

if TYPE_CHECKING:
    from umemma.modalities.files.av_decoder import DecodedClip

SOUNDLESS = "no sound stream, or none where the event is"
EMPTY = "nothing in it"


class Probe(NamedTuple):
    """The result for one sample.

    broken: {modality whose medium cannot be read: the reason that packing would give}. absent:
    {modality with nothing in it: SOUNDLESS or EMPTY}. unseen: modalities whose media a function
    makes; it is not called here.
    """

    broken: dict[str, str]
    absent: dict[str, str]
    unseen: frozenset[str]


def probe(
    media: Mapping[str, Media],
    packing: Packing,
    kinds: Mapping[str, str] = NO_KINDS,
) -> Probe:
    """Check every medium of a sample.

    kinds: {modality: its kind} of those that are not named like their kind.

    In threads: reading an image changes the warning filters of the whole process, so start the
    threads inside `warnings.catch_warnings` with everything ignored.
    """
    unseen = frozenset(name for name, medium in media.items() if callable(medium))
    broken: dict[str, str] = {}
    absent: dict[str, str] = {}
    shared_clips = _scan_shared_clips(media, packing, kinds)
    for name in sorted(media.keys() - unseen):
        kind = kinds.get(name, name)
        try:
            reason = _find_absence(kind, media[name], packing, shared_clips.get(name))
        except ValueError as error:
            broken[name] = str(error)
            continue
        if reason:
            absent[name] = reason
    return Probe(broken, absent, unseen)


def _scan_shared_clips(
    media: Mapping[str, Media],
    packing: Packing,
    kinds: Mapping[str, str],
) -> dict[str, DecodedClip]:
    """Scan each clip that is both audio and video once. Returns {modality: the scan of its clip}.

    A clip that cannot be read is not in it: as in packing, each of the two is then checked
    separately.
    """
    scans: dict[str, DecodedClip] = {}
    for pair in modalities.find_shared_clips(media, kinds):
        clip = media[pair[0]]
        assert isinstance(clip, Clip)
        with contextlib.suppress(ValueError):
            scan = _scan_packets(clip, packing, {"audio", "video"})
            scans |= dict.fromkeys(pair, scan)
    return scans


def _find_absence(
    kind: str,
    medium: Media,
    packing: Packing,
    shared_clip: DecodedClip | None,
) -> str:
    """Return SOUNDLESS or EMPTY, or "" for a modality that is present.

    shared_clip: the scan of a clip that is both audio and video. Raises ValueError as packing does.
    """
    module = modalities.get_module(kind)
    if isinstance(medium, Unreadable):
        raise ValueError(medium.reason)
    clip: Clip | bytes | None = None
    if kind in ("audio", "video"):
        clip = _as_clip(kind, medium)
    if shared_clip:
        scan = shared_clip
    elif clip is not None:
        scan = _scan_packets(clip, packing, {kind})
    elif module is image and isinstance(medium, (Path, bytes)):
        image.open_image(_read_bytes(medium), packing.side)
        return ""
    elif module.pack(medium, packing):
        return ""
    else:
        return EMPTY
    if kind == "video":
        return EMPTY if scan.frames is None else ""
    return SOUNDLESS if scan.sound is None else ""


def _as_clip(kind: str, medium: Media) -> Clip | bytes | None:
    """Return what the packet scan reads of an audio or video medium; None if packing is as fast."""
    if isinstance(medium, Clip):
        return medium
    if kind == "video" and isinstance(medium, Path):
        return Clip(medium)
    if kind == "audio" and isinstance(medium, (Path, bytes)):
        if _read_bytes(medium)[:4] == b"fLaC":
            return None
        if isinstance(medium, Path):
            return Clip(medium)
        return medium
    return None


def _scan_packets(clip: Clip | bytes, packing: Packing, kinds: set[str]) -> DecodedClip:
    from umemma.modalities.files import av_decoder

    return av_decoder.read_clip(
        clip,
        packing,
        pictures="video" in kinds,
        sound="audio" in kinds,
        decode=False,
    )


def _read_bytes(medium: Path | bytes) -> bytes:
    if isinstance(medium, Path):
        return read_file(medium)
    return medium

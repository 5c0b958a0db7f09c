"""Video: a few JPEG frames one after another in the shards (Motion JPEG), (frames, channels, size, size) in a batch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from umemma.contracts import Clip, Media, Packing, VideoInput
from umemma.modalities import image
from umemma.modalities.packed import Packed

if TYPE_CHECKING:
    import torch

SUFFIXES = ("mjpeg",)
# The end of one JPEG and the start of the next. Inside the picture data of a JPEG 0xFF is never followed by either.
BORDER = re.compile(rb"(?<=\xff\xd9)(?=\xff\xd8)")


def pack(media: Media, packing: Packing) -> Packed:
    """`packing.frames` JPEG frames, fewer where `packing.fps` finds fewer in the clip."""
    if isinstance(media, (Path, Clip)):
        from umemma.modalities import clips

        clip = media if isinstance(media, Clip) else Clip(media)
        frames = clips.read(clip, packing, pictures=True, sound=False).frames
    else:
        frames = media if isinstance(media, list) else None
    if not frames:
        raise ValueError("not a video")
    return Packed("mjpeg", b"".join(frames))


def decode(data: bytes, spec: VideoInput) -> torch.Tensor:
    """(frames, channels, size, size) float32; evenly chosen where there are more, the last one repeated where fewer."""
    import torch

    jpegs = BORDER.split(data)
    count = len(jpegs)
    if count >= spec.frames:
        chosen = [int((i + 0.5) * count / spec.frames) for i in range(spec.frames)]
    else:
        chosen = [min(i, count - 1) for i in range(spec.frames)]
    pictures = {i: image.decode(jpegs[i], spec.picture) for i in sorted(set(chosen))}
    return torch.stack([pictures[i] for i in chosen])


def blank(spec: VideoInput) -> torch.Tensor:
    """Black frames."""
    return image.blank(spec.picture).expand(spec.frames, -1, -1, -1).contiguous()

"""Video: a few JPEG frames one after another in the shards (Motion JPEG), (frames, channels, size, size) when decoded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umemma.modalities import image, vision
from umemma.modalities.limits import Packed
from umemma.modalities.sampling import Drawn
from umemma.types import Clip, Media, Packing, VideoInput

if TYPE_CHECKING:
    import numpy as np
    import torch

SUFFIXES = ("mjpeg",)
# The end of one JPEG and the start of the next. Inside the picture data of a JPEG 0xFF is never followed by either.
BORDER = re.compile(rb"(?<=\xff\xd9)(?=\xff\xd8)")


def pack(media: Media, packing: Packing) -> Packed:
    """`packing.frames` JPEG frames, fewer where `packing.fps` finds fewer in the clip."""
    if isinstance(media, (Path, Clip)):
        from umemma.modalities import av_decoder

        clip = media if isinstance(media, Clip) else Clip(media)
        frames = av_decoder.read(clip, packing, pictures=True, sound=False).frames
    else:
        frames = media if isinstance(media, list) else None
    if not frames:
        raise ValueError("not a video")
    return Packed("mjpeg", b"".join(frames))


def decode(data: bytes, spec: VideoInput) -> torch.Tensor:
    """(frames, channels, size, size) uint8; evenly chosen where there are more, black at the end where fewer."""
    jpegs = BORDER.split(data)
    count, kept = len(jpegs), min(len(jpegs), spec.frames)
    clip = blank(spec)
    for i in range(kept):
        clip[i] = image.decode(jpegs[int((i + 0.5) * count / kept)], spec.picture)
    return clip


def blank(spec: VideoInput) -> torch.Tensor:
    """Black frames."""
    return image.blank(spec.picture).expand(spec.frames, -1, -1, -1).contiguous()


class Augment(vision.Augment):
    """What can be done to a clip, the same to all of its frames."""


def check(options: Augment, spec: VideoInput) -> None:
    """Every option fits."""


def draw(options: Augment, numbers: np.ndarray, spec: VideoInput) -> Drawn:
    """What `numbers`, (B,) uint64, make of B samples."""
    return vision.draw(options, numbers)


def augment(x: torch.Tensor, spec: VideoInput, options: Augment, drawn: Drawn) -> torch.Tensor:
    """(B, frames, channels, size, size); black frames stay black."""
    return vision.augment(x, options, drawn)


def finish(x: torch.Tensor, spec: VideoInput) -> torch.Tensor:
    """(B, frames, channels, size, size) float32, each frame normalised with the spec's mean and std."""
    return vision.finish(x, spec)


def recipe(spec: VideoInput, packing: Packing) -> dict[str, Any]:
    """How a video file becomes the input without umemma."""
    numbers: dict[str, Any] = {
        "packed_frames": packing.frames,
        "fps": packing.fps,
        "side": packing.side,
    }
    numbers |= {
        "quality": packing.quality,
        "draft": image.DRAFT,
        "resampling": image.RESAMPLING.name.lower(),
    }
    times = f"(i + 0.5) / {packing.frames} of its length, for i from 0 to {packing.frames - 1}"
    if packing.fps:
        times = f"(i + 0.5) / {packing.fps} s, as many as fall into its length, at least 1 and at most {packing.frames}"
    steps = [
        f"Take the frames that are on the screen at {times}.",
        f"Scale each, where its shorter side is over {packing.side} pixels, to {packing.side} there (FFmpeg's swscale, as "
        f"PyAV's reformat does to rgb24), turn it as the file says, and make a JPEG of quality {packing.quality} of it.",
        f"Of n JPEGs, k = min(n, {spec.frames}), take those with the numbers int((i + 0.5) * n / k); then of each:",
        *image.decoding(spec.picture),
        f"Where there are fewer than {spec.frames}, black pictures (pixel 0) follow, (0 - mean) / std.",
    ]
    return numbers | {"steps": steps}

"""Video: a few JPEG frames, concatenated (Motion JPEG), in the shards.

Decoded: (frames, channels, size, size) uint8.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umemma.modalities import image, vision
from umemma.modalities.limits import Packed
from umemma.modalities.sampling import SampleDraws
from umemma.types import Clip, Media, Packing, VideoInput

if TYPE_CHECKING:
    import numpy as np
    import torch

SUFFIXES = ("mjpeg",)
# Between the end of one JPEG and the start of the next. Inside the picture data of a JPEG, 0xFF is
# never followed by either byte.
BORDER = re.compile(rb"(?<=\xff\xd9)(?=\xff\xd8)")


def pack(media: Media, packing: Packing) -> Packed:
    """Return `packing.frames` JPEG frames, or fewer if `packing.fps` yields fewer from the clip."""
    frames: list[bytes] | None = None
    if isinstance(media, (Path, Clip)):
        from umemma.modalities.files import av_decoder

        clip = Clip(media) if isinstance(media, Path) else media
        frames = av_decoder.read_clip(clip, packing, pictures=True, sound=False).frames
    elif isinstance(media, list):
        frames = media
    if not frames:
        raise ValueError("not a video")
    return Packed("mjpeg", b"".join(frames))


def decode(data: bytes, spec: VideoInput) -> torch.Tensor:
    """Return (frames, channels, size, size) uint8.

    If the data have more frames, an evenly spaced choice; if fewer, black frames follow them.
    """
    jpegs = BORDER.split(data)
    count = min(len(jpegs), spec.frames)
    clip = make_blank(spec)
    for i in range(count):
        jpeg = jpegs[int((i + 0.5) * len(jpegs) / count)]
        clip[i] = image.decode(jpeg, spec.picture)
    return clip


def make_blank(spec: VideoInput) -> torch.Tensor:
    """Return black frames."""
    picture = image.make_blank(spec.picture)
    return picture.expand(spec.frames, -1, -1, -1).contiguous()


class Augment(vision.Augment):
    """The augmentation of a clip, the same for all of its frames."""


def check(options: Augment, spec: VideoInput) -> None:
    """Accept every option."""


def draw(options: Augment, numbers: np.ndarray, spec: VideoInput) -> SampleDraws:
    """Draw the augmentation of B samples from `numbers`, (B,) uint64."""
    return vision.draw(options, numbers)


def augment(
    x: torch.Tensor,
    spec: VideoInput,
    options: Augment,
    drawn: SampleDraws,
) -> torch.Tensor:
    """Augment (B, frames, channels, size, size); black frames stay black."""
    return vision.augment(x, options, drawn)


def finish(x: torch.Tensor, spec: VideoInput) -> torch.Tensor:
    """Return (B, frames, channels, size, size) float32, normalised with mean and std of `spec`."""
    return vision.finish(x, spec)


def make_recipe(spec: VideoInput, packing: Packing) -> dict[str, Any]:
    """Describe how a video file becomes the input without umemma."""
    times = f"(i + 0.5) / {packing.frames} of its length, for i from 0 to {packing.frames - 1}"
    if packing.fps:
        times = (
            f"(i + 0.5) / {packing.fps} s, as many as fall into its length, "
            f"at least 1 and at most {packing.frames}"
        )
    steps = [
        f"Take the frames that are on the screen at {times}.",
        f"Scale each, where its shorter side is over {packing.side} pixels, to {packing.side} "
        "there (FFmpeg's swscale, as PyAV's reformat does to rgb24), turn it as the file says, "
        f"and make a JPEG of quality {packing.quality} of it.",
        f"Of n JPEGs, k = min(n, {spec.frames}), take those with the numbers "
        "int((i + 0.5) * n / k); then of each:",
        *image.describe_decoding(spec.picture),
        f"Where there are fewer than {spec.frames}, black pictures (pixel 0) follow, "
        "(0 - mean) / std.",
    ]
    return {
        "packed_frames": packing.frames,
        "fps": packing.fps,
        "side": packing.side,
        "quality": packing.quality,
        "draft": image.DRAFT,
        "resampling": image.RESAMPLING.name.lower(),
        "steps": steps,
    }

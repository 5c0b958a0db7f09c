"""Images: PNG in the shards, (channels, size, size) float32 in a batch."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from umemma.contracts import ImageInput, Media, Sound

SUFFIX = "png"
MOST_PIXELS = 2**26  # a small file can hold a picture too large for any memory


def pack(media: Media) -> bytes:
    """A PNG of an (H, W) or (H, W, 3) uint8 array; encoded images (bytes or a file) are decoded first."""
    if isinstance(media, Sound):
        raise ValueError("a sound, not an image")
    picture = Image.fromarray(media) if isinstance(media, np.ndarray) else _open(media)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def decode(data: bytes, spec: ImageInput) -> torch.Tensor:
    """(channels, size, size) float32, normalised with the spec's mean and std."""
    picture = _open(data).convert("L" if spec.channels == 1 else "RGB")
    if picture.size != (spec.size, spec.size):
        picture = picture.resize((spec.size, spec.size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture)).reshape(spec.size, spec.size, -1).permute(2, 0, 1)
    return (pixels / 255 - spec.mean) / spec.std


def blank(spec: ImageInput) -> torch.Tensor:
    """A black picture."""
    return torch.full((spec.channels, spec.size, spec.size), -spec.mean / spec.std)


def _open(media: bytes | Path) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(media) if isinstance(media, bytes) else media)
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"picture of {picture.width} x {picture.height} pixels is over the bound of {MOST_PIXELS}")
        picture.load()
    except UnidentifiedImageError:  # its text holds an address in memory, and a reason has to be the same every time
        raise ValueError("not a readable image: unknown format") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable image: {error}") from None
    return picture

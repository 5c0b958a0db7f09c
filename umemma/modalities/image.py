"""Images: JPEG or PNG in the shards, (channels, size, size) uint8 when decoded. Also ready-made spectrograms."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from umemma.modalities import spec_augment, vision
from umemma.modalities.limits import MOST_PIXELS, Packed, read_file
from umemma.modalities.sampling import Drawn
from umemma.types import ImageInput, Media, Packing

if TYPE_CHECKING:
    import torch

SUFFIXES = ("jpg", "png")
RESAMPLING, GAP = (
    Image.Resampling.BICUBIC,
    3.0,
)  # how pictures are made smaller; the gap is Pillow's, for the shards
DRAFT = 2  # times the side that is wanted: a JPEG whose shorter side is larger is decoded at a lower resolution
KEPT = {
    "JPEG": "jpg",
    "PNG": "png",
}  # formats that are copied as they are where the picture is small enough


def pack(media: Media, packing: Packing) -> Packed:
    """Encoded images (bytes or a file) whose shorter side is within `packing.side` are copied; larger ones become JPEG.

    (H, W) or (H, W, 3) uint8 arrays become PNG, scaled down likewise.
    """
    if isinstance(media, np.ndarray):
        picture, kept = Image.fromarray(media), ""
    elif isinstance(media, (bytes, Path)):
        media = read_file(media) if isinstance(media, Path) else media
        picture, kept = _open(media, packing.side)
    else:
        raise ValueError("not an image")
    scale = packing.side / min(picture.size)
    if scale >= 1 and isinstance(media, bytes) and kept:
        return Packed(kept, media)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, RESAMPLING, reducing_gap=GAP)
    if isinstance(media, bytes) and scale < 1:
        return Packed("jpg", to_jpeg(np.asarray(picture), packing.quality))
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return Packed("png", file.getvalue())


def to_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """A JPEG of (H, W) or (H, W, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def decode(data: bytes, spec: ImageInput) -> torch.Tensor:
    """(channels, size, size) uint8: the middle square or, without `spec.crop`, the whole picture squeezed into one."""
    import torch

    picture, _ = _open(data, spec.size)
    picture = picture.convert("L" if spec.channels == 1 else "RGB")
    if picture.size != (spec.size, spec.size):
        left, top = ((length - min(picture.size)) / 2 for length in picture.size)
        box = (left, top, picture.width - left, picture.height - top) if spec.crop else None
        picture = picture.resize((spec.size, spec.size), RESAMPLING, box)
    return (
        torch.from_numpy(np.array(picture))
        .reshape(spec.size, spec.size, -1)
        .permute(2, 0, 1)
        .contiguous()
    )


def blank(spec: ImageInput) -> torch.Tensor:
    """A black picture."""
    import torch

    return torch.zeros(spec.channels, spec.size, spec.size, dtype=torch.uint8)


class Augment(vision.Augment, spec_augment.Masks):
    """What can be done to a picture; masks last, for a spectrogram whose rows are frequencies and whose columns are times."""


def check(options: Augment, spec: ImageInput) -> None:
    """Every option fits."""


def draw(options: Augment, numbers: np.ndarray, spec: ImageInput) -> Drawn:
    """What `numbers`, (B,) uint64, make of B samples."""
    return vision.draw(options, numbers) | spec_augment.draw(options, numbers, spec.size, spec.size)


def augment(x: torch.Tensor, spec: ImageInput, options: Augment, drawn: Drawn) -> torch.Tensor:
    """(B, channels, size, size); a mask is filled with the mean, which the encoder sees as 0."""
    import torch

    x = vision.augment(x[:, None], options, drawn)[:, 0]
    mean = torch.as_tensor(spec.mean, device=x.device).view(-1, 1, 1)
    return spec_augment.masked(x, drawn, (255 * mean).round().to(x.dtype))


def finish(x: torch.Tensor, spec: ImageInput) -> torch.Tensor:
    """(B, channels, size, size) float32, normalised with the spec's mean and std."""
    return vision.finish(x, spec)


def recipe(spec: ImageInput, packing: Packing) -> dict[str, Any]:
    """How a file of a picture becomes the input without umemma."""
    numbers: dict[str, Any] = {"side": packing.side, "quality": packing.quality, "draft": DRAFT}
    numbers |= {"resampling": RESAMPLING.name.lower(), "reducing_gap": GAP}
    steps = [
        f"Open the file with Pillow. A JPEG whose shorter side is over {DRAFT * packing.side} pixels is opened with "
        f"draft(None, size), size being its own, scaled so that the shorter side is {DRAFT * packing.side}, and rounded.",
        "Turn it upright with ImageOps.exif_transpose; shift 16-bit grey right by 8 bits; make RGB of all but L and RGB.",
        f"Where the shorter side is over {packing.side} pixels: resize(size, BICUBIC, reducing_gap={GAP}) to a shorter side "
        f"of {packing.side}, both rounded, then save it as a JPEG of quality {packing.quality} and open that.",
        *decoding(spec),
    ]
    return numbers | {"steps": steps}


def decoding(spec: ImageInput) -> list[str]:
    """The steps of `recipe` from a packed picture on."""
    mode, part = (
        ("L" if spec.channels == 1 else "RGB"),
        ("its middle square" if spec.crop else "all of it"),
    )
    return [
        f"Of a JPEG whose shorter side is over {DRAFT * spec.size} pixels by now: draft, as in the first step, to "
        f"{DRAFT * spec.size}. Then convert({mode!r}).",
        f"Unless it has {spec.size} x {spec.size} pixels: resize(({spec.size}, {spec.size}), BICUBIC, box), box being {part}.",
        "As float32, channels first: (pixel / 255 - mean) / std.",
    ]


def _open(data: bytes, side: int) -> tuple[Image.Image, str]:
    """The decoded picture, upright, grey or RGB, and its suffix where its bytes can be kept as they are.

    A JPEG much larger than `side` is decoded at a lower resolution, which is several times faster.
    """
    with _readable():
        picture: Image.Image = Image.open(io.BytesIO(data))
        if picture.width * picture.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        kept = KEPT.get(picture.format or "", "")
        scale = DRAFT * side / min(picture.size)
        if scale < 1:
            picture.draft(None, (round(picture.width * scale), round(picture.height * scale)))
        picture.load()
        if getattr(picture, "n_frames", 1) > 1:
            kept = ""  # an animation: only its first picture is an image
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F"):
        raise ValueError("not a readable image: pixels of a kind whose range isn't known")
    if picture.mode.startswith("I;16"):  # converting would cut at 255, not scale
        picture, kept = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)), ""
    return (picture if picture.mode in ("L", "RGB") else picture.convert("RGB")), kept


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Pillow's errors as a ValueError with a fixed phrase: their own text can hold an address in memory."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # what a stranger's metadata looks like is nobody's concern here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UnidentifiedImageError:
        raise ValueError("not a readable image: unknown format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError("picture over the size bound") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = "truncated" if "truncated" in str(error) else "damaged"
        raise ValueError(f"not a readable image: {reason}") from None

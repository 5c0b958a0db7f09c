"""Images: JPEG or PNG in the shards; cropped, resized to (channels, size, size) uint8 when decoded.

Also ready-made spectrograms.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from umemma.modalities import spec_augment, vision
from umemma.modalities.limits import MAX_PIXELS, MAX_SIDE, Packed, read_file
from umemma.modalities.sampling import SampleDraws
from umemma.types import ImageInput, Media, Packing

if TYPE_CHECKING:
    import torch

SUFFIXES = ("jpg", "png")
RESAMPLING = Image.Resampling.BICUBIC  # how pictures are resized
GAP = 3.0  # Pillow's `reducing_gap`, used for the shards
# A JPEG whose shorter side is over DRAFT times the requested side is decoded at a lower resolution.
DRAFT = 2
# What Pillow may open. Others are of no data set, and their readers are little tested: one calls
# Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# What Pillow's readers raise for damaged data: AVIF's a RuntimeError, TIFF's a TypeError.
DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    RuntimeError,
    TypeError,
    LookupError,
    struct.error,
)
# {format: suffix} of the images that are copied unchanged if the picture is small enough.
COPIED_FORMATS = {"JPEG": "jpg", "PNG": "png"}


# Packing. -----------------------------------------------------------------------------------------


def pack(media: Media, packing: Packing) -> Packed:
    """Encode an image so that its shorter side is at most `packing.side`.

    Encoded images (bytes or a file) that are small enough are copied; larger ones are resized to a
    JPEG. Arrays, (H, W) or (H, W, 3) uint8, become PNG, resized likewise.
    """
    if isinstance(media, np.ndarray):
        picture = Image.fromarray(media)
        return _to_png(_resize_to_side(picture, packing.side))
    if isinstance(media, Path):
        media = read_file(media)
    if not isinstance(media, bytes):
        raise ValueError("not an image")
    picture, suffix = open_image(media, packing.side)
    if min(picture.size) > packing.side:
        pixels = np.asarray(_resize_to_side(picture, packing.side))
        return Packed("jpg", to_jpeg(pixels, packing.quality))
    if suffix:
        return Packed(suffix, media)
    return _to_png(picture)


def _resize_to_side(picture: Image.Image, side: int) -> Image.Image:
    """Resize a picture whose shorter side is over `side` to that side; others stay unchanged."""
    scale = side / min(picture.size)
    if scale >= 1:
        return picture
    width = max(1, round(picture.width * scale))
    height = max(1, round(picture.height * scale))
    return picture.resize((width, height), RESAMPLING, reducing_gap=GAP)


def _to_png(picture: Image.Image) -> Packed:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return Packed("png", file.getvalue())


def to_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encode (H, W) or (H, W, 3) uint8 as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return file.getvalue()


# Decoding. ----------------------------------------------------------------------------------------


def decode(data: bytes, spec: ImageInput) -> torch.Tensor:
    """Return (channels, size, size) uint8.

    With `spec.crop` it is the middle square of the picture, else the whole picture, squeezed into a
    square.
    """
    import torch

    picture, _ = open_image(data, spec.size)
    picture = picture.convert(_mode(spec))
    if picture.size != (spec.size, spec.size):
        box = _middle_square(picture) if spec.crop else None
        picture = picture.resize((spec.size, spec.size), RESAMPLING, box)
    pixels = torch.from_numpy(np.array(picture))
    pixels = pixels.reshape(spec.size, spec.size, -1)
    return pixels.permute(2, 0, 1).contiguous()


def _mode(spec: ImageInput) -> str:
    """Return Pillow's mode for the channels of an input."""
    return "L" if spec.channels == 1 else "RGB"


def _middle_square(picture: Image.Image) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the largest square in the middle."""
    side = min(picture.size)
    left = (picture.width - side) / 2
    top = (picture.height - side) / 2
    return left, top, picture.width - left, picture.height - top


def make_blank(spec: ImageInput) -> torch.Tensor:
    """Return a black picture."""
    import torch

    return torch.zeros(spec.channels, spec.size, spec.size, dtype=torch.uint8)


def finish(x: torch.Tensor, spec: ImageInput) -> torch.Tensor:
    """Return (B, channels, size, size) float32, normalised with the mean and std of `spec`."""
    return vision.finish(x, spec)


# Augmentation. ------------------------------------------------------------------------------------


class Augment(vision.Augment, spec_augment.Masks):
    """The augmentation of a picture; its masks come last.

    They are for a spectrogram whose rows are frequencies and whose columns are times.
    """


def check(options: Augment, spec: ImageInput) -> None:
    """Accept every option."""


def draw(options: Augment, numbers: np.ndarray, spec: ImageInput) -> SampleDraws:
    """Draw the augmentation of B samples from `numbers`, (B,) uint64."""
    drawn = vision.draw(options, numbers)
    return drawn | spec_augment.draw_masks(options, numbers, spec.size, spec.size)


def augment(
    x: torch.Tensor,
    spec: ImageInput,
    options: Augment,
    drawn: SampleDraws,
) -> torch.Tensor:
    """Augment (B, channels, size, size).

    A mask is filled with the mean, which the encoder sees as 0.
    """
    import torch

    frames = x[:, None]
    x = vision.augment(frames, options, drawn)[:, 0]
    mean = torch.as_tensor(spec.mean).view(-1, 1, 1).to(x.device, non_blocking=True)
    fill = (255 * mean).round().to(x.dtype)
    return spec_augment.apply_masks(x, drawn, fill)


# Preparing a file without umemma. -----------------------------------------------------------------


def make_recipe(spec: ImageInput, packing: Packing) -> dict[str, Any]:
    """Describe how an image file becomes the input without umemma."""
    steps = [
        f"Open the file with Pillow. A JPEG whose shorter side is over {DRAFT * packing.side} "
        "pixels is opened with draft(None, size), size being its own, scaled so that the shorter "
        f"side is {DRAFT * packing.side}, and rounded.",
        "Turn it upright with ImageOps.exif_transpose; shift 16-bit grey right by 8 bits; make "
        "RGB of all but L and RGB.",
        f"Where the shorter side is over {packing.side} pixels: resize(size, BICUBIC, "
        f"reducing_gap={GAP}) to a shorter side of {packing.side}, both rounded, then save it as "
        f"a JPEG of quality {packing.quality} and open that.",
        *describe_decoding(spec),
    ]
    return {
        "side": packing.side,
        "quality": packing.quality,
        "draft": DRAFT,
        "resampling": RESAMPLING.name.lower(),
        "reducing_gap": GAP,
        "steps": steps,
    }


def describe_decoding(spec: ImageInput) -> list[str]:
    """Return the steps of the recipe that start from a packed picture."""
    box = "its middle square" if spec.crop else "all of it"
    return [
        f"Of a JPEG whose shorter side is over {DRAFT * spec.size} pixels by now: draft, as in "
        f"the first step, to {DRAFT * spec.size}. Then convert({_mode(spec)!r}).",
        f"Unless it has {spec.size} x {spec.size} pixels: resize(({spec.size}, {spec.size}), "
        f"BICUBIC, box), box being {box}.",
        "As float32, channels first: (pixel / 255 - mean) / std.",
    ]


# Opening a file with Pillow. ----------------------------------------------------------------------


def open_image(data: bytes, side: int) -> tuple[Image.Image, str]:
    """Decode a picture, upright, grey or RGB.

    The second value is the suffix of the file if its bytes can be copied unchanged, else "". A JPEG
    much larger than `side` is decoded at a lower resolution, which is several times faster.
    """
    with _fixed_phrases():
        picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS or max(picture.size) > MAX_SIDE:
            raise Image.DecompressionBombError
        suffix = COPIED_FORMATS.get(picture.format or "", "")
        scale = DRAFT * side / min(picture.size)
        if scale < 1:
            size = (round(picture.width * scale), round(picture.height * scale))
            picture.draft(None, size)
        picture.load()
        if getattr(picture, "n_frames", 1) > 1:
            suffix = ""  # an animation: only its first picture is the image
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F"):
        raise ValueError("not a readable image: pixels of a kind whose range isn't known")
    if picture.mode.startswith("I;16"):  # Pillow's conversion would clip at 255 instead of scaling
        high_bytes = np.asarray(picture) >> 8
        picture = Image.fromarray(high_bytes.astype(np.uint8))
        suffix = ""
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    return picture, suffix


class _WithoutWarnings:
    """No warning is shown while any thread is in the block.

    Pillow warns about odd metadata, which is not used, and about pictures that are over the size
    bound anyway. The filters of `warnings` belong to the process, and adding one removes it for a
    moment, so only the first thread that enters changes them, and the last one restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._filters = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._filters.close()


_WITHOUT_WARNINGS = _WithoutWarnings()


@contextlib.contextmanager
def _fixed_phrases() -> Iterator[None]:
    """Turn Pillow's errors into a ValueError with a fixed phrase.

    Their own text can hold a memory address.
    """
    try:
        with _WITHOUT_WARNINGS:
            yield
    except UnidentifiedImageError:
        raise ValueError("not a readable image: unknown format") from None
    except Image.DecompressionBombError:
        raise ValueError("picture over the size bound") from None
    except DAMAGE as error:
        reason = "truncated" if "truncated" in str(error) else "damaged"
        raise ValueError(f"not a readable image: {reason}") from None

"""The size limits for media files, and the result of packing one modality."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from umemma.system.files import check_regular
from umemma.types import ImageInput, InputSpec, Packing, VideoInput

MAX_PIXELS = 2**26  # a small file can hold a picture that is too large for any memory
MAX_SIDE = 2**16  # pixels; resizing a long line takes a weight for each
MAX_BYTES = 2**28  # of a file that is read whole
MAX_SECONDS = 3600.0  # of one sample


class Packed(NamedTuple):
    """The suffix and the bytes of a tar member."""

    suffix: str
    data: bytes


def describe_enlarging(modality: str, spec: InputSpec, packing: Packing) -> str:
    """Return a sentence where pictures are stored smaller than an encoder takes them, else ""."""
    if not isinstance(spec, ImageInput | VideoInput) or spec.size <= packing.side:
        return ""
    return (
        f"{modality}: pictures are stored with a shorter side of {packing.side} pixels at most "
        f"(preprocess.media.side) and enlarged to {spec.size} (encoders.{modality}.input.size): "
        "set both, or what is enlarged has no more detail"
    )


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises ValueError if it is missing, unreadable or over MAX_BYTES.
    """
    try:
        check_regular(path)
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("file over the size bound")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError("file is missing") from None
    except OSError as error:
        raise ValueError(f"file can't be read: {error.strerror}") from None

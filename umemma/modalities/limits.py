"""What packing makes of one modality, and the bounds that a stranger's file is held to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

MOST_PIXELS = 2**26  # a small file can hold a picture too large for any memory
MOST_BYTES = 2**28  # of a file that is read whole
MOST_SECONDS = 3600.0  # of one sample


class Packed(NamedTuple):
    """The bytes of a tar member and its suffix."""

    suffix: str
    data: bytes


def read_file(path: Path) -> bytes:
    """A file's bytes. ValueError where it is missing, unreadable or over the bound."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("file over the size bound")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError("file is missing") from None
    except OSError as error:
        raise ValueError(f"file can't be read: {error.strerror}") from None

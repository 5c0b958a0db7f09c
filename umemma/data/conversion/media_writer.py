"""Media that come as bytes are written as files whose names follow from their content.

So no name of a stranger becomes a path, a medium that several samples share is one file, and rows
that name the same file are a group, which splits keep whole.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Protocol

from umemma.data.unpacker import RATIO, SMALL
from umemma.datasets._manifest.columns import KIND_OF
from umemma.errors import UserError

CHUNK = 2**20  # bytes read at a time
UNKNOWN = ".bin"
# (position, bytes there, suffix), the longer ones first.
SIGNATURES = (
    (4, b"ftypavif", ".avif"),
    (4, b"ftypM4A", ".m4a"),
    (4, b"ftyp", ".mp4"),
    (8, b"WEBP", ".webp"),
    (8, b"WAVE", ".wav"),
    (8, b"AVI ", ".avi"),
    (0, b"\x93NUMPY", ".npy"),
    (0, b"\x89PNG", ".png"),
    (0, b"\x1aE\xdf\xa3", ".mkv"),
    (0, b"II*\0", ".tiff"),
    (0, b"MM\0*", ".tiff"),
    (0, b"GIF8", ".gif"),
    (0, b"fLaC", ".flac"),
    (0, b"OggS", ".ogg"),
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"ID3", ".mp3"),
    (0, b"\xff\xfb", ".mp3"),
    (0, b"\xff\xf3", ".mp3"),
    (0, b"BM", ".bmp"),
)


class Readable(Protocol):
    """What bytes are read from: a file, a member of an archive, a buffer of pyarrow."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none at the end."""


class Budget:
    """How many bytes may come out of a source. What is compressed can expand without limit."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.bound = max(RATIO * source.stat().st_size, SMALL)
        self.spent = 0

    def spend(self, size: int) -> None:
        """Count bytes. Raises UserError where they are too many."""
        self.spent += size
        if self.spent > self.bound:
            raise UserError(
                f"hostile: it unpacks to more than {self.bound:,} bytes", str(self.source)
            )


class MediaWriter:
    """Writes media to `files/` in a folder. most: of each column, where only a few are needed; the
    samples after them name these again. 0 = all are written."""

    def __init__(self, folder: Path, name: str, most: int = 0) -> None:
        self.folder = folder
        self.name = name
        self.most = most
        self._places: dict[str, str] = {}  # {column: its subfolder}
        self._written: dict[str, list[str]] = {}
        self._skipped = Counter[str]()

    def write(self, column: str, content: Readable, given: str) -> str:
        """Write a medium and return its path, relative to the table.

        given: the name that it has at its source, of which only a known suffix is used.
        """
        written = self._written.setdefault(column, [])
        if self.most and len(written) >= self.most:
            self._skipped[column] += 1
            return written[self._skipped[column] % self.most]
        partial = self.folder / ".medium"
        digest = hashlib.sha256()
        start = b""
        with partial.open("wb") as file:
            for chunk in iter(functools.partial(content.read, CHUNK), b""):
                start = start or bytes(chunk[:32])
                digest.update(chunk)
                file.write(chunk)
        name = digest.hexdigest()[:32]
        place = f"{self._name_place(column)}/{name[:2]}"
        path = f"{place}/{name}{find_suffix(given, start)}"
        (self.folder / place).mkdir(parents=True, exist_ok=True)
        os.replace(partial, self.folder / path)
        if self.most:
            written.append(f"{self.name}/{path}")
        return f"{self.name}/{path}"

    def _name_place(self, column: str) -> str:
        """Return the subfolder of a column, whatever characters its name has."""
        if column not in self._places:
            name = re.sub(r"[^A-Za-z0-9_-]+", "-", column)[:64] or "media"
            while name in self._places.values():
                name += "-2"
            self._places[column] = name
        return self._places[column]


def find_suffix(given: str, start: bytes) -> str:
    """Return the suffix of a medium: that of its name where it is known, else by its first
    bytes."""
    suffix = PurePosixPath(given).suffix.lower()
    if suffix in KIND_OF:
        return suffix
    for position, signature, found in SIGNATURES:
        if start[position:].startswith(signature):
            return found
    return UNKNOWN

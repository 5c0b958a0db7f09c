"""Tables of logits that are larger than memory: files without a name, mapped, read in blocks.

A file without a name is gone with the last array that is in it, however the process ends. What a
block has touched is let go of after it, so that the memory of a process is that of one block.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LARGE = 2**26  # bytes from which on a table is in a file
BLOCK = 2**19  # numbers of a table that are computed at once, and stay in the processor's cache
STORED = 8  # blocks that are written, or sent to another process, at once


def make_table(
    shape: tuple[int, ...],
    folder: Path,
    dtype: np.dtype | type[np.generic] = np.float32,
) -> np.ndarray:
    """Return a table to fill, which is in a file of the folder if it is `LARGE`.

    OSError where the disk has no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LARGE:
        return np.empty(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        if sys.platform == "darwin":
            file.truncate(size)
        else:  # now, as a mapped file that finds the disk full later on kills the process
            os.posix_fallocate(file.fileno(), 0, size)
        numbers = np.frombuffer(mmap.mmap(file.fileno(), size), dtype)
    return numbers.reshape(shape)


def find_map(table: np.ndarray) -> mmap.mmap | None:
    """Return what a table is mapped by, None for one in memory."""
    base: object = table
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap):
        return base
    return None


def release(table: np.ndarray) -> None:
    """Let go of the memory of a mapped table; its numbers stay in the file."""
    mapped = find_map(table)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)


def count_rows(columns: int, blocks: int = 1) -> int:
    """Return how many rows of a table are so many blocks."""
    return max(1, blocks * BLOCK // max(1, columns))


def cut_rows(rows: int, columns: int, blocks: int = 1) -> Iterator[slice]:
    """Yield slices of the rows of a table, so many blocks each; one if it is empty."""
    step = count_rows(columns, blocks)
    for start in range(0, max(1, rows), step):
        yield slice(start, min(start + step, rows))


def is_empty(table: np.ndarray) -> bool:
    """Return whether all numbers of a table are NaN."""
    for rows in cut_rows(*table.shape):
        if not np.isnan(table[rows]).all():
            return False
        release(table)
    return True

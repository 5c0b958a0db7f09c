"""Corruption of the rows of a table: cells that become empty."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from umemma.modalities import table
from umemma.modalities.corruption.grades import PERCENT, SHARES, Grades, choose_share
from umemma.types import TableInput

if TYPE_CHECKING:
    import torch

KINDS = {"drop": Grades(SHARES, PERCENT, "share of the cells, empty")}


def decode(
    data: bytes, spec: TableInput, kind: str, level: float, number: np.ndarray
) -> torch.Tensor:
    """Return (N + K,) float64 of the cells that are left."""
    return table.decode(empty_cells(data, level, number), spec)


def empty_cells(data: bytes, share: float, number: np.ndarray) -> bytes:
    """Return a packed row without this share of the cells that are full."""
    cells = json.loads(data)
    full = [name for name, cell in sorted(cells.items()) if cell is not None]
    is_emptied = choose_share(number, len(full), share)
    for name, empty in zip(full, is_emptied.tolist(), strict=True):
        if empty:
            cells[name] = None
    return json.dumps(cells).encode()

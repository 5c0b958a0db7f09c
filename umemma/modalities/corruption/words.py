"""Corruption of text: words that are left out.

Reference: random deletion in Wei & Zou, EDA: Easy Data Augmentation Techniques, EMNLP 2019, arXiv
1901.11196, here of an exact share of the words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from umemma.modalities import text
from umemma.modalities.corruption.grades import PERCENT, SHARES, Grades, choose_share
from umemma.types import TextInput

if TYPE_CHECKING:
    import torch

KINDS = {"drop": Grades(SHARES, PERCENT, "share of the words")}


def decode(
    data: bytes, spec: TextInput, kind: str, level: float, number: np.ndarray
) -> torch.Tensor:
    """Return (length,) int64: the tokens of the words that are left."""
    return text.decode(drop_words(data, level, number), spec)


def drop_words(data: bytes, share: float, number: np.ndarray) -> bytes:
    """Return a text without this share of its words, which white space separates."""
    words = data.split()
    is_dropped = choose_share(number, len(words), share)
    return b" ".join(word for word, drop in zip(words, is_dropped, strict=True) if not drop)

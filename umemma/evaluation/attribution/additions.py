"""A modality more: which answers become right, which become wrong, and how evenly all contribute.

An answer that gets worse with one more modality is counter-intuitive, as in Ma et al., Calibrating
multimodal learning, ICML 2023, who look at confidences. Evenness is that of Pielou, The measurement
of diversity in different types of biological collections, J. Theor. Biol. 13 (1966); the Modality
Equity Index of MissBench (arXiv 2603.09874) asks the same by a formula of its own. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.predictions import Predictions
from umemma.types import format_pattern


class Addition(NamedTuple):
    """What a modality does to the answers from all others, over the `n` samples that have both.

    won, lost: the shares of the samples whose score rises and falls, with 95 % intervals.
    """

    modality: str
    n: int
    won: float
    won_low: float
    won_high: float
    lost: float
    lost_low: float
    lost_high: float


def count_changes(predictions: Predictions, bootstrap: Bootstrap) -> list[Addition]:
    """Return a row for each modality that some sample has beside another; [] for one modality."""
    names = predictions.modalities
    if len(names) < 2:
        return []
    with_all = predictions.score("ensemble", format_pattern(names))
    counts = {}
    changes = []
    for modality in names:
        rest = format_pattern({*names} - {modality})
        without = predictions.score("ensemble", rest)
        both = predictions.has_logits("ensemble", modality) & ~np.isnan(without)
        if not both.any():
            continue
        counts[modality] = int(both.sum())
        for change in (with_all > without, with_all < without):
            changes.append(np.where(both, change, np.nan))
    if not changes:
        return []
    shares = np.reshape(bootstrap.estimate_means(np.stack(changes, 1)), (-1, 6)).tolist()
    return [Addition(m, n, *own) for (m, n), own in zip(counts.items(), shares, strict=True)]


def measure_evenness(contributions: Sequence[float]) -> float:
    """Return 1 where all contribute the same, 0 where one does alone; below 0 counts as 0.

    It is the entropy of their shares over its largest value. NaN where nothing contributes.
    """
    parts = np.clip(np.asarray(contributions, np.float64), 0, None)
    if len(parts) < 2 or not parts.sum():
        return math.nan
    shares = parts[parts > 0] / parts.sum()
    return float(-(shares * np.log(shares)).sum() / math.log(len(parts))) + 0.0

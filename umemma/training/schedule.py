"""The learning-rate schedule: a linear warm-up, then a cosine decay to 0."""

from __future__ import annotations

import math


def warmup_cosine(progress: float, warmup: float) -> float:
    """Return the factor that the schedule multiplies every peak learning rate with.

    progress: the share of all steps that is done, 0..1; warmup: the share that warms up. The first
    step of the warm-up has a rate above 0.
    """
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    decay_progress = (progress - warmup) / max(1 - warmup, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * decay_progress))

"""What corruptions share: levels of five severities, the place of a burst, and what is left out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from umemma.modalities.sampling import sample_uniform

PERCENT = "{:.0%}"
SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)
DEVIATIONS = (0.25, 0.5, 1.0, 1.5, 2.0)  # of the training


class Grades(NamedTuple):
    """The levels of the severities 1 to 5, how one is shown ("{:g} dB"), and what it is."""

    levels: tuple[float, ...]
    shown: str
    measure: str


def place_burst(number: np.ndarray, length: int, share: float) -> slice:
    """Return round(share * length) steps in a row, every place being as likely."""
    size = round(share * length)
    start = int(sample_uniform(number, "start")[0] * (length - size + 1))
    return slice(start, start + size)


def choose_share(number: np.ndarray, count: int, share: float) -> np.ndarray:
    """Return (count,) bool of which round(share * count) are True, but never all."""
    size = min(round(share * count), count - 1)
    order = np.argsort(sample_uniform(number, "choice", count)[0])
    chosen = np.zeros(count, bool)
    chosen[order[: max(size, 0)]] = True
    return chosen

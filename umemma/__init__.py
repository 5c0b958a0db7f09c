"""umemma: multi-modal classifiers that keep working when a modality is missing.

Reference: UME-MMA, arXiv 2310.06383.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from umemma._version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from umemma.models.predictor import Predictor
    from umemma.types import BrokenPolicy

__all__ = ["__version__", "load"]


def load(
    folder: str | Path,
    trust: bool = False,
    device: str = "",
    broken: BrokenPolicy = "absent",
) -> Predictor:
    """Load a trained model to predict from new media; see `umemma.models.predictor.load`."""
    from umemma.models import predictor  # here, so that `import umemma` does not import torch

    return predictor.load(folder, trust, device, broken)

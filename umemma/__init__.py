"""umemma: multi-modal models that keep working when a modality is missing.

Reference: UME-MMA, arXiv 2310.06383.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from umemma._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from umemma.models.predictor import Predictor
    from umemma.types import BrokenPolicy

__all__ = ["__version__", "audit", "load"]


def audit(
    predict: Callable[[dict[str, Any], tuple[str, ...]], Any],
    inputs: Mapping[str, Sequence[Any]],
    target: Sequence[Any],
    out: str | Path,
    keys: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    classes: Sequence[str] = (),
    logits: bool = False,
) -> dict[str, Any]:
    """Measure a model with modalities missing, and write the report of `umemma audit` to a folder.

    predict: a function that answers B samples under a subset of the modalities. It gets {modality:
    the values of B samples} of the modalities that are there and no others, and a tuple of these
    modalities; it returns (B, C) probabilities, or logits where `logits` is True.

    inputs: {modality: N values, as an array or a list}, None in a list where a sample lacks it;
    target: N names or numbers of classes, or (N, C) sets of labels in 0 and 1; keys: N names of the
    samples; groups: N names, or {grouping: N names}, of samples that depend on one another;
    classes: C names in the order of the answers, by default 0, 1, 2 and so on.

    Returns the content of metrics.json. Raises UserError for what doesn't fit together.
    """
    from pathlib import Path

    from umemma.stages import audit as stage  # here, so that `import umemma` stays light

    return stage.run_function(predict, inputs, target, Path(out), keys, groups, classes, logits)


def load(
    folder: str | Path,
    trust: bool = False,
    device: str = "",
    broken: BrokenPolicy = "absent",
) -> Predictor:
    """Load a trained model to predict from new media; see `umemma.models.predictor.load`."""
    from umemma.models import predictor  # here, so that `import umemma` does not import torch

    return predictor.load(folder, trust, device, broken)

"""protocol: what is left of a model under a protocol of missingness, from kept predictions.

Nothing is trained and no model is loaded, so that the answer takes a second or two. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from umemma.config import Params, read_yaml
from umemma.errors import UserError
from umemma.evaluation.missingness import masks
from umemma.evaluation.missingness.expectation import ProtocolScore, score_protocol
from umemma.evaluation.missingness.protocol import (
    HINT,
    Protocol,
    SubsetWeights,
    describe,
    weigh_subsets,
)
from umemma.evaluation.predictions import Predictions, read_made_by
from umemma.reports.evaluation import PREDICTIONS
from umemma.validation import validate


class ProtocolOutcome(NamedTuple):
    """What is left under a protocol.

    name: the protocol in a line; scores: of each metric; samples: those that are scored; refused:
    those of which nothing is left; lost: the mean probability of what would have left nothing.
    """

    name: str
    scores: list[ProtocolScore]
    samples: int
    refused: int
    lost: float


def run(
    params: Params,
    kept: Path | None = None,
    protocol: Path | None = None,
    ratios: Mapping[str, float] | None = None,
    mask_table: Path | None = None,
    write_masks: Path | None = None,
    draw: int = 0,
) -> ProtocolOutcome:
    """Score the kept predictions under a protocol, rates of each modality, or a table of masks.

    kept: predictions.parquet; None = that of the last evaluation with these settings. write_masks:
    where the masks of the seeded draw number `draw` are written.
    """
    predictions = _load(kept or params.paths.results / PREDICTIONS)
    if mask_table is not None:
        weights = masks.read_masks(mask_table, predictions)
        name = f"masks of {mask_table.name}"
    else:
        folder = Path()
        data: Any = {"missing": dict(ratios or {})}
        where = "--ratio"
        if protocol is not None:
            folder, where = protocol.parent, str(protocol)
            data = read_yaml(protocol, HINT)
            if not isinstance(data, Mapping):
                raise UserError("contains no protocol", where, HINT, usage=True)
        checked = validate(Protocol, data, where)
        weights = weigh_subsets(checked, predictions, folder)
        name = describe(checked)
    if write_masks is not None:
        masks.write_masks(write_masks, weights, predictions, params.seed, draw)
    return _score(params, predictions, weights, name)


def _load(path: Path) -> Predictions:
    made_by = read_made_by(path)
    predictions = None
    if made_by is not None:
        predictions = Predictions.load(path, made_by)
    if predictions is None:
        hint = "Run: umemma evaluate-missing (or umemma audit), or name a file with --predictions."
        raise UserError("no predictions that can be read", str(path), hint)
    return predictions


def _score(
    params: Params, predictions: Predictions, weights: SubsetWeights, name: str
) -> ProtocolOutcome:
    section = params.evaluate
    scores = list(
        score_protocol(predictions, weights, params.seed, section.bootstrap, section.metrics)
    )
    samples = int(weights.scored.sum())
    return ProtocolOutcome(name, scores, samples, len(predictions.keys) - samples, weights.lost)


def parse_ratios(texts: Sequence[str]) -> dict[str, float]:
    """Return {modality: rate} of texts such as "audio=0.3"; UserError for anything else."""
    ratios = {}
    for text in texts:
        modality, _, number = text.partition("=")
        try:
            ratios[modality] = float(number)
        except ValueError:
            hint = "Write it as audio=0.3."
            what = "not a modality and a number"
            raise UserError(what, f"--ratio {text}", hint, usage=True) from None
    return ratios

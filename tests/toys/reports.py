"""Outcomes of evaluations whose reports are checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toys.predictions import logits
from umemma.evaluation import information
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.grid import Grid
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import EvaluationSettings, Outcome
from umemma.missing import list_conditions, list_patterns
from umemma.reports import evaluation
from umemma.types import ResultRow, format_pattern

EVIL = "<script>alert('1')</script> & $x^2$ | 日本"  # a name that HTML and Markdown have to escape
COMMAND = "umemma evaluate-missing --set seed=0"


def four_toads() -> Predictions:
    """Return predictions of four samples of class 1, each a group of its own.

    Right are: everything 3, audio 1, image 2; the uni-modal models: audio 2, image 1.
    """
    ensemble = {
        "audio+image": logits([1, 1, 1, 0]),
        "audio": logits([1, 0, 0, 0]),
        "image": logits([1, 1, 0, 0]),
    }
    unimodal = {"audio": logits([1, 1, 0, 0]), "image": logits([1, 0, 0, 0])}
    used = {"ensemble/audio": Calibration(2.0, (0.25, 0.0))}
    ensemble["audio"] = used["ensemble/audio"].apply(ensemble["audio"])
    keys = list("abcd")
    target = np.ones(4, dtype=np.int64)
    groups = {"sample": keys}
    return Predictions(
        keys,
        groups,
        target,
        ensemble,
        unimodal,
        ["toad", EVIL],
        used,
    )


def noisy_predictions(names: Sequence[str], classes: int, n: int) -> Predictions:
    """Return predictions of which each modality tells some of the label, by the sum of logits."""
    generator = np.random.default_rng(0)
    target = generator.integers(0, classes, n)
    unimodal = {}
    for m in names:
        noise = generator.normal(size=(n, classes))
        unimodal[m] = (np.eye(classes)[target] * 2 + noise).astype(np.float32)
    return sum_predictions(unimodal, target)


def noisy_labels(names: Sequence[str], classes: int, n: int) -> Predictions:
    """Return predictions of sets of labels; a third of every modality but the first is absent."""
    generator = np.random.default_rng(0)
    target = generator.random((n, classes)) < 0.3
    unimodal = {}
    for m in names:
        noise = generator.normal(size=(n, classes))
        unimodal[m] = ((target * 2.0 - 1) * 2 + noise).astype(np.float32)
    for m in list(names)[1:]:
        unimodal[m][generator.random(n) < 1 / 3] = np.nan
    return sum_predictions(unimodal, target.astype(np.float32))


def sum_predictions(unimodal: dict[str, np.ndarray], target: np.ndarray) -> Predictions:
    """Return the predictions of an ensemble that adds the logits of what is present."""
    ensemble = {}
    for pattern in list_patterns(list(unimodal)):
        tables = np.stack([unimodal[m] for m in pattern])
        nothing = np.isnan(tables).all(0)
        total = np.nansum(tables, 0).astype(np.float32)
        ensemble[format_pattern(pattern)] = np.where(nothing, np.nan, total).astype(np.float32)
    keys = [f"k{i}" for i in range(len(target))]
    names = [f"class {c}" for c in range(next(iter(unimodal.values())).shape[1])]
    return Predictions(keys, {"sample": keys}, target, ensemble, unimodal, names)


def make_settings(metric: str = "accuracy") -> EvaluationSettings:
    return EvaluationSettings(
        preset="ume-mma",
        init="unimodal",
        mma="all",
        train="all",
        balance="none",
        absent="learned",
        dataset="frogs|",
        variant="",
        metric=metric,
        split="test",
        samples=4,
        seed=0,
        train_missing={"audio": 0.5},
        calibrated=True,
    )


def evaluate(
    predictions: Predictions,
    ratios: Sequence[float] = (0.0, 0.5, 1.0),
    metrics: Sequence[str] | None = None,
) -> Outcome:
    """Return the outcome of predictions: 2 draws, 50 resamples."""
    grid = Grid(predictions, 0, 2, 50, metrics)
    subsets, missing = grid.rows(list_conditions(predictions.modalities), ratios)
    report = information.estimate_information(predictions, grid.bootstrap)
    settings = make_settings(grid.metrics[0].name)
    return Outcome(
        subsets,
        missing,
        grid.metrics,
        settings,
        report,
    )


def write(folder: Path, predictions: Predictions) -> None:
    """Write the files of results/."""
    evaluation.write(folder, evaluate(predictions), predictions, COMMAND)


def change_rows(outcome: Outcome, model: str, left: str, **changes: float) -> Outcome:
    """Return an outcome with other numbers in the leading metric's row of a model and a subset."""
    metric = outcome.metrics[0].name
    rows: list[ResultRow] = []
    for row in outcome.subsets:
        if row.model == model and row.left == left and row.metric == metric:
            row = row._replace(**changes)
        rows.append(row)
    return Outcome(
        rows,
        outcome.ratios,
        outcome.metrics,
        outcome.settings,
        outcome.information,
    )

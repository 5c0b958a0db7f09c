"""Predictions of several folds as those of one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from umemma.evaluation.classification import thresholds as class_thresholds
from umemma.evaluation.classification.thresholds import Thresholds
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.regression import gaussian
from umemma.types import TargetScale


def pool_folds(folds: Sequence[Predictions]) -> Predictions:
    """Return the predictions of all folds as those of one split, one fold after another.

    Each fold's logits are calibrated by its own models, so there is no calibration to undo. The
    prior is the mean over folds, as often as samples have it. In regression all folds are in the
    scales of the first one, whose training samples also make the constant answer.
    """
    if len(folds) == 1:
        return folds[0]
    first = folds[0]
    folds = [_rescale(fold, first.scales) for fold in folds]
    sizes = np.array([len(fold.keys) for fold in folds])
    prior: list[float] = []
    if all(fold.prior for fold in folds):
        prior = np.average([fold.prior for fold in folds], 0, sizes).tolist()
    return Predictions(
        keys=[key for fold in folds for key in fold.keys],
        groups={
            name: [group for fold in folds for group in fold.groups[name]] for name in first.groups
        },
        target=np.concatenate([fold.target for fold in folds]),
        ensemble=_join_tables([fold.ensemble for fold in folds]),
        unimodal=_join_tables([fold.unimodal for fold in folds]),
        classes=first.classes,
        probes=_join_tables([fold.probes for fold in folds]),
        prior=prior,
        scales=first.scales,
        thresholds=_average_thresholds(folds),
    )


def _average_thresholds(folds: Sequence[Predictions]) -> dict[str, Thresholds]:
    """Return the thresholds of answers from any of the folds, each the mean over folds."""
    names = {name for fold in folds for name in fold.thresholds}
    averages = {}
    for name in sorted(names):
        tables = [fold.thresholds.get(name, ()) for fold in folds]
        averages[name] = class_thresholds.average(tables, folds[0].task)
    return averages


def _rescale(fold: Predictions, scales: Sequence[TargetScale]) -> Predictions:
    """Return the predictions of a regression in other scales; those of classes stay."""
    if list(fold.scales) == list(scales):
        return fold
    factor = np.array([own.std / s.std for own, s in zip(fold.scales, scales, strict=True)])
    offset = np.array(
        [(own.mean - s.mean) / s.std for own, s in zip(fold.scales, scales, strict=True)]
    )
    tables = []
    for models in (fold.ensemble, fold.unimodal, fold.probes):
        rescaled = {}
        for name, outputs in models.items():
            rescaled[name] = gaussian.rescale(outputs, factor, offset).astype(np.float32)
        tables.append(rescaled)
    ensemble, unimodal, probes = tables
    target = fold.target * factor + offset
    return replace(
        fold, target=target, ensemble=ensemble, unimodal=unimodal, probes=probes, scales=scales
    )


def _join_tables(tables: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return {name: (N, C)} of what every fold has a table of."""
    names = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: np.concatenate([table[name] for table in tables]) for name in names}

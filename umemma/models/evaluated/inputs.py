"""The trained models that an evaluation reads, checked against the settings first.

`check_inputs` needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from loguru import logger

from umemma.config import Params
from umemma.data import shard_reader
from umemma.evaluation import metrics
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.classification.thresholds import Thresholds, to_uncalibrated
from umemma.evaluation.results import EvaluationSettings
from umemma.models import saved_model
from umemma.system.storage import Store
from umemma.types import TargetScale
from umemma.validation import fingerprint

if TYPE_CHECKING:
    import torch

    from umemma.models.late_fusion import LateFusion

ENSEMBLE = "Run: umemma finetune-ensemble"
Fitted = TypeVar("Fitted")


@dataclass(frozen=True)
class EvaluationInputs:
    """What an evaluation reads, checked against the settings before anything is computed.

    calibration, thresholds: of each table of logits, {} if they are not applied; made_by: a hash of
    everything that the predictions depend on; prior: the share of each class in training; scales:
    of the targets of a regression.
    """

    index: shard_reader.Index
    settings: EvaluationSettings
    calibration: dict[str, Calibration]
    made_by: str
    prior: list[float]
    scales: list[TargetScale]
    thresholds: dict[str, Thresholds]


def check_inputs(params: Params) -> EvaluationInputs:
    """Return what the evaluation reads; UserError if it is missing or of other settings."""
    params.evaluate.check_split()
    store = Store(params.paths.shards)
    index = shard_reader.read_index(store, params.shard_settings()).select_fold(params.fold_number)
    params.check_modalities(index.modalities, index.kinds)
    class_count = len(index.classes)
    lead = metrics.select_metrics(params.evaluate.metrics, index.task, class_count)[0]

    # The settings are part of what predictions depend on: of the rule of absence, say.
    ensemble_settings = params.ensemble_settings(index.fingerprint)
    ensemble = saved_model.check(params.paths.ensemble, ensemble_settings, ENSEMBLE)
    weights = {"ensemble": [ensemble.weights_sha256, fingerprint(ensemble_settings)]}
    calibration = _name_tables_of("ensemble", ensemble.calibration)
    thresholds = _name_tables_of("ensemble", ensemble.thresholds)
    for m in sorted(params.modalities):
        unimodal_settings = params.unimodal_settings(m, index.fingerprint)
        unimodal = saved_model.check(
            params.paths.pretrain(m), unimodal_settings, _name_pretraining(m)
        )
        weights[m] = [unimodal.weights_sha256, fingerprint(unimodal_settings)]
        calibration |= _name_tables_of("unimodal", unimodal.calibration)
        thresholds |= _name_tables_of("unimodal", unimodal.thresholds)
    if not params.evaluate.calibrate:
        thresholds = leave_calibration_out(thresholds, calibration, index.task)
        calibration = {}
    if thresholds and params.evaluate.split == "val":
        logger.warning("Thresholds were fitted on val: metrics of answers look too good there.")
    split = params.evaluate.split
    finetune = ensemble_settings["finetune"]
    folds: tuple[int, ...] = ()
    if params.fold_number is not None:
        folds = (params.fold_number,)
    settings = EvaluationSettings(
        preset=finetune["preset"],
        init=finetune["init"],
        mma=finetune["mma"],
        train=finetune["train"],
        balance=finetune["balance"],
        absent=params.finetune.absence_rule,
        dataset=params.name,
        variant=index.variant,
        metric=lead.name,
        split=split,
        samples=index.samples(split),
        seed=params.seed,
        train_missing=ensemble_settings["missing"]["train"],
        calibrated=params.evaluate.calibrate,
        folds=folds,
    )
    made_from = {
        "shards": index.fingerprint,
        "split": split,
        "weights": weights,
        "calibration": {name: fitted.as_json() for name, fitted in calibration.items()},
    }
    if thresholds:
        made_from["thresholds"] = {name: list(found) for name, found in thresholds.items()}
    made_by = fingerprint(made_from)
    return EvaluationInputs(
        index, settings, calibration, made_by, ensemble.prior, ensemble.scales, thresholds
    )


def leave_calibration_out(
    thresholds: Mapping[str, Thresholds], calibration: Mapping[str, Calibration], task: str
) -> dict[str, Thresholds]:
    """Return the thresholds for logits that are not calibrated.

    Those of labels are part of what a model answers, and give the same answers. Those of single
    classes undo what calibration does to the answers of weighed classes.
    """
    if task != "multilabel":
        return {}
    return {
        name: to_uncalibrated(found, calibration.get(name, Calibration()).undo)
        for name, found in thresholds.items()
    }


def _name_tables_of(model: str, fitted: Mapping[str, Fitted]) -> dict[str, Fitted]:
    """Return what is fitted to each subset or probe, by the names that `Predictions` has."""
    named = {}
    for name, one in fitted.items():
        if not name.startswith("probe/"):
            name = f"{model}/{name}"
        named[name] = one
    return named


def load_models(
    params: Params,
    index: shard_reader.Index,
    device: torch.device,
) -> tuple[LateFusion, dict[str, LateFusion]]:
    """Return the ensemble, and {modality: its uni-modal model}."""
    from umemma.models import factory

    names = sorted(params.modalities)
    encoders = {m: params.encoder(m) for m in names}
    specs = factory.input_specs(encoders, index.inputs)
    section = params.finetune
    ensemble = factory.build(
        encoders,
        specs,
        index.classes,
        section.absent,
        fusion=section.switches().fusion,
        task=index.task,
    )
    settings = params.ensemble_settings(index.fingerprint)
    saved_model.load(params.paths.ensemble, ensemble, settings, ENSEMBLE)
    factory.place_on_device(ensemble, params.finetune, device)
    unimodal = {}
    for m in names:
        model = factory.build({m: encoders[m]}, {m: specs[m]}, index.classes, task=index.task)
        settings = params.unimodal_settings(m, index.fingerprint)
        saved_model.load(params.paths.pretrain(m), model, settings, _name_pretraining(m))
        unimodal[m] = factory.place_on_device(model, params.pretrain.of(m), device)
    return ensemble, unimodal


def _name_pretraining(modality: str) -> str:
    """Return what to do where a uni-modal model is missing."""
    return f"Run: umemma pretrain-unimodal --modality {modality}"

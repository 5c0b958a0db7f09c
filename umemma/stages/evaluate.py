"""evaluate-missing: what is left when modalities go missing -> results/<dataset>/.

`run` makes one encoder pass over the split and writes everything; `ask` answers a single question
from the kept predictions, without torch, and writes nothing.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from loguru import logger

from umemma.config import Params
from umemma.data import shard_reader
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.evaluation import information, metrics
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.grid import Grid, write_rows
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import (
    EvaluationSettings,
    Outcome,
    find_ceiling,
    group_by_condition,
    mean_and_std,
    replace_nan,
    summarize,
)
from umemma.missing import list_conditions, list_patterns, make_keep_table, parse_missing
from umemma.models import saved_model
from umemma.reports import evaluation
from umemma.system import distributed
from umemma.system.files import new_files
from umemma.types import format_pattern
from umemma.validation import fingerprint

PREDICTIONS = "predictions.parquet"
ENSEMBLE = "Run: umemma finetune-ensemble"


@dataclass(frozen=True)
class _Inputs:
    """What an evaluation reads, checked against the settings before anything is computed.

    calibration: of each table of logits, {} if it is not applied; made_by: a hash of everything
    that the predictions depend on.
    """

    index: shard_reader.Index
    settings: EvaluationSettings
    calibration: dict[str, Calibration]
    made_by: str


def run(params: Params) -> Outcome:
    """Evaluate the whole grid, and write it to results/<dataset>/.

    Of several processes, the main one writes and has the outcome; that of the others has no rows.
    """
    inputs = _check_inputs(params)
    predictions = _predict(params, inputs)
    if not distributed.is_main():
        return Outcome([], [], [], inputs.settings)
    grid = _make_grid(params, predictions)
    rows = grid.rows(list_conditions(params.modalities), params.evaluate.ratios)
    report = information.estimate_information(
        predictions,
        grid.bootstrap,
        grid.metrics[0],
        params.evaluate.smallest_effect,
    )
    outcome = Outcome(*rows, grid.metrics, inputs.settings, report)
    with new_files(params.paths.results) as folder:
        predictions.save(folder / PREDICTIONS, inputs.made_by)
        settings = inputs.settings
        constants = {
            "dataset": settings.dataset,
            "variant": settings.variant,
            "split": settings.split,
            "absent": settings.absent,
        }
        write_rows(folder / "grid.parquet", outcome.subsets + outcome.ratios, constants)
        evaluation.write(folder, outcome, predictions, _format_command(params))
    return outcome


def ask(params: Params, missing: str, ratios: Sequence[float]) -> Outcome:
    """Return the rows of one question.

    missing: "audio,image" is both at once, "audio|image" one of the two, "" everything that can go
    missing; ratios: if empty, those of the settings. UserError for an unknown modality, for a ratio
    outside 0..1, and where nothing would be left.
    """
    for ratio in ratios:
        if not 0 <= ratio <= 1:
            raise UserError(
                f"{ratio} is not in 0..1",
                "--ratio",
                "It is the share of samples, e.g. 0.5.",
                usage=True,
            )
    names = params.modalities
    missing_sets = list_conditions(names)
    if missing:
        missing_sets = [parse_missing(missing.replace(",", "+"), names, "--missing")]
    inputs = _check_inputs(params)
    predictions = Predictions.load(params.paths.results / PREDICTIONS, inputs.made_by)
    if predictions is None:
        logger.info(
            "No kept predictions of these models: encoding the split again "
            "(umemma evaluate keeps them)."
        )
        predictions = _predict(params, inputs)
    grid = _make_grid(params, predictions)
    rows = grid.rows(missing_sets, ratios or params.evaluate.ratios)
    return Outcome(*rows, grid.metrics, inputs.settings)


def _make_grid(params: Params, predictions: Predictions) -> Grid:
    section = params.evaluate
    return Grid(predictions, params.seed, section.draws, section.bootstrap, section.metrics)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for machines.

    It has the numbers of metrics.json, and in `results` an entry per metric, missing set and ratio.
    """
    complete = {}
    unimodal: dict[str, dict[str, float]] = {metric.name: {} for metric in outcome.metrics}
    for row in outcome.subsets:
        if row.model == "ensemble" and not row.missing:
            complete[row.metric] = row.value
        if row.model == "unimodal":
            unimodal[row.metric][row.left] = row.value
    higher = {metric.name: metric.higher for metric in outcome.metrics}
    results = []
    for row, draws in group_by_condition(outcome.ratios):
        mean, std = mean_and_std([draw.value for draw in draws])
        ceiling = find_ceiling(row.left, unimodal[row.metric], higher[row.metric])
        entry = {
            "missing": row.missing,
            "left": row.left,
            "ratio": row.ratio,
            "metric": row.metric,
            "value": row.value,
            "low": row.low,
            "high": row.high,
            "samples": row.n,
            "refused": row.refused,
            "complete": complete[row.metric],
            "unimodal_ceiling": ceiling,
            "draws": {"mean": mean, "std": std, "count": len(draws)},
        }
        results.append(entry)
    answer = {**summarize(outcome), **outcome.settings.to_dict(), "results": results}
    return dict(replace_nan(answer))


def _format_command(params: Params) -> str:
    """Return the command line that makes the same files."""
    if params.place:  # an experiment of a comparison has its settings in a file
        run_folder = params.paths.runs / params.place / params.finetune.preset
        return f"umemma evaluate-missing --params {run_folder}/params.json"
    changes = {"seed": params.seed}
    for name, value in params.evaluate.model_dump(mode="json", exclude_defaults=True).items():
        changes[f"evaluate.{name}"] = value
    words = ["umemma evaluate-missing"]
    for name, value in changes.items():
        words.append(f"--set {shlex.quote(f'{name}={json.dumps(value)}')}")
    return " ".join(words)


def _check_inputs(params: Params) -> _Inputs:
    """Return what the evaluation reads; UserError if it is missing or of other settings."""
    params.evaluate.check_split()
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    params.check_modalities(index.modalities)
    class_count = len(index.classes)
    lead = metrics.select_metrics(params.evaluate.metrics, index.task, class_count)[0]

    # The settings are part of what predictions depend on: of the rule of absence, say.
    ensemble_settings = params.ensemble_settings(index.fingerprint)
    ensemble = saved_model.check(params.paths.ensemble, ensemble_settings, ENSEMBLE)
    weights = {"ensemble": [ensemble.weights_sha256, fingerprint(ensemble_settings)]}
    calibration = {}
    for name, fitted in ensemble.calibration.items():
        if not name.startswith("probe/"):
            name = f"ensemble/{name}"
        calibration[name] = fitted
    for m in sorted(params.modalities):
        unimodal_settings = params.unimodal_settings(m, index.fingerprint)
        unimodal = saved_model.check(
            params.paths.pretrain(m), unimodal_settings, _name_pretraining(m)
        )
        weights[m] = [unimodal.weights_sha256, fingerprint(unimodal_settings)]
        for subset, fitted in unimodal.calibration.items():
            calibration[f"unimodal/{subset}"] = fitted
    if not params.evaluate.calibrate:
        calibration = {}
    split = params.evaluate.split
    finetune = ensemble_settings["finetune"]
    settings = EvaluationSettings(
        preset=finetune["preset"],
        init=finetune["init"],
        mma=finetune["mma"],
        train=finetune["train"],
        balance=finetune["balance"],
        absent=finetune["absent"],
        dataset=params.dataset,
        variant=index.variant,
        metric=lead.name,
        split=split,
        samples=index.samples(split),
        seed=params.seed,
        train_missing=ensemble_settings["missing"]["train"],
        calibrated=params.evaluate.calibrate,
    )
    made_from = {
        "shards": index.fingerprint,
        "split": split,
        "weights": weights,
        "calibration": {name: fitted.as_json() for name, fitted in calibration.items()},
    }
    return _Inputs(index, settings, calibration, fingerprint(made_from))


def _predict(params: Params, inputs: _Inputs) -> Predictions:
    """Predict the split with the ensemble and each uni-modal model, in one pass.

    Several processes share the samples.
    """
    import torch

    from umemma.data.decoding import watch_workers
    from umemma.models import factory
    from umemma.training.reproducibility import explain_nondeterminism, prepare
    from umemma.training.step import predict_logits
    from umemma.training.train import DataSource

    section = params.evaluate
    index = inputs.index
    names = sorted(params.modalities)
    encoders = {m: params.encoder(m) for m in names}
    specs = factory.input_specs(encoders)
    device = prepare(params.seed, "evaluate", machine=params.machine)

    # 1. Load the models, each with the patterns that it predicts.
    model = factory.build(encoders, specs, index.classes, params.finetune.absent)
    ensemble_settings = params.ensemble_settings(index.fingerprint)
    saved_model.load(params.paths.ensemble, model, ensemble_settings, ENSEMBLE)
    model = factory.place_on_device(model, params.finetune, device)
    models = [(model, torch.from_numpy(make_keep_table(names)))]
    for m in names:
        model = factory.build({m: encoders[m]}, {m: specs[m]}, index.classes)
        settings = params.unimodal_settings(m, index.fingerprint)
        saved_model.load(params.paths.pretrain(m), model, settings, _name_pretraining(m))
        model = factory.place_on_device(model, params.pretrain.of(m), device)
        models.append((model, torch.ones(1, 1, dtype=torch.bool)))

    # 2. Pass the split through all of them.
    data = DataSource(Store(params.paths.shards), index, specs, params.machine, params.seed)
    has_probes = len(names) > 1
    with contextlib.ExitStack() as stay, watch_workers(), explain_nondeterminism():
        split = data.load(section.split, stay, "evaluate")
        predicted = predict_logits(models, split, section.batch_size, device, has_probes)
        ensemble_logits, *unimodal_logits = (logits.numpy() for logits in predicted)

    # 3. Name the tables: (N, S + M, C) of the ensemble's subsets and probes, (N, 1, C) of a model.
    subsets = list_patterns(names)
    ensemble = {format_pattern(pattern): ensemble_logits[:, s] for s, pattern in enumerate(subsets)}
    unimodal = {m: logits[:, 0] for m, logits in zip(names, unimodal_logits, strict=True)}
    probes = {}
    if has_probes:
        for i, m in enumerate(names):
            logits = ensemble_logits[:, len(subsets) + i]
            if not np.isnan(logits).all():  # otherwise there was nothing to fit
                probes[m] = logits
    return Predictions.calibrated(
        split.keys,
        split.groups,
        split.target.numpy(),
        (ensemble, unimodal, probes),
        index.classes,
        inputs.calibration,
    )


def _name_pretraining(modality: str) -> str:
    """Return what to do where a uni-modal model is missing."""
    return f"Run: umemma pretrain-unimodal --modality {modality}"

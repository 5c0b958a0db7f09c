"""evaluate-missing: what is left when modalities go missing -> results/<dataset>/.

`run` makes one encoder pass over the split and writes everything; `ask` answers a single question from the kept
predictions, without torch, and writes nothing.
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

KEPT = "predictions.parquet"
ENSEMBLE = "Run: umemma finetune-ensemble"


@dataclass(frozen=True)
class _Inputs:
    """What an evaluation reads, checked against the settings before anything is computed."""

    index: shard_reader.Index
    settings: EvaluationSettings
    calibration: dict[str, Calibration]
    made_by: str


def run(params: Params) -> Outcome:
    """The whole grid, written to results/<dataset>/; of several processes the main one has the outcome."""
    inputs = _inputs(params)
    predictions = _predict(params, inputs)
    if not distributed.is_main():
        return Outcome([], [], [], inputs.settings)
    grid = _grid(params, predictions)
    rows = grid.rows(list_conditions(params.modalities), params.evaluate.ratios)
    section = params.evaluate
    bits = information.estimate_information(
        predictions, grid.bootstrap, grid.metrics[0], section.smallest_effect
    )
    outcome = Outcome(*rows, grid.metrics, inputs.settings, bits)
    with new_files(params.paths.results) as folder:
        predictions.save(folder / KEPT, inputs.made_by)
        constants = {
            "dataset": inputs.settings.dataset,
            "variant": inputs.settings.variant,
            "split": inputs.settings.split,
            "absent": inputs.settings.absent,
        }
        write_rows(folder / "grid.parquet", outcome.subsets + outcome.ratios, constants)
        evaluation.write(folder, outcome, predictions, _command(params))
    return outcome


def ask(params: Params, missing: str, ratios: Sequence[float]) -> Outcome:
    """The rows of what goes `missing` (of everything that can, if it is "") at `ratios` (those of the settings, if empty).

    "audio,image" is both at once, "audio|image" one of the two. UserError for an unknown modality, for a ratio outside
    0..1, and where nothing would be left.
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
    sets = (
        [parse_missing(missing.replace(",", "+"), names, "--missing")]
        if missing
        else list_conditions(names)
    )
    inputs = _inputs(params)
    predictions = Predictions.load(params.paths.results / KEPT, inputs.made_by)
    if predictions is None:
        logger.info(
            "No kept predictions of these models: encoding the split again (umemma evaluate keeps them)."
        )
        predictions = _predict(params, inputs)
    grid = _grid(params, predictions)
    rows = grid.rows(sets, ratios or params.evaluate.ratios)
    return Outcome(*rows, grid.metrics, inputs.settings)


def _grid(params: Params, predictions: Predictions) -> Grid:
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


def _command(params: Params) -> str:
    """The command line that makes the same files: the seed, and what of the evaluation isn't its default."""
    changed = params.evaluate.model_dump(mode="json", exclude_defaults=True)
    sets = {"seed": params.seed} | {f"evaluate.{name}": value for name, value in changed.items()}
    words = (shlex.quote(f"{name}={json.dumps(value)}") for name, value in sets.items())
    if params.place:  # a cell of a comparison has its settings in a file
        return f"umemma evaluate-missing --params {params.paths.runs / params.place / params.finetune.preset}/params.json"
    return " ".join(["umemma evaluate-missing", *(f"--set {word}" for word in words)])


def _inputs(params: Params) -> _Inputs:
    params.evaluate.check_split()
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    params.check_modalities(index.modalities)
    lead = metrics.select_metrics(params.evaluate.metrics, index.task, len(index.classes))[0]
    own = params.ensemble_settings(index.fingerprint)
    ensemble = saved_model.check(params.paths.ensemble, own, ENSEMBLE)
    weights = {
        "ensemble": [ensemble.weights_sha256, fingerprint(own)]
    }  # settings: what absence becomes, say
    fitted = {
        name if name.startswith("probe/") else f"ensemble/{name}": one
        for name, one in ensemble.calibration.items()
    }
    for m in sorted(params.modalities):
        expected = params.unimodal_settings(m, index.fingerprint)
        alone = saved_model.check(params.paths.pretrain(m), expected, _pretrain(m))
        weights[m] = [alone.weights_sha256, fingerprint(expected)]
        fitted |= {f"unimodal/{subset}": one for subset, one in alone.calibration.items()}
    split = params.evaluate.split
    finetune = own["finetune"]
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
        train_missing=own["missing"]["train"],
        calibrated=params.evaluate.calibrate,
    )
    applied = {name: one for name, one in fitted.items() if params.evaluate.calibrate}
    made_from = {"shards": index.fingerprint, "split": split, "weights": weights}
    made_from |= {"calibration": {name: one.as_json() for name, one in applied.items()}}
    return _Inputs(index, settings, applied, fingerprint(made_from))


def _predict(params: Params, inputs: _Inputs) -> Predictions:
    """One pass over the split for the ensemble and each uni-modal model, shared among the processes."""
    import torch

    from umemma.data.decoding import watch_workers
    from umemma.models import factory
    from umemma.training.reproducibility import explain_nondeterminism, prepare
    from umemma.training.step import predict_logits
    from umemma.training.train import DataSource

    section, index, names = params.evaluate, inputs.index, sorted(params.modalities)
    chosen = {m: params.encoder(m) for m in names}
    specs = factory.input_specs(chosen)
    device = prepare(params.seed, "evaluate", deterministic=params.machine.deterministic)
    model = factory.build(chosen, specs, index.classes, params.finetune.absent)
    saved_model.load(
        params.paths.ensemble, model, params.ensemble_settings(index.fingerprint), ENSEMBLE
    )
    several = [
        (
            factory.place_on_device(model, params.finetune, device),
            torch.from_numpy(make_keep_table(names)),
        )
    ]
    for m in names:
        model = factory.build({m: chosen[m]}, {m: specs[m]}, index.classes)
        saved_model.load(
            params.paths.pretrain(m),
            model,
            params.unimodal_settings(m, index.fingerprint),
            _pretrain(m),
        )
        several.append(
            (
                factory.place_on_device(model, params.pretrain.of(m), device),
                torch.ones(1, 1, dtype=torch.bool),
            )
        )
    data = DataSource(Store(params.paths.shards), index, specs, params.machine, params.seed)
    with contextlib.ExitStack() as stay, watch_workers(), explain_nondeterminism():
        split = data.load(section.split, stay, "evaluate")
        probed = len(names) > 1
        logits, *alone = (
            one.numpy()
            for one in predict_logits(several, split, section.batch_size, device, probed)
        )
    subsets = list_patterns(names)
    ensemble = {format_pattern(pattern): logits[:, s] for s, pattern in enumerate(subsets)}
    unimodal = {m: one[:, 0] for m, one in zip(names, alone, strict=True)}
    probes = {m: logits[:, len(subsets) + i] for i, m in enumerate(names) if probed}
    probes = {
        m: one for m, one in probes.items() if not np.isnan(one).all()
    }  # else there was nothing to fit
    target, raw = split.target.numpy(), (ensemble, unimodal, probes)
    return Predictions.calibrated(
        split.keys, split.groups, target, raw, index.classes, inputs.calibration
    )


def _pretrain(modality: str) -> str:
    return f"Run: umemma pretrain-unimodal --modality {modality}"

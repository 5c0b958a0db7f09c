"""evaluate-missing: what is left when modalities go missing -> results/<dataset>/.

`run` makes one encoder pass over the split and writes everything; `ask` answers a single question from the kept
predictions, without torch, and writes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loguru import logger

from umemma import checkpoint, distributed, metrics, report, shards
from umemma.checks import fingerprint
from umemma.config import Params
from umemma.contracts import ResultRow, joined
from umemma.errors import UserError, unknown
from umemma.files import new_files
from umemma.grid import Grid, Predictions, write_rows
from umemma.missing import keep_table, missing_sets, patterns
from umemma.store import Store

KEPT = "predictions.parquet"


@dataclass(frozen=True)
class Outcome:
    """subsets: a row per modality subset and uni-modal model; ratios: per (missing set, ratio, draw); about: settings."""

    subsets: list[ResultRow]
    ratios: list[ResultRow]
    about: dict[str, Any]


@dataclass(frozen=True)
class _Inputs:
    """What an evaluation reads, checked against the settings before anything is computed."""

    index: shards.Index
    about: dict[str, Any]
    made_by: str


def run(params: Params) -> Outcome:
    """The whole grid, written to results/<dataset>/."""
    inputs = _inputs(params)
    section = params.evaluate
    predictions = _predict(params, inputs)
    grid = Grid(predictions, params.seed, section.draws, section.bootstrap)
    outcome = Outcome(list(grid.subsets()), list(grid.all_ratios(section.ratios)), inputs.about)
    if not distributed.is_main():
        return outcome
    with new_files(params.paths.results) as folder:
        predictions.save(folder / KEPT, inputs.made_by)
        constants = {name: str(inputs.about[name]) for name in ("dataset", "variant", "split", "absent")}
        write_rows(folder / "grid.parquet", outcome.subsets + outcome.ratios, constants)
        report.write(folder, outcome.subsets, outcome.ratios, inputs.about, "umemma evaluate-missing")
    return outcome


def ask(params: Params, missing: Sequence[str], ratios: Sequence[float]) -> Outcome:
    """The rows of one missing set (of all, if `missing` is empty) at `ratios` (those of the settings, if empty).

    UserError for an unknown modality, for a ratio outside 0..1, and where nothing would be left.
    """
    for name in missing:
        if name not in params.modalities:
            raise unknown("modality", name, params.modalities, "--missing")
    if set(missing) == set(params.modalities):
        raise UserError(
            "nothing is left to predict from", f"--missing {','.join(missing)}", "Leave one out.", usage=True
        )
    for ratio in ratios:
        if not 0 <= ratio <= 1:
            raise UserError(f"{ratio} is not in 0..1", "--ratio", "It is the share of samples, e.g. 0.5.", usage=True)
    inputs = _inputs(params)
    section = params.evaluate
    predictions = Predictions.load(params.paths.results / KEPT, inputs.made_by)
    if predictions is None:
        logger.info("No kept predictions of these models: encoding the split again (umemma evaluate keeps them).")
        predictions = _predict(params, inputs)
    grid = Grid(predictions, params.seed, section.draws, section.bootstrap)
    sets = [sorted(set(missing))] if missing else missing_sets(params.modalities)
    rows = [row for one in sets for row in grid.ratios(one, ratios or section.ratios)]
    return Outcome(list(grid.subsets()), rows, inputs.about)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome for machines: the summary of metrics.json, and an entry per (missing set, ratio)."""
    numbers = report.summary(outcome.subsets)
    complete = next(row for row in outcome.subsets if not row.missing)
    results = []
    for row, drawn in report.by_setting(outcome.ratios):
        mean, std = report.spread([one.value for one in drawn])
        entry = {name: getattr(row, name) for name in ("missing", "left", "ratio", "metric", "value", "low", "high")}
        entry |= {"samples": row.n, "refused": row.refused, "complete": complete.value}
        entry |= {"unimodal_ceiling": report.ceiling(row.left, numbers["unimodal"])}
        results.append(entry | {"draws": {"mean": mean, "std": std, "count": len(drawn)}})
    return {**numbers, **outcome.about, "results": results}


def _inputs(params: Params) -> _Inputs:
    index = shards.read_index(Store(params.paths.shards), params.shard_settings())
    params.check_modalities(index.modalities)
    settings = params.ensemble_settings(index.fingerprint)
    ensemble = checkpoint.check(params.paths.ensemble, settings, "Run: umemma finetune-ensemble")
    weights = {"ensemble": [ensemble["weights_sha256"], fingerprint(settings)]}  # settings: what absence becomes, say
    for m in sorted(params.modalities):
        expected = params.unimodal_settings(m, index.fingerprint)
        alone = checkpoint.check(params.paths.pretrain(m), expected, _pretrain(m))
        weights[m] = [alone["weights_sha256"], fingerprint(expected)]
    finetune, split = settings["finetune"], params.evaluate.split
    about = {name: finetune[name] for name in ("preset", "init", "mma", "train", "absent")}
    about |= {"dataset": params.dataset, "variant": index.variant, "metric": metrics.NAMES[index.task]}
    about |= {"split": split, "samples": index.samples(split), "seed": params.seed}
    made_by = fingerprint({"shards": index.fingerprint, "split": split, "weights": weights})
    return _Inputs(index, about, made_by)


def _predict(params: Params, inputs: _Inputs) -> Predictions:
    """One encoder pass of the ensemble and of each uni-modal model over the split, shared among the processes."""
    import torch

    from umemma import models
    from umemma.learning import Data
    from umemma.loader import watched
    from umemma.log import progress
    from umemma.patterns import pattern_logits
    from umemma.trainer import prepare

    section, index = params.evaluate, inputs.index
    chosen = {m: params.encoder(m) for m in sorted(params.modalities)}
    specs = models.input_specs(chosen)
    device = prepare(params.seed, "evaluate")
    data = Data(Store(params.paths.shards), index, specs, params.machine, params.seed)
    with contextlib.ExitStack() as stay, watched():
        split = data.load(section.split, stay, "evaluate")
        bars = stay.enter_context(progress())
        bar = bars.add_task("evaluate: predict", total=1 + len(chosen), note="")
        ensemble = models.build(chosen, specs, index.classes, params.finetune.absent)
        settings = params.ensemble_settings(index.fingerprint)
        checkpoint.load(params.paths.ensemble, ensemble, settings, "Run: umemma finetune-ensemble")
        models.ready(ensemble, params.finetune, device)
        table = torch.from_numpy(keep_table(ensemble.modalities))
        logits = pattern_logits(ensemble, split, table, section.batch_size, device)
        subsets = [joined(pattern) for pattern in patterns(ensemble.modalities)]
        bars.advance(bar)

        alone = {}
        for m in ensemble.modalities:
            model = models.build({m: chosen[m]}, {m: specs[m]}, index.classes)
            settings = params.unimodal_settings(m, index.fingerprint)
            checkpoint.load(params.paths.pretrain(m), model, settings, _pretrain(m))
            models.ready(model, params.pretrain, device)
            alone[m] = pattern_logits(model, split.of({m}), table[:1, :1], section.batch_size, device)[:, 0].numpy()
            bars.advance(bar)
    by_subset = {subset: logits[:, s].numpy() for s, subset in enumerate(subsets)}
    return Predictions(split.keys, split.groups, split.target.numpy(), by_subset, alone)


def _pretrain(modality: str) -> str:
    return f"Run: umemma pretrain-unimodal --modality {modality}"

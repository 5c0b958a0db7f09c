"""evaluate-missing: what is left when modalities go missing -> results/<dataset>/.

`run` makes one encoder pass over the split and writes everything, or takes the cached features of
frozen encoders; `ask` answers a single question from the kept predictions, without torch, and
writes no result.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from loguru import logger

from umemma.config import Params, Training
from umemma.data import shard_reader
from umemma.errors import UserError
from umemma.evaluation.grid import Grid
from umemma.evaluation.predictions import Predictions, name_tables
from umemma.evaluation.results import (
    NO_FOLDS,
    Outcome,
    measure_outcome,
)
from umemma.evaluation.tables.folds import pool_folds
from umemma.missing import list_conditions, make_keep_table, parse_missing
from umemma.models.evaluated.inputs import EvaluationInputs, check_inputs, load_models
from umemma.reports import evaluation
from umemma.system import distributed
from umemma.system.files import new_files
from umemma.system.storage import Store
from umemma.validation import fingerprint

if TYPE_CHECKING:
    import numpy as np
    import torch

    from umemma.data.loader import LoadedSplit
    from umemma.models.late_fusion import LateFusion
    from umemma.training.train import DataSource


def run(params: Params) -> Outcome:
    """Evaluate the whole grid, and write it to results/<dataset>/.

    Of several processes, the main one writes and has the outcome; that of the others has no rows.
    """
    inputs = check_inputs(params)
    predictions = _predict(params, inputs)
    if predictions is None:
        return Outcome([], [], [], inputs.settings)
    return _write(params, inputs, predictions)


def run_all_folds(params: Params) -> Outcome:
    """Evaluate the test samples of all folds together, from the predictions that each fold keeps.

    Without `fold` the paths are those of all folds. UserError where a fold has none.
    """
    params = params.model_copy(update={"fold": ""})
    inputs, predictions = _collect_folds(params)
    by_subset: dict[str, dict[int, float]] = {}
    for number, of_fold in zip(inputs.settings.folds, predictions, strict=True):
        grid = _make_grid(params, of_fold)
        for row in grid.subsets(grid.metrics[0]):
            if row.model == "ensemble":
                by_subset.setdefault(row.left, {})[number] = row.value
    return _write(params, inputs, pool_folds(predictions), by_subset)


def _collect_folds(params: Params) -> tuple[EvaluationInputs, list[Predictions]]:
    """Return the inputs of all folds as one, and the predictions of each."""
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    if not index.folds:
        raise UserError("the shards have no folds", "--all-folds", usage=True)
    inputs: list[EvaluationInputs] = []
    predictions: list[Predictions] = []
    for fold in index.folds:
        own = params.model_copy(update={"fold": fold.number})
        hint = f"Run each stage with --set fold={fold.number}, then this command again."
        try:
            inputs.append(check_inputs(own))
        except UserError as error:
            raise UserError(f"fold {fold.number}: {error.what}", error.where, hint) from None
        kept = Predictions.load(own.paths.results / evaluation.PREDICTIONS, inputs[-1].made_by)
        if kept is None:
            what = f"fold {fold.number} is not evaluated with these models"
            raise UserError(what, str(own.paths.results), hint)
        predictions.append(kept)
    settings = dataclasses.replace(
        inputs[0].settings,
        samples=sum(one.settings.samples for one in inputs),
        folds=tuple(fold.number for fold in index.folds),
    )
    made_by = fingerprint({"folds": [one.made_by for one in inputs]})
    return EvaluationInputs(index, settings, {}, made_by, [], [], {}), predictions


def _write(
    params: Params,
    inputs: EvaluationInputs,
    predictions: Predictions,
    by_fold: Mapping[str, Mapping[int, float]] = NO_FOLDS,
) -> Outcome:
    """Score the predictions, and write everything to results/<dataset>/."""
    section = params.evaluate
    grid = _make_grid(params, predictions)
    outcome = measure_outcome(
        grid, inputs.settings, section.ratios, section.smallest_effect, by_fold
    )
    command = evaluation.format_command(params, inputs.settings.folds)
    with new_files(params.paths.results) as folder:
        evaluation.write_results(folder, outcome, predictions, inputs.made_by, command)
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
    names = sorted(params.modalities)
    missing_sets = list_conditions(names)
    if missing:
        missing_sets = [parse_missing(missing.replace(",", "+"), names, "--missing")]
    inputs = check_inputs(params)
    predictions = Predictions.load(params.paths.results / evaluation.PREDICTIONS, inputs.made_by)
    if predictions is None:
        logger.info(
            "No kept predictions of these models: encoding the split again "
            "(umemma evaluate keeps them)."
        )
        predictions = _predict(params, inputs)
    if predictions is None:
        return Outcome([], [], [], inputs.settings)
    grid = _make_grid(params, predictions)
    rows = grid.rows(missing_sets, ratios or params.evaluate.ratios)
    return Outcome(*rows, grid.metrics, inputs.settings)


def _make_grid(params: Params, predictions: Predictions) -> Grid:
    section = params.evaluate
    return Grid(predictions, params.seed, section.draws, section.bootstrap, section.metrics)


def _predict(params: Params, inputs: EvaluationInputs) -> Predictions | None:
    """Predict the split with the ensemble and each uni-modal model, from one pass of the encoders.

    Frozen encoders are replaced by their cached features. Several processes share the samples; the
    main one has the predictions, and the others None.
    """
    import torch

    from umemma.data.decoding import watch_workers
    from umemma.training.reproducibility import explain_nondeterminism, prepare
    from umemma.training.step import predict_tables

    section = params.evaluate
    index = inputs.index
    names = sorted(params.modalities)
    device = prepare(params.seed, "evaluate", machine=params.machine)
    ensemble_model, unimodal_models = load_models(params, index, device)
    data = _open_data(params, index)
    frozen = _find_frozen(params)
    has_probes = len(names) > 1
    alone = torch.ones(1, 1, dtype=torch.bool)  # the only pattern of a uni-modal model
    folder = params.paths.runs  # of tables that are too large for memory
    unimodal: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as stay, watch_workers(), explain_nondeterminism():
        split = data.load(section.split, stay, "evaluate", once=frozen)

        # 1. The uni-modal models with a frozen encoder, from its features.
        for m in frozen:
            model = unimodal_models[m]
            cached = _cache_features(params, index, model, split.select_modalities([m]), device)
            on_features = stay.enter_context(cached)
            ((unimodal[m],),) = predict_tables(
                [(model, alone)], on_features, section.batch_size, device, folder
            )

        # 2. The ensemble, which finds these features in the cache, and the other uni-modal models.
        cached = _cache_features(params, index, ensemble_model, split, device)
        trained = [m for m in names if m not in frozen]
        models = [(ensemble_model, torch.from_numpy(make_keep_table(names)))]
        models += [(unimodal_models[m], alone) for m in trained]
        on_features = stay.enter_context(cached)
        ensemble_tables, *other_tables = predict_tables(
            models, on_features, section.batch_size, device, folder, has_probes
        )
        for m, (table,) in zip(trained, other_tables, strict=True):
            unimodal[m] = table

    if not distributed.is_main():
        return None
    ensemble, probes = name_tables(names, ensemble_tables)
    return Predictions.calibrated(
        split.keys,
        split.groups,
        split.target.numpy(),
        (ensemble, {m: unimodal[m] for m in names}, probes),
        index.classes,
        inputs.calibration,
        inputs.prior,
        inputs.thresholds,
        inputs.scales,
    )


def _open_data(params: Params, index: shard_reader.Index) -> DataSource:
    from umemma.models import factory
    from umemma.training.train import DataSource

    return DataSource(
        Store(params.paths.shards),
        index,
        factory.input_specs({m: params.encoder(m) for m in params.modalities}, index.inputs),
        params.machine,
        params.seed,
        cache=params.decoded_cache,
    )


def _find_frozen(params: Params) -> list[str]:
    """Return the modalities whose encoder fine-tuning leaves as it is.

    The ensemble and the uni-modal model, and the experiments of a comparison, then mostly have the
    same encoder, and share its features.
    """
    names = sorted(params.modalities)
    if params.finetune.switches().train != "all":
        return names
    return [m for m in names if params.encoder(m).tune == "frozen"]


@contextlib.contextmanager
def _cache_features(
    params: Params,
    index: shard_reader.Index,
    model: LateFusion,
    split: LoadedSplit,
    device: torch.device,
) -> Iterator[LoadedSplit]:
    """Give the split with cached features in place of the inputs of the model's frozen encoders.

    The features belong to everything that may round differently, so that predictions are the same
    to the bit without a cache.
    """
    from umemma.training.feature_cache import cache_features

    section = params.evaluate
    training: Training = params.finetune
    if len(model.modalities) == 1:
        training = params.pretrain.of(model.modalities[0])
    sources = {
        "shards": index.fingerprint,
        "batch_size": section.batch_size,
        "processes": distributed.world().size,
        "device": device.type,
        "channels_last": training.channels_last,
        "compile": training.compile,
    }
    modalities = [m for m in model.modalities if m in _find_frozen(params)]
    with cache_features(
        model,
        {section.split: split},
        modalities,
        params.paths.runs / "features",
        sources,
        section.batch_size,
        device,
    ) as splits:
        yield splits[section.split]

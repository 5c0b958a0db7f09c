"""The experiments of a comparison: which there are, their settings, and whether they are complete.

An experiment is a preset, trained with one seed under one entry of compare.train, and on one fold
where the data has folds. Its settings are those of the project but for these, and for the learning
rates that validation chooses. Its model lies in models/<dataset>/compare/<train>/<seed>/<preset>/,
or <seed>/<fold>/<preset>/, its results likewise in results/;
the uni-modal models of a seed and an entry are trained once, in pretrain/ beside it, for all
presets.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from umemma.config import PRESETS, Compare, Evaluate, MissingRatios, Params, Paths
from umemma.errors import UserError, unknown_name
from umemma.evaluation.predictions import Predictions, read_made_by
from umemma.missing import format_missing
from umemma.system.files import read_json, write_json
from umemma.types import parse_alternatives
from umemma.validation import fingerprint, validate

COMPLETE = "complete"
PREDICTIONS, MARKER = "predictions.parquet", "cell.json"
RATES = "rates.json"  # in the folder of a uni-modal model: {learning rate: score on validation}
SETTING = "compare.train"
ENTRY = r"[\w+|]+=[\d.]+"


class Experiment(NamedTuple):
    """A preset, trained with one seed under one entry of compare.train.

    fold: the fold that is tested, None where the data has none.
    """

    train: str
    seed: int
    preset: str
    fold: int | None = None

    @property
    def place(self) -> str:
        """The folder that it shares with the other presets."""
        return f"compare/{self.train}/{self.seed}"

    @property
    def condition(self) -> str:
        """What it shares with the other presets, in words."""
        words = f"seed {self.seed}, {self.train}"
        if self.fold is not None:
            words += f", fold {self.fold}"
        return words

    @property
    def fold_setting(self) -> int | Literal[""]:
        """The setting `fold`."""
        if self.fold is None:
            return ""
        return self.fold

    def __str__(self) -> str:
        return f"{self.preset}, {self.condition}"


@dataclass(frozen=True)
class ExperimentMarker:
    """The file that says that an experiment is complete.

    made_from: the fingerprint of all that it depends on; predictions: what its predictions say they
    were made by. learning_rates: {learning rate: score on validation}, empty where there was no
    choice; learning_rate: the chosen one, None for that of the settings.
    """

    made_from: str
    predictions: str
    learning_rates: dict[str, float]
    learning_rate: float | None


# The plan. --------------------------------------------------------------------------------------


def select_folds(params: Params, known: Sequence[int]) -> list[int | None]:
    """Return the folds of the comparison, [None] where the data has none.

    known: those of the data. UserError for others.
    """
    setting = params.compare.folds
    if setting == "all":
        return list(known) or [None]
    _check_list("folds", setting)
    names: list[int | str] = [*known] or [""]
    for fold in setting:
        if fold not in names:
            problem = f"the data has no folds, so there is no fold {fold!r}"
            if known:
                problem = f"there is no fold {fold!r}; the data has {known[0]} to {known[-1]}"
            hint = 'Write all, or a list of folds; without folds it is all or [""].'
            raise UserError(problem, "compare.folds", hint, usage=True)
    return [None if fold == "" else fold for fold in setting]


def plan_experiments(params: Params, folds: Sequence[int | None] = (None,)) -> list[Experiment]:
    """Return all experiments. UserError where the settings don't make a comparison.

    folds: from `select_folds`. One fold comes after another, so that decoded samples are reused.
    """
    params.evaluate.check_split()
    _check_lists(params.compare)
    _check_baseline(params)
    _check_finetune(params)
    section = params.compare
    conditions = []
    for train in section.train:
        condition = _normalize(training_absences(train, params))
        if condition in conditions:
            raise UserError(f"{list(section.train)} names one thing twice", SETTING, usage=True)
        conditions.append(condition)
    experiments = []
    for fold, train, seed in itertools.product(folds, section.train, section.seeds):
        for preset in section.presets:
            experiments.append(Experiment(train, seed, preset, fold))
    return experiments


def compared_method(params: Params) -> str:
    """Return the preset that the others are compared with."""
    presets = params.compare.presets
    if params.finetune.preset in presets:
        return params.finetune.preset
    return presets[-1]


def training_absences(train: str, params: Params) -> dict[str, float]:
    """Return {what: the share of the training samples that lose it} of an entry of compare.train.

    It has the form of missing.train. UserError for an entry that can't be read.
    """
    if train == COMPLETE:
        return {}
    if not re.fullmatch(f"{ENTRY}(,{ENTRY})*", train):  # it is also the name of a folder
        hint = (
            "Write it as complete, audio=0.7, audio|image=0.7 or, for several at once, "
            "audio=0.7,image=0.3."
        )
        raise UserError(f"cannot read {train!r}", SETTING, hint, usage=True)
    pairs = [entry.split("=") for entry in train.split(",")]
    try:
        shares = {what: float(ratio) for what, ratio in pairs}
    except ValueError:
        problem = f"{train!r} has something that is no number"
        raise UserError(problem, SETTING, usage=True) from None
    if len(shares) < len(pairs):
        raise UserError(f"{train!r} names one thing twice", SETTING, usage=True)
    missing = validate(MissingRatios, {"train": shares}, SETTING)
    for what in missing.train:
        for taken in parse_alternatives(what):
            _check_modalities(taken, params)
    return missing.train


def _check_lists(section: Compare) -> None:
    for number, preset in enumerate(section.presets):
        if preset not in PRESETS:
            raise unknown_name("preset", preset, PRESETS, f"compare.presets.{number}")
    _check_list("presets", section.presets)
    _check_list("seeds", section.seeds)
    _check_list("train", section.train)
    if section.learning_rates:
        _check_list("learning_rates", section.learning_rates)


def _check_list(name: str, values: Sequence[object]) -> None:
    if not values or len(set(values)) < len(values):
        problem = f"{list(values)} has to name each once"
        raise UserError(problem, f"compare.{name}", usage=True)


def _check_baseline(params: Params) -> None:
    baseline, where = params.compare.baseline, "compare.baseline"
    if baseline is None:
        return
    if baseline not in params.compare.presets:
        raise unknown_name("preset", baseline, params.compare.presets, where)
    if baseline == compared_method(params):
        hint = "Name another preset, or null for all of them."
        raise UserError(f"{baseline!r} is the method itself", where, hint, usage=True)


def _check_finetune(params: Params) -> None:
    section = params.finetune
    decided = {
        "init": section.init,
        "mma": section.mma,
        "train": section.train,
        "balance": section.balance,
        "fusion": section.fusion,
    }
    given = [name for name, value in decided.items() if value is not None]
    if given:
        problem = f"{', '.join(given)} would be the same for every preset"
        hint = "Set them to null: a preset decides them."
        raise UserError(problem, "finetune", hint, usage=True)


def _check_modalities(names: Sequence[str], params: Params) -> None:
    for name in names:
        if name not in params.modalities:
            raise unknown_name("modality", name, params.modalities, SETTING)


def _normalize(absences: dict[str, float]) -> list[tuple[str, float]]:
    """Return the same for every way to write one condition."""
    pairs = []
    for text, ratio in absences.items():
        pairs.append((format_missing(parse_alternatives(text)), ratio))
    return sorted(pairs)


# Settings. --------------------------------------------------------------------------------------


def experiment_params(params: Params, experiment: Experiment, rate: float | None = None) -> Params:
    """Return the settings of an experiment.

    rate: a learning rate in place of that of `finetune`. Uni-modal models that are trained have the
    rate that validation has chosen for them. Evaluation is the same for all but for what
    predictions depend on: the table is made from these, whatever the rest of `evaluate` asks for.
    """
    own_params = _without_chosen_rates(params, experiment, rate)
    for m in own_params.modalities:
        chosen = best_rate(read_rates(params, own_params.paths.pretrain(m)))
        if chosen is not None:
            own_params = _with_pretrain_rate(own_params, m, chosen)
    return own_params


def pretrain_params(
    params: Params, experiment: Experiment, modality: str, rate: float | None
) -> Params:
    """Return the settings of a uni-modal model. rate: None for that of the settings."""
    own_params = _without_chosen_rates(params, experiment, None)
    if rate is None:
        return own_params
    return _with_pretrain_rate(own_params, modality, rate)


def _without_chosen_rates(params: Params, experiment: Experiment, rate: float | None) -> Params:
    finetune = params.finetune.model_copy(update={"preset": experiment.preset})
    if rate is not None:
        if finetune.switches().init == "scratch":
            scratch = finetune.scratch.model_copy(update={"learning_rate": rate})
            finetune = finetune.model_copy(update={"scratch": scratch})
        else:
            finetune = finetune.model_copy(update={"learning_rate": rate})
    section = params.evaluate
    evaluate = Evaluate(
        split=section.split,
        batch_size=section.batch_size,
        calibrate=section.calibrate,
    )
    changes = {
        "place": experiment.place,
        "seed": experiment.seed,
        "fold": experiment.fold_setting,
        "missing": MissingRatios(train=training_absences(experiment.train, params)),
        "finetune": finetune,
        "evaluate": evaluate,
        "compare": Compare(),
    }
    return params.model_copy(update=changes)


def _with_pretrain_rate(params: Params, modality: str, rate: float) -> Params:
    pretrain = params.pretrain
    own = pretrain.modalities.get(modality, {}) | {"learning_rate": rate}
    modalities = pretrain.modalities | {modality: own}
    changed = pretrain.model_copy(update={"modalities": modalities})
    return params.model_copy(update={"pretrain": changed})


def write_rates(folder: Path, scores: Mapping[float, float]) -> None:
    """Write beside a uni-modal model the validation scores {learning rate: score} of its rates."""
    write_json(folder / RATES, {f"{rate:g}": score for rate, score in scores.items()})


def read_rates(params: Params, folder: Path) -> dict[float, float]:
    """Return {learning rate: score on validation} of a uni-modal model, in the order of `compare`.

    It is empty where no rate was chosen, or where it was chosen among others than those of
    `compare`.
    """
    rates = params.compare.learning_rates
    with contextlib.suppress(UserError):
        data = read_json(folder / RATES, "")
        if set(data) == {f"{rate:g}" for rate in rates}:
            return {rate: data[f"{rate:g}"] for rate in rates}
    return {}


def best_rate(scores: Mapping[float, float]) -> float | None:
    """Return the learning rate with the best score (ties: the first); None where there is none."""
    return max(scores, key=scores.__getitem__, default=None)


def learning_rates(params: Params, experiment: Experiment) -> list[float | None]:
    """Return the learning rates to try: those of `compare`.

    Where there are none, or nothing is trained, it is that of the settings (None).
    """
    switches = experiment_params(params, experiment).finetune.switches()
    if switches.train == "none" or not params.compare.learning_rates:
        return [None]
    return list(params.compare.learning_rates)


# What is complete. ------------------------------------------------------------------------------


def write_marker(
    params: Params,
    experiment: Experiment,
    shards: str,
    scores: dict[str, float],
    chosen: float | None,
) -> None:
    """Mark an experiment as complete.

    shards: their fingerprint; scores: {learning rate: score on validation}; chosen: the learning
    rate.
    """
    marker = ExperimentMarker(
        made_from=input_fingerprint(params, experiment, shards),
        predictions=_read_origin(params, experiment),
        learning_rates=scores,
        learning_rate=chosen,
    )
    write_json(_results(params, experiment) / MARKER, asdict(marker))


def read_marker(params: Params, experiment: Experiment, shards: str) -> ExperimentMarker | None:
    """Return the marker of a complete experiment, None where there is none.

    It has to belong to these settings and to the models and predictions that are there.
    """
    with contextlib.suppress(UserError):
        data = read_json(_results(params, experiment) / MARKER, "")
        made_from = input_fingerprint(params, experiment, shards)
        predictions = _read_origin(params, experiment)
        if (data.get("made_from"), data.get("predictions")) == (made_from, predictions):
            rates = data["learning_rates"]
            return ExperimentMarker(made_from, predictions, rates, data["learning_rate"])
    return None


def input_fingerprint(params: Params, experiment: Experiment, shards: str) -> str:
    """Return a fingerprint of all that an experiment depends on.

    UserError where one of its models isn't there.
    """
    settings = experiment_params(params, experiment)
    modalities = sorted(settings.modalities)
    models = [settings.paths.ensemble, *(settings.paths.pretrain(m) for m in modalities)]
    trials = []
    for rate in learning_rates(params, experiment):
        trial = experiment_params(params, experiment, rate)
        trials.append(trial.ensemble_settings(shards))
    about = [read_json(folder / Paths.ABOUT, "") for folder in models]
    inputs: dict[str, Any] = {
        "trials": trials,
        "unimodal": [settings.unimodal_settings(m, shards) for m in modalities],
        "evaluate": settings.evaluate.model_dump(mode="json", include={"split", "calibrate"}),
        "weights": [model.get("weights_sha256") for model in about],
    }
    if about[0].get("task") == "multilabel" and not settings.evaluate.calibrate:
        inputs["thresholds"] = "kept"  # results of earlier versions have none
    return fingerprint(inputs)


def load_predictions(params: Params, experiment: Experiment) -> Predictions:
    """Return the predictions of a complete experiment."""
    path = _results(params, experiment) / PREDICTIONS
    predictions = Predictions.load(path, _read_origin(params, experiment))
    assert predictions
    return predictions


def _read_origin(params: Params, experiment: Experiment) -> str:
    """Return what the predictions say they were made by. UserError where there are none."""
    path = _results(params, experiment) / PREDICTIONS
    made_by = read_made_by(path)
    if made_by is None:
        raise UserError("no predictions", str(path), "Run: umemma compare")
    return made_by


def _results(params: Params, experiment: Experiment) -> Path:
    return experiment_params(params, experiment).paths.results

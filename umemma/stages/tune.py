"""tune: searches settings by the validation score of the ensemble -> runs/<dataset>/tune/<study>/.

A trial is the commands of a training, each in a process of its own, with its settings in
runs/<dataset>/tune/<study>/<trial>/params.json. The uni-modal models of a trial are those of the
project where its settings are theirs, otherwise those that an earlier trial has trained, or new
ones. A study belongs to everything but the searched values that a training depends on: another
search is another study, and the same command continues its own. Nothing here opens the test split.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger
from rich.markup import escape
from rich.table import Table

from umemma.config import Params
from umemma.data import shard_reader
from umemma.errors import UserError
from umemma.evaluation.search.space import (
    OPTION,
    Choice,
    Space,
    check_space,
    format_sets,
    retarget,
)
from umemma.evaluation.search.study import Trial, find_best, open_study
from umemma.models import saved_model
from umemma.system import subprocesses
from umemma.system.files import read_json, sha256, write_json
from umemma.system.log import make_table
from umemma.system.signals import STOP_EXIT_STATUS
from umemma.system.storage import Store
from umemma.system.subprocesses import Command, Ended, Job, read_reason
from umemma.validation import fingerprint

# Settings with further changes in the form of --set.
Change = Callable[[Sequence[str]], Params]
Train = Callable[[Params, Path], float]


@dataclass(frozen=True)
class TuneReport:
    """The trials of a study, and its folder."""

    folder: Path
    trials: list[Trial]
    best: Trial


def run(change: Change, space: Space, trials: int) -> TuneReport:
    """Search until there are `trials` trials, and return all of them.

    change: gives the settings with changes as in --set. UserError for a space that can't be
    searched, and where every trial fails.
    """
    params = change([])
    check_space(space, params)
    space = retarget(space, params)
    first = _check_values(space, change)
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    index = index.select_fold(params.fold_number)
    params.check_modalities(index.modalities, index.kinds)
    study = identify(space, first, index.fingerprint)

    def train(trial_params: Params, folder: Path) -> float:
        return train_trial(trial_params, folder, index.fingerprint)

    return search(params.paths.runs / "tune" / study, change, space, trials, train)


def _check_values(space: Space, change: Change) -> Params:
    """Return the settings with the first value of each. UserError for values that can't be."""
    first = {key: values.ends()[0] for key, values in space.items()}
    params = change(format_sets(first))
    for key, values in space.items():
        described = []
        for value in values.ends():
            changed = change(format_sets(first | {key: value}))
            described.append(changed.ensemble_settings(shards=""))
        if all(one == described[0] for one in described):
            what = f"{key} changes nothing for the preset {params.finetune.preset}"
            raise UserError(what, OPTION, "Search another setting.", usage=True)
    return params


def identify(space: Space, first: Params, shards: str) -> str:
    """Return the name of a study: a hash of the space, and of what its trainings depend on.

    first: the settings with the first value of each, so that those of params.yaml don't matter.
    """
    dimensions: dict[str, Any] = {}
    for key, values in space.items():
        if isinstance(values, Choice):
            dimensions[key] = list(values.values)
        else:
            dimensions[key] = [repr(values.low), repr(values.high), values.log]
    inputs = {"space": dimensions, "settings": first.ensemble_settings(shards)}
    return fingerprint(inputs)[:8]


def search(folder: Path, change: Change, space: Space, trials: int, train: Train) -> TuneReport:
    """Run the trials that a study lacks; see `run`. train: returns the score of a trial's settings.

    A UserError of `train` is the reason of a failed trial, unless it says that somebody stopped it.
    """
    seed = change([]).seed
    with open_study(folder, space, seed) as study:
        done = study.list_trials()
        if done:
            logger.info(f"{len(done)} trials are there already, in {folder}")
        for number in range(len(done), trials):
            settings = study.draw()
            score, reason = _try(done, settings, number, folder, change, train)
            study.add(settings, score, reason)
            done = study.list_trials()
            _log_progress(done, trials)
            _remove_models(folder, done)
    best = find_best(done)
    if best is None:
        reasons = "\n".join(sorted({trial.reason for trial in done}))
        raise UserError(f"every trial failed\n{reasons}", str(folder), "Search other values.")
    return TuneReport(folder, done, best)


def _try(
    done: Sequence[Trial],
    settings: Mapping[str, Any],
    number: int,
    folder: Path,
    change: Change,
    train: Train,
) -> tuple[float, str]:
    """Return the score of a trial, and why it failed. Equal settings have equal scores."""
    for trial in done:
        if trial.settings == settings:
            return trial.score, trial.reason
    try:
        params = change(format_sets(settings))
        place = f"tune/{folder.name}/{number}"
        score = train(params.model_copy(update={"place": place}), folder / str(number))
    except UserError as error:
        if error.exit_status in STOP_EXIT_STATUS.values():
            raise
        return float("nan"), str(error)
    if score != score:
        return score, "the validation score is not a number"
    return score, ""


def _log_progress(done: Sequence[Trial], trials: int) -> None:
    trial = done[-1]
    settings = ", ".join(format_sets(trial.settings))
    outcome = f"validation score {trial.score:.4f}"
    if trial.failed:
        outcome = f"failed: {trial.reason}"
    best = find_best(list(done))
    if best is not None:
        outcome += f" (best {best.score:.4f}, trial {best.number})"
    logger.info(f"[{trial.number + 1}/{trials}] {settings}: {outcome}")


def _remove_models(folder: Path, done: Sequence[Trial]) -> None:
    """Remove the models of all trials but the best. Their settings, logs and scores stay."""
    best = find_best(list(done))
    for trial in done:
        if best is not None and trial.settings == best.settings:
            continue
        for weights in [*(folder / str(trial.number)).rglob(saved_model.WEIGHTS)]:
            if not weights.parent.is_symlink():
                shutil.rmtree(weights.parent)


# One trial. -------------------------------------------------------------------------------------


def train_trial(params: Params, folder: Path, shards: str) -> float:
    """Train the models of a trial, and return the validation score of its ensemble.

    folder: for its settings and log. UserError with the reason where a process fails.
    """
    ((_, error),) = subprocesses.run(
        {"trial": _train(params, folder, shards)}, 1, threads=params.machine.threads
    )
    if error:
        raise error
    about = read_json(params.paths.ensemble / saved_model.ABOUT, "")
    return float(about["scores"]["val_score"])


def _train(params: Params, folder: Path, shards: str) -> Job:
    if params.ensemble_settings(shards)["starts_from"]:
        weights = _hash_weights(params)
        for m in sorted(params.modalities):
            home = yield from _pretrain(params, folder, m, shards, weights)
            _link(home, params.paths.pretrain(m))
    yield from _run_command(params, folder, "finetune-ensemble")


def _pretrain(
    params: Params, folder: Path, modality: str, shards: str, weights: Mapping[str, str]
) -> Generator[Command, Ended, Path]:
    """Return the folder of the uni-modal model with these settings, trained if need be."""
    settings = {m: params.unimodal_settings(m, shards) for m in params.sharing(modality)}
    name = fingerprint({"settings": settings, "weights": dict(weights)})[:8]
    for place in ("", f"tune/unimodal/{name}"):
        own = params.model_copy(update={"place": place})
        home = own.paths.pretrain(modality)
        if saved_model.is_trained(home, settings[modality], weights):
            return home
    yield from _run_command(own, folder, "pretrain-unimodal", "--modality", modality)
    return home


def _hash_weights(params: Params) -> dict[str, str]:
    """Return {modality: checksum} of the files of pretrained weights that encoders start from."""
    from umemma.models import factory

    encoders = {m: params.encoder(m) for m in params.modalities}
    return {m: sha256(path) for m, path in factory.find_weights(encoders).items()}


def _link(home: Path, place: Path) -> None:
    """Let the trial find a uni-modal model at its place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(os.path.relpath(home, place.parent))


def _run_command(params: Params, folder: Path, *words: str) -> Generator[Command, Ended, None]:
    """Run a command with these settings. UserError with what it printed, if it fails."""
    settings, log = folder / "params.json", folder / "log.txt"
    write_json(settings, params.model_dump(mode="json"))  # which is YAML too
    command = [sys.executable, "-m", "umemma", *words, "--params", str(settings)]
    ended = yield Command(command, log)
    if ended.status:
        stopped = ended.status in STOP_EXIT_STATUS.values()
        status = ended.status if stopped else 1
        reason = f"{read_reason(ended.status, log)} (log: {log})"
        raise UserError(reason, status=status)


# Words. -----------------------------------------------------------------------------------------


def make_trial_table(report: TuneReport, format_score: Callable[[float], str], top: int) -> Table:
    """Return the best `top` trials as a table."""
    scored = [trial for trial in report.trials if not trial.failed]
    scored.sort(key=lambda trial: -trial.score)
    keys = list(report.best.settings)
    rows = []
    for trial in scored[:top]:
        values = [escape(text.partition("=")[2]) for text in format_sets(trial.settings)]
        rows.append([str(trial.number), format_score(trial.score), *values])
    failed = len(report.trials) - len(scored)
    title = f"the best of {len(report.trials)} trials, {failed} of which failed"
    return make_table(title, ["trial", "validation", *map(escape, keys)], rows)

"""compare: trains and evaluates every preset -> models/ and results/<dataset>/compare/.

Each training and each evaluation is a process of the stage's own command with the settings of its
experiment, which are written to runs/<dataset>/compare/<train>/<seed>/<preset>/ (with folds
<seed>/<fold>/<preset>/) and can be used with --params. So an experiment is exactly what the
commands make, it resumes from its own checkpoint, and its time and memory are those of a process.
On a cluster a model is a `umemma compare --modality` or `--preset` of its own, on any node.
`table` makes the table.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from loguru import logger

from umemma.config import Params
from umemma.data import shard_reader
from umemma.errors import UserError, unknown_name
from umemma.evaluation import experiments
from umemma.evaluation.experiments import Experiment
from umemma.models import saved_model
from umemma.reports.comparison.costs import ProcessCost, append_cost, settings_fingerprint
from umemma.system import subprocesses
from umemma.system.executors import Executor
from umemma.system.files import new_folder, read_json, sha256, write_json
from umemma.system.storage import Store
from umemma.system.subprocesses import Command, Ended, Job, read_reason


@dataclass(frozen=True)
class Inputs:
    """What all experiments start from.

    shards: their fingerprint; weights: {modality: checksum} of the files of pretrained weights that
    encoders start from; fold_shards: {fold: the fingerprint of the shards with its splits};
    executor: that of a cluster, None for this machine.
    """

    params: Params
    shards: str
    weights: Mapping[str, str]
    fold_shards: Mapping[int, str] = field(default_factory=dict)
    executor: Executor | None = None

    def shards_of(self, fold: int | None) -> str:
        if fold is None:
            return self.shards
        return self.fold_shards[fold]

    def params_of(self, experiment: Experiment, rate: float | None = None) -> Params:
        return experiments.experiment_params(self.params, experiment, rate)


class Work(NamedTuple):
    """A model to make. options: those of the `umemma compare` that makes it alone."""

    job: Job
    options: tuple[str, ...]


class Selection(NamedTuple):
    """Which experiments to run; "" and None stand for all.

    With a modality only its uni-modal models are trained.
    """

    preset: str = ""
    seed: int | None = None
    train: str = ""
    modality: str = ""
    fold: str = ""

    def includes(self, experiment: Experiment) -> bool:
        return (
            self.preset in ("", experiment.preset)
            and self.train in ("", experiment.train)
            and self.fold in ("", _name_fold(experiment.fold))
            and self.seed in (None, experiment.seed)
        )


EVERYTHING = Selection()


def run(
    params: Params,
    jobs: int = 1,
    selection: Selection = EVERYTHING,
    executor: Executor | None = None,
) -> None:
    """Run the selected experiments, `jobs` at a time, or by the executor of a cluster.

    What is complete stays. Where some fail the others are run, and UserError names the failed ones.
    """
    experiments.plan_experiments(params)  # which checks the settings first
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    params.check_modalities(index.modalities, index.kinds)
    folds = experiments.select_folds(params, [one.number for one in index.folds])
    _check_selection(params, selection, folds)
    plan = experiments.plan_experiments(params, folds)
    selected = [experiment for experiment in plan if selection.includes(experiment)]
    fold_shards = {one: index.select_fold(one).fingerprint for one in folds if one is not None}
    inputs = Inputs(params, index.fingerprint, _hash_weights(params), fold_shards, executor)
    if selection.modality:
        failed = _pretrain_all(inputs, selected, [selection.modality], jobs)
    else:
        failed = _run_experiments(inputs, selected, jobs)
    if failed:
        lines = "\n".join(f"{name}: {error}" for name, error in failed.items())
        hint = "Fix the cause and run the same command: what is complete stays."
        raise UserError(f"{len(failed)} failed\n{lines}", "compare", hint)


def _check_selection(params: Params, selection: Selection, folds: Sequence[int | None]) -> None:
    section = params.compare
    _check_choice("preset", selection.preset, section.presets)
    _check_choice("train", selection.train, section.train)
    _check_choice("modality", selection.modality, sorted(params.modalities))
    _check_choice("fold", selection.fold, [_name_fold(fold) for fold in folds])
    if selection.seed is not None:
        _check_choice("seed", str(selection.seed), [str(number) for number in section.seeds])


def _name_fold(fold: int | None) -> str:
    if fold is None:
        return ""
    return str(fold)


def _check_choice(kind: str, name: str, known: Sequence[str]) -> None:
    if name and name not in known:
        raise unknown_name(kind, name, known, f"--{kind}")


def _run_experiments(
    inputs: Inputs, selected: Sequence[Experiment], jobs: int
) -> dict[str, UserError]:
    """Return the errors of those that failed."""
    todo = [experiment for experiment in selected if not _is_complete(inputs, experiment)]
    # 1. The uni-modal models of each seed, which its presets share.
    failed = _pretrain_all(
        inputs,
        todo,
        sorted(inputs.params.modalities),
        jobs,
    )
    # 2. The experiments whose uni-modal models are there.
    failed_groups = {name.partition(", ")[2] for name in failed}
    ready = [one for one in todo if one.condition not in failed_groups]
    if len(todo) < len(selected):
        complete = len(selected) - len(todo)
        logger.info(f"{complete} of {len(selected)} experiments are complete already.")
    work = {}
    for experiment in ready:
        job = _run_experiment(inputs, experiment)
        work[str(experiment)] = Work(job, _list_options(experiment, preset=experiment.preset))
    return failed | _run_jobs(inputs, work, jobs)


def _pretrain_all(
    inputs: Inputs,
    todo: Sequence[Experiment],
    modalities: Sequence[str],
    jobs: int,
) -> dict[str, UserError]:
    """Train the uni-modal models that aren't there. Return the errors of those that failed."""
    work: dict[str, Work] = {}
    for experiment in todo:
        for m in modalities:
            name = f"{m} alone, {experiment.condition}"
            if name not in work and not _is_pretrained(inputs, experiment, m):
                options = _list_options(experiment, modality=m)
                work[name] = Work(_pretrain(inputs, experiment, m), options)
    return _run_jobs(inputs, work, jobs)


def _run_jobs(
    inputs: Inputs,
    work: Mapping[str, Work],
    width: int,
) -> dict[str, UserError]:
    """Run `width` jobs at a time and log a line when one ends. Return the errors."""
    if not work:
        return {}
    if inputs.executor is None:
        devices = _list_devices() if width > 1 else []
        jobs = {name: one.job for name, one in work.items()}
        outcomes = subprocesses.run(jobs, width, devices, inputs.params.machine.threads)
    else:
        outcomes = _run_on_cluster(inputs, work, inputs.executor, width)
    failed: dict[str, UserError] = {}
    for number, (name, error) in enumerate(outcomes, 1):
        outcome = "done"
        if error:
            failed[name] = error
            outcome = "failed"
        logger.info(f"[{number}/{len(work)}] {name}: {outcome}")
    return failed


def _list_devices() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible:
        return visible.split(",")
    return [str(number) for number in range(torch.cuda.device_count())]


def _list_options(experiment: Experiment, **chosen: str) -> tuple[str, ...]:
    """Return the options of the `umemma compare` that makes one model of an experiment."""
    ((option, name),) = chosen.items()
    fold = _name_fold(experiment.fold)
    words = [f"--{option}", name, "--seed", str(experiment.seed)]
    return (*words, "--train", experiment.train, "--fold", fold)


def _run_on_cluster(
    inputs: Inputs, work: Mapping[str, Work], executor: Executor, width: int
) -> Iterator[tuple[str, UserError | None]]:
    """Yield (name, error or None) as each model is made, by a command on any node."""
    folder = inputs.params.paths.runs / "compare"
    settings = folder / "params.json"
    write_json(settings, inputs.params.model_dump(mode="json"))
    parts = []
    for name, one in work.items():
        words = [sys.executable, "-m", "umemma", "compare", "--params", str(settings), *one.options]
        log = folder / "nodes" / f"{'-'.join(one.options[1::2]).rstrip('-')}.txt"
        parts.append((name, Command(words, log)))
    lost = set(work)
    for name, error in executor(subprocesses.run_alone, parts, width):
        lost.remove(name)
        yield name, error
    for name in lost:
        yield name, UserError("its worker was lost each time")


def _hash_weights(params: Params) -> dict[str, str]:
    """Return {modality: checksum} of the files of pretrained weights that encoders start from."""
    from umemma.models import factory

    encoders = {m: params.encoder(m) for m in params.modalities}
    return {m: sha256(path) for m, path in factory.find_weights(encoders).items()}


# What is there already. -------------------------------------------------------------------------


def _is_complete(inputs: Inputs, experiment: Experiment) -> bool:
    marker = experiments.read_marker(inputs.params, experiment, inputs.shards_of(experiment.fold))
    if marker is None:
        return False
    for m in inputs.params.modalities:
        if not _is_pretrained(inputs, experiment, m):
            return False
    params = inputs.params_of(experiment, marker.learning_rate)
    return _is_finetuned(inputs, params, params.paths.ensemble)


def _is_pretrained(inputs: Inputs, experiment: Experiment, modality: str) -> bool:
    """Return whether the uni-modal model is there, with the best of the learning rates."""
    params = inputs.params_of(experiment)
    folder = params.paths.pretrain(modality)
    if inputs.params.compare.learning_rates and not experiments.read_rates(inputs.params, folder):
        return False
    return _is_unimodal(inputs, params, modality, folder)


def _is_unimodal(inputs: Inputs, params: Params, modality: str, folder: Path) -> bool:
    """Return whether the uni-modal model with these settings is in a folder."""
    settings = params.unimodal_settings(modality, inputs.shards_of(params.fold_number))
    return saved_model.is_trained(folder, settings, inputs.weights)


def _is_finetuned(inputs: Inputs, params: Params, folder: Path) -> bool:
    """Return whether the ensemble with these settings is in a folder."""
    settings = params.ensemble_settings(inputs.shards_of(params.fold_number))
    unimodal = [params.paths.pretrain(m) for m in params.modalities]
    return saved_model.is_trained(folder, settings, inputs.weights, unimodal)


# The work. --------------------------------------------------------------------------------------


def _pretrain(inputs: Inputs, experiment: Experiment, modality: str) -> Job:
    """Train with each learning rate, and keep the best uni-modal model on validation."""
    trials: dict[float | None, Params] = {}
    for rate in inputs.params.compare.learning_rates or (None,):
        trials[rate] = experiments.pretrain_params(inputs.params, experiment, modality, rate)
    folder = inputs.params_of(experiment).paths.pretrain(modality)

    def is_trained(params: Params, folder: Path) -> bool:
        return _is_unimodal(inputs, params, modality, folder)

    what = f"pretrain/{modality}"
    words = ("pretrain-unimodal", "--modality", modality)
    scores = yield from _train_best(experiment, what, trials, folder, is_trained, *words)
    if scores:
        experiments.write_rates(folder, scores)


def _run_experiment(inputs: Inputs, experiment: Experiment) -> Job:
    """Train with each learning rate, keep the best model on validation, and score it."""
    trials: dict[float | None, Params] = {}
    for rate in experiments.learning_rates(inputs.params, experiment):
        trials[rate] = inputs.params_of(experiment, rate)
    folder = inputs.params_of(experiment).paths.ensemble

    def is_trained(params: Params, folder: Path) -> bool:
        return _is_finetuned(inputs, params, folder)

    what = experiment.preset
    words = ("finetune-ensemble",)
    scores = yield from _train_best(experiment, what, trials, folder, is_trained, *words)
    best = experiments.best_rate(scores)
    yield from _run_command(
        experiment, what, inputs.params_of(experiment, best), "evaluate-missing"
    )
    by_rate = {f"{rate:g}": score for rate, score in scores.items()}
    shards = inputs.shards_of(experiment.fold)
    experiments.write_marker(inputs.params, experiment, shards, by_rate, best)


def _train_best(
    experiment: Experiment,
    what: str,
    trials: Mapping[float | None, Params],
    folder: Path,
    is_trained: Callable[[Params, Path], bool],
    *words: str,
) -> Generator[Command, Ended, dict[float, float]]:
    """Train a model with each learning rate, and keep the best on validation (ties: the first).

    trials: {learning rate: settings}, {None: settings} where there is no choice; folder: where the
    command saves the model. Return {learning rate: score on validation}, empty without a choice.
    """
    run_folder = _run_folder(next(iter(trials.values())), experiment, what)
    if not folder.exists():  # nothing was begun, or DVC runs it again, with other code say
        for old in run_folder.glob("rate-*"):
            shutil.rmtree(old)
    scores: dict[float, float] = {}
    for rate, params in trials.items():
        candidate = folder
        if rate is not None:
            candidate = run_folder / f"rate-{rate}"
        if not is_trained(params, candidate):
            yield from _run_command(experiment, what, params, *words)
            _copy_model(folder, candidate)
        if rate is not None:
            about = read_json(candidate / saved_model.ABOUT, "")
            scores[rate] = float(about["scores"]["val_score"])
    best = experiments.best_rate(scores)
    if best is not None:
        _copy_model(run_folder / f"rate-{best}", folder)
    return scores


def _copy_model(source: Path, target: Path) -> None:
    if source != target:
        with new_folder(target) as aside:
            shutil.copytree(source, aside, dirs_exist_ok=True)


def _run_command(
    experiment: Experiment, what: str, params: Params, *words: str
) -> Generator[Command, Ended, None]:
    """Run a command with these settings. UserError with what it printed, if it fails."""
    folder = _run_folder(params, experiment, what)
    settings, log = folder / "params.json", folder / "log.txt"
    write_json(settings, params.model_dump(mode="json"))  # which is YAML too
    command = [sys.executable, "-m", "umemma", *words, "--params", str(settings)]
    logger.info(f"{what}, {experiment.condition}: {words[0]}, see {log}")
    ended = yield Command(command, log)
    cost = ProcessCost(
        train=experiment.train,
        seed=experiment.seed,
        what=what,
        command=words[0],
        status=ended.status,
        seconds=ended.seconds,
        cpu_seconds=ended.cpu,
        peak_gib=ended.peak,
        settings=settings_fingerprint(params),
    )
    append_cost(params.paths, cost)
    if ended.status:
        raise UserError(f"{read_reason(ended.status, log)} (log: {log})")


def _run_folder(params: Params, experiment: Experiment, what: str) -> Path:
    return params.paths.runs / experiment.place / str(experiment.fold_setting) / what

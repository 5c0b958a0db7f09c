"""The experiments of a comparison without any training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from toys.predictions import OURS, THEIRS, predictions_in_letters
from umemma import config
from umemma.config import Params
from umemma.evaluation.experiments import Experiment
from umemma.models import saved_model
from umemma.stages.compare import cells
from umemma.stages.compare.cells import Inputs
from umemma.system.files import write_json
from umemma.system.subprocesses import Command, Ended, Job


class ToyCommands:
    """Does what the commands of an experiment do to the disk.

    A model has a score that depends on its learning rate, and there are predictions. done: the
    commands so far, with their learning rates; right: {(preset, fold): its answers} of those that
    have some of their own.
    """

    def __init__(
        self,
        params: Params,
        shards: str,
        fold_shards: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.params = params
        self.inputs = Inputs(params, shards, {}, fold_shards)
        self.done: list[str] = []
        self.right: dict[tuple[str, int], Mapping[str, str]] = {}

    def drive(self, experiment: Experiment, fails: bool = False) -> None:
        """Run an experiment; fails: each command ends with status 1."""
        self._drive(cells._run_experiment(self.inputs, experiment), fails)

    def pretrain(self, experiment: Experiment, modality: str) -> None:
        """Train a uni-modal model, or as many as there are learning rates."""
        self._drive(cells._pretrain(self.inputs, experiment, modality))

    def _drive(self, job: Job, fails: bool = False) -> None:
        ended = Ended(int(fails), 1.0, 1.0, 0.5)
        command = next(job)
        try:
            while True:
                self._carry_out(command)
                command = job.send(ended)
        except StopIteration:
            pass

    def _carry_out(self, command: Command) -> None:
        params = config.load_params(Path(command.words[-1]))
        shards = self.inputs.shards_of(params.fold_number)
        rate = params.finetune.learning_rate
        if command.words[3] == "pretrain-unimodal":
            modality = command.words[5]
            rate = params.pretrain.of(modality).learning_rate
            folder = params.paths.pretrain(modality)
            self._train(folder, params.unimodal_settings(modality, shards), rate)
        elif command.words[3] == "finetune-ensemble":
            self._train(params.paths.ensemble, params.ensemble_settings(shards), rate)
        else:
            right = OURS
            if params.finetune.preset == "umt":
                right = THEIRS
            alone = None
            if (params.finetune.preset, params.fold) in self.right:
                right = self.right[params.finetune.preset, params.fold]
                alone = {m: right[m] for m in params.modalities}
            predictions = predictions_in_letters(right, alone, groups="aabb")
            predictions.save(params.paths.results / "predictions.parquet", "toy")
        self.done.append(f"{command.words[3]} {rate:g}")

    def _train(self, folder: Path, settings: dict, rate: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_text(f"{rate}")
        write_model(folder, settings, f"{rate}", {"val_score": 1 - abs(rate - 0.2)})


def write_model(folder: Path, settings: dict, weights: str, scores: dict[str, float]) -> None:
    """Write the model.json of a model whose weights have the checksum `weights`."""
    started_from = {m: f"{m} alone" for m in settings.get("starts_from", {})}
    about = {
        "settings": settings,
        "weights_sha256": weights,
        "started_from": started_from,
        "scores": scores,
        "format": saved_model.FORMAT,
        "calibration": {},
        "hf": {},
        "classes": ["no", "yes"],
        "task": "multiclass",
        "media": {},
    }
    write_json(folder / "model.json", about)


def write_unimodal_models(params: Params, experiment: Experiment, shards: str) -> None:
    """Write the uni-modal models that an experiment starts from."""
    own_params = params_of(params, experiment)
    for m in params.modalities:
        folder = own_params.paths.pretrain(m)
        write_model(folder, own_params.unimodal_settings(m, shards), f"{m} alone", {})


def params_of(params: Params, experiment: Experiment) -> Params:
    return Inputs(params, "", {}).params_of(experiment)

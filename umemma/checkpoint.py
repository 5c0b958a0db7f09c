"""Trained models on disk: weights in safetensors (nothing is unpickled) beside a JSON that says what they are.

`settings` is everything the weights depend on; a checkpoint made with other settings is refused, by name of what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger
from safetensors import SafetensorError

from umemma import distributed
from umemma.calibration import Calibration
from umemma.checks import difference, fingerprint
from umemma.errors import UserError
from umemma.files import new_folder, read_json, sha256, write_json

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, ABOUT, METRICS = "model.safetensors", "model.json", "metrics.csv"


def save(
    folder: Path,
    model: nn.Module,
    settings: Mapping[str, Any],
    scores: Mapping[str, float],
    figures: str,
    started_from: Mapping[str, str],
    answers: Mapping[str, Any],
) -> None:
    """Write the whole folder aside, then let it take its place; of several processes the main one does it, and all wait.

    figures: CSV text of the course of the training; started_from: {modality: checksum of its pretrained weights};
    answers: what it takes to answer from new media with these weights (classes, task, media, calibration).
    """
    from safetensors.torch import save_file  # imports torch, which --help does without

    def write() -> None:
        if not distributed.is_main():
            return
        try:
            with new_folder(folder) as aside:
                weights = {name: x.detach().to("cpu", copy=True).contiguous() for name, x in model.state_dict().items()}
                save_file(weights, aside / WEIGHTS)
                (aside / METRICS).write_text(figures, encoding="utf-8")
                about = {"settings": dict(settings), "fingerprint": fingerprint(settings), "scores": dict(scores)}
                about |= {"weights_sha256": sha256(aside / WEIGHTS), "started_from": dict(started_from)}
                about |= answers
                write_json(aside / ABOUT, about)
        except (OSError, SafetensorError) as error:
            hint = "Make room and run the same command: it goes on from its last checkpoint."
            raise UserError(f"the model can't be written: {error}", str(folder), hint) from error

    distributed.together(write)


def done(folder: Path, settings: Mapping[str, Any], started_from: Mapping[str, str]) -> dict[str, Any] | None:
    """model.json of a checkpoint that is whole and made with `settings` from these weights; None where there is none."""
    try:
        about = check(folder, settings, "")
    except UserError:
        return None
    if about.get("started_from") != dict(started_from):
        return None
    whole = (folder / WEIGHTS).is_file() and sha256(folder / WEIGHTS) == about["weights_sha256"]
    if whole:
        logger.info(f"{folder} is trained with these settings already; --again trains it anew.")
    return about if whole else None


def check(folder: Path, settings: Mapping[str, Any], hint: str) -> dict[str, Any]:
    """model.json of a checkpoint made with `settings`. UserError with `hint` for none, or for one made with others."""
    about = read_json(folder / ABOUT, hint)
    try:
        whole = isinstance(about["settings"], dict) and isinstance(about["weights_sha256"], str)
        for one in about["calibration"].values():
            Calibration.of(one)
    except (KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise UserError("damaged: not a description of a model", str(folder / ABOUT), hint)
    if differences := difference(about["settings"], settings):
        raise UserError(f"trained with other settings ({'; '.join(differences)})", str(folder), hint)
    return about


def load(folder: Path, model: nn.Module, settings: Mapping[str, Any], hint: str) -> dict[str, Any]:
    """Put the weights into `model`, after `check`. UserError also for weights that are damaged or don't fit."""
    from safetensors.torch import load_file

    about = check(folder, settings, hint)
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError("not there", str(path), hint)
    if sha256(path) != about["weights_sha256"]:
        raise UserError("weights differ from model.json: truncated or altered", str(path), hint)
    try:
        model.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"weights do not fit: {' '.join(str(error).split())}", str(path), hint) from None
    return about

"""Trained models on disk: weights in safetensors (nothing is unpickled) beside a JSON that says what they are.

`settings` is everything the weights depend on; a checkpoint made with other settings is refused, by name of what differs.
The tokenizer and the configuration of an `hf:` encoder lie beside the weights, so that a folder is all that answering takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from loguru import logger
from pydantic import Field
from safetensors import SafetensorError

from umemma.config import Paths
from umemma.errors import UserError
from umemma.evaluation.calibration import Calibration
from umemma.system import distributed
from umemma.system.files import new_folder, read_json, save_tensors, sha256, write_json
from umemma.types import Plain
from umemma.validation import difference, fingerprint

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, ABOUT, METRICS = Paths.WEIGHTS, Paths.ABOUT, Paths.METRICS
FORMAT = (
    2  # of a trained model's folder; it goes up when older weights don't fit or say something else
)


class Carried(Plain):
    """Where a tokenizer, and perhaps a configuration, of transformers lies in the model's folder, and the checksums."""

    folder: Annotated[str, Field(pattern=r"^hf/[0-9a-f]{8}$")]
    files: dict[Annotated[str, Field(pattern=r"^[^/\\]+\.(json|txt|model)$")], str]


def save(
    folder: Path,
    model: nn.Module,
    settings: Mapping[str, Any],
    scores: Mapping[str, float],
    figures: str,
    started_from: Mapping[str, str],
    answers: Mapping[str, Any],
    from_hub: Mapping[str, bool] | None = None,
) -> None:
    """Write the whole folder aside, then let it take its place; of several processes the main one does it, and all wait.

    figures: CSV text of the course of the training; started_from: {modality: checksum of its pretrained weights};
    answers: what it takes to answer from new media with these weights (classes, task, media, calibration); from_hub: as
    models.from_hub says, the tokenizers and configurations of transformers that go with them.
    """

    def write() -> None:
        if not distributed.is_main():
            return
        try:
            with new_folder(folder) as aside:
                weights = {
                    name: x.detach().to("cpu", copy=True).contiguous()
                    for name, x in model.state_dict().items()
                }
                save_tensors(weights, aside / WEIGHTS)
                (aside / METRICS).write_text(figures, encoding="utf-8")
                about: dict[str, Any] = {"format": FORMAT}
                about |= {
                    "settings": dict(settings),
                    "fingerprint": fingerprint(settings),
                    "scores": dict(scores),
                }
                about |= {
                    "weights_sha256": sha256(aside / WEIGHTS),
                    "started_from": dict(started_from),
                }
                carried = {
                    name: _carry(name, config, aside) for name, config in (from_hub or {}).items()
                }
                about |= {"hf": carried} | dict(answers)
                write_json(aside / ABOUT, about)
        except (OSError, SafetensorError) as error:
            hint = "Make room and run the same command: it goes on from its last checkpoint."
            raise UserError(f"the model can't be written: {error}", str(folder), hint) from error

    distributed.together(write)


def _carry(name: str, with_config: bool, folder: Path) -> dict[str, Any]:
    """Put a tokenizer of transformers into the model's folder, under a name that is the content's: whoever keeps one in
    memory by its path never has that of an older training."""
    from umemma.encoders import (
        hf,  # imports torch, which a question to kept predictions does without
    )

    made = folder / "hf" / "made"
    made.mkdir(parents=True)
    hf.save(name, made, with_config)
    files = _checksums(made)
    place = f"hf/{fingerprint({name: files})[:8]}"
    made.rename(folder / place)
    return {"folder": place, "files": files}


def _checksums(folder: Path) -> dict[str, str]:
    """{name: checksum} of all that is in a folder; "" for what is no file."""
    return {path.name: sha256(path) if path.is_file() else "" for path in sorted(folder.iterdir())}


def hf_folders(folder: Path, carried: Mapping[str, Carried], hint: str) -> dict[str, str]:
    """{"hf:NAME": "hf:" and where it lies in the model's folder}. UserError with `hint` where that is missing or altered."""
    found = {}
    for name, one in carried.items():
        place = folder / one.folder
        try:
            whole = _checksums(place) == one.files
        except OSError:
            whole = False
        if not whole:
            raise UserError(
                f"the tokenizer of hf:{name} is missing, truncated or altered", str(place), hint
            )
        found[f"hf:{name}"] = f"hf:{place.absolute()}"
    return found


def done(
    folder: Path, settings: Mapping[str, Any], started_from: Mapping[str, str]
) -> dict[str, Any] | None:
    """model.json of a checkpoint that is whole and made with `settings` from these weights; None where there is none."""
    try:
        about = check(folder, settings, "")
    except UserError:
        return None
    if about.get("started_from") != dict(started_from):
        return None
    whole = (folder / WEIGHTS).is_file() and sha256(folder / WEIGHTS) == about["weights_sha256"]
    try:
        hf_folders(folder, _carried(about), "")
    except UserError:
        whole = False
    if whole:
        logger.info(f"{folder} is trained with these settings already; --again trains it anew.")
    return about if whole else None


def check(folder: Path, settings: Mapping[str, Any], hint: str) -> dict[str, Any]:
    """model.json of a checkpoint made with `settings`. UserError with `hint` for none, or for one made with others."""
    about = read_json(folder / ABOUT, hint)
    check_format(about, folder, hint)
    try:
        whole = isinstance(about["settings"], dict) and isinstance(about["weights_sha256"], str)
        for one in about["calibration"].values():
            Calibration.of(one)
        _carried(about)
    except (KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise UserError("damaged: not a description of a model", str(folder / ABOUT), hint)
    if differences := difference(about["settings"], settings):
        raise UserError(
            f"trained with other settings ({'; '.join(differences)})", str(folder), hint
        )
    return about


def check_format(about: Mapping[str, Any], folder: Path, hint: str) -> None:
    """UserError with `hint` for a model.json of another FORMAT; one that describes no model at all is no older one."""
    found = about.get("format", 1)
    is_model = "format" in about or isinstance(about.get("settings"), dict)
    if is_model and found != FORMAT:
        what = f"trained by another version of umemma (format {found}, this one reads {FORMAT})"
        raise UserError(what, str(folder), hint)


def _carried(about: Mapping[str, Any]) -> dict[str, Carried]:
    return {name: Carried.model_validate(one) for name, one in about["hf"].items()}


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
        raise UserError(
            f"weights do not fit: {' '.join(str(error).split())}", str(path), hint
        ) from None
    return about

"""Trained models on disk: a folder with model.safetensors, model.json and metrics.csv.

The weights are safetensors, so nothing is unpickled. model.json describes them (`ModelInfo`). Its
`settings` are everything that the weights depend on; a model that was trained with other settings
is refused, and the error lists the differences. The folder also holds the tokenizer and the
configuration of an `hf:` encoder (`hf_files`), so that prediction needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

from loguru import logger
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from umemma.config import Encoder, Paths
from umemma.errors import UserError
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.classification.thresholds import Thresholds
from umemma.models.hf_files import HfFiles, locate_hf_folders, save_hf_files
from umemma.presets import FusionName
from umemma.system import distributed
from umemma.system.files import new_folder, read_json, save_tensors, sha256, write_json
from umemma.types import Packing, Plain, TargetScale, Task, list_outputs
from umemma.validation import fingerprint, list_differences

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, ABOUT, METRICS = Paths.WEIGHTS, Paths.ABOUT, Paths.METRICS
# The version of the folder's format. It goes up when older weights no longer fit or mean something
# else.
FORMAT = 2
CONTENT_HASH = "content_hash"  # in model.json, of everything else in it
Threshold: TypeAlias = Annotated[float, Field(gt=0, lt=1)]


# What model.json says. ------------------------------------------------------------------------


def _parse_calibration(data: Any) -> Calibration:
    if isinstance(data, Calibration):
        return data
    try:
        return Calibration.of(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a calibration: {type(error).__name__} {error}") from None


class InferenceMetadata(NamedTuple):
    """What predicting from new media takes besides the weights and the settings.

    media: how media are packed. calibration: {modality subset or "probe/MODALITY": calibration}.
    prior: the share of the training samples that have each class, [] where it is unknown.
    thresholds: by the names of `calibration`, those of the tables that have any. inputs: {modality:
    what its training samples say about its InputSpec}. scales: of the targets of a regression.
    """

    classes: list[str]
    task: str
    media: Packing
    calibration: dict[str, Calibration]
    prior: list[float] = []
    thresholds: dict[str, Thresholds] = {}
    inputs: dict[str, dict[str, Any]] = {}
    scales: list[TargetScale] = []


class _TrainingOptions(Plain):
    model_config = ConfigDict(extra="ignore")

    absent: Literal["zero", "blank", "learned"] = "zero"
    fusion: FusionName = "mean"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False


class ModelSettings(Plain):
    """The part of a model's settings that says how to build it; the other settings are ignored."""

    model_config = ConfigDict(extra="ignore")

    modalities: Annotated[list[str], Field(min_length=1)]
    encoders: dict[str, Encoder]
    finetune: _TrainingOptions | None = None
    pretrain: _TrainingOptions | None = None

    @property
    def training(self) -> _TrainingOptions:
        """The options of the training that made the model."""
        return self.finetune or self.pretrain or _TrainingOptions()


class ModelInfo(Plain):
    """The content of model.json.

    started_from: {modality: checksum of the pretrained weights that its encoder started from}.
    hf: {NAME of an `hf:NAME` encoder or tokenizer: its files in the folder}.
    thresholds: {as in calibration: from which probability on each class is the answer}; those that
        are not listed are 0.5, or the same for all classes.
    inputs: {modality: what its training samples say about its InputSpec}.
    """

    model_config = ConfigDict(extra="ignore")

    settings: dict[str, Any]
    scores: dict[str, Annotated[float, Field(allow_inf_nan=True)]]
    weights_sha256: str
    started_from: dict[str, str]
    hf: dict[str, HfFiles]
    classes: Annotated[list[str], Field(min_length=1)]
    task: Task
    media: Packing
    calibration: dict[str, Annotated[Calibration, BeforeValidator(_parse_calibration)]]
    prior: list[Annotated[float, Field(ge=0, le=1)]] = []
    thresholds: dict[str, Annotated[tuple[Threshold, ...], Field(strict=False)]] = {}
    inputs: dict[str, dict[str, Any]] = {}
    scales: list[TargetScale] = []

    @property
    def outputs(self) -> list[str]:
        """What the numbers of a head are of (see `list_outputs`)."""
        return list_outputs(self.classes, self.task)

    def as_json(self) -> dict[str, Any]:
        calibration = {name: one.as_json() for name, one in self.calibration.items()}
        data: dict[str, Any] = {
            "format": FORMAT,
            "settings": self.settings,
            "fingerprint": fingerprint(self.settings),
            "scores": self.scores,
            "weights_sha256": self.weights_sha256,
            "started_from": self.started_from,
            "hf": {name: files.model_dump(mode="json") for name, files in self.hf.items()},
            "classes": self.classes,
            "task": self.task,
            "media": self.media.model_dump(mode="json"),
            "calibration": calibration,
            "prior": self.prior,
        }
        if self.thresholds:
            data["thresholds"] = {name: list(found) for name, found in self.thresholds.items()}
        if self.inputs:
            data["inputs"] = self.inputs
        if self.scales:
            data["scales"] = [scale.model_dump() for scale in self.scales]
        return {**data, CONTENT_HASH: fingerprint(data)}


# Save. ----------------------------------------------------------------------------------------


def save(
    folder: Path,
    model: nn.Module,
    settings: Mapping[str, Any],
    scores: Mapping[str, float],
    training_metrics: str,
    started_from: Mapping[str, str],
    inference_metadata: InferenceMetadata,
    hub_names: Mapping[str, bool] | None = None,
) -> None:
    """Write a temporary folder and rename it to `folder` when it is complete.

    Of several processes the main one writes, and all wait for it. UserError where the folder
    cannot be written.

    training_metrics: the CSV text of the metrics of each epoch. started_from: {modality: checksum
    of its pretrained weights}. hub_names: what factory.find_hub_names returns, the tokenizers and
    configurations of transformers that the folder has to hold.
    """

    def write() -> None:
        if not distributed.is_main():
            return
        try:
            with new_folder(folder) as temporary:
                _save_weights(model, temporary / WEIGHTS)
                (temporary / METRICS).write_text(training_metrics, encoding="utf-8")
                info = ModelInfo(
                    settings=dict(settings),
                    scores=dict(scores),
                    weights_sha256=sha256(temporary / WEIGHTS),
                    started_from=dict(started_from),
                    hf=save_hf_files(hub_names or {}, temporary),
                    **inference_metadata._asdict(),
                )
                write_json(temporary / ABOUT, info.as_json())
        except (OSError, SafetensorError) as error:
            what = f"cannot write the model: {error}"
            hint = "Free some space and run the same command: it resumes from its last checkpoint."
            raise UserError(what, str(folder), hint) from error

    distributed.raise_on_all(write)


def _save_weights(model: nn.Module, path: Path) -> None:
    weights = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_tensors(weights, path)


# Read. ----------------------------------------------------------------------------------------


def find_current(
    folder: Path,
    settings: Mapping[str, Any],
    started_from: Mapping[str, str],
) -> ModelInfo | None:
    """Return the ModelInfo of a complete model that was trained with `settings` from these weights.

    None where there is no such model.
    """
    try:
        info = check(folder, settings, "")
        locate_hf_folders(folder, info.hf, "")
    except UserError:
        return None
    if info.started_from != dict(started_from):
        return None
    path = folder / WEIGHTS
    if not path.is_file() or sha256(path) != info.weights_sha256:
        return None
    logger.info(f"{folder} is trained with these settings already; --force trains it again.")
    return info


def is_trained(
    folder: Path,
    settings: Mapping[str, Any],
    weights: Mapping[str, str],
    unimodal: Sequence[Path] = (),
) -> bool:
    """Return whether a folder has a model with these settings and of these origins.

    weights: {modality: checksum} of the files of pretrained weights; unimodal: the folders of the
    uni-modal models, if it starts from them or learns from them.
    """
    try:
        info = check(folder, settings, "")
        checksums = {read_json(one / ABOUT, "")["weights_sha256"] for one in unimodal}
    except UserError:
        return False
    if not (folder / WEIGHTS).is_file():
        return False
    expected: set[str] = set()
    if settings["kind"] == "unimodal" or settings["finetune"]["init"] == "scratch":
        expected |= {weights[m] for m in weights if m in settings["modalities"]}
    if settings.get("starts_from"):
        expected |= checksums
    return set(info.started_from.values()) == expected


def check(folder: Path, settings: Mapping[str, Any], hint: str) -> ModelInfo:
    """Read model.json and check that the model was trained with `settings`.

    UserError with `hint` where there is no model, or one that was trained with other settings.
    """
    info = read_info(folder, hint)
    differences = list_differences(info.settings, settings)
    if differences:
        what = f"trained with other settings ({'; '.join(differences)})"
        raise UserError(what, str(folder), hint)
    return info


def read_info(folder: Path, hint: str) -> ModelInfo:
    """Return what model.json says. UserError with `hint` where it is missing or damaged."""
    data = read_about(folder, hint)
    try:
        return ModelInfo.model_validate(data)
    except ValidationError:
        what = "damaged: not a description of a model"
        raise UserError(what, str(folder / ABOUT), hint) from None


def read_about(folder: Path, hint: str, repair_hint: str = "") -> dict[str, Any]:
    """Return the content of model.json.

    UserError with `hint` where it is missing; with `repair_hint`, or that, where it is altered or
    of another FORMAT. Models from before there was a hash of the content have none.
    """
    path = folder / ABOUT
    data = read_json(path, hint)
    _check_format(data, folder, repair_hint or hint)
    content_hash = data.pop(CONTENT_HASH, None)
    is_altered = content_hash != fingerprint(data)
    if content_hash is None:
        is_altered = not data.keys() <= {*ModelInfo.model_fields, "format", "fingerprint"}
    if is_altered:
        raise UserError("altered: its hash is another", str(path), repair_hint or hint)
    return data


def _check_format(data: Mapping[str, Any], folder: Path, hint: str) -> None:
    """UserError with `hint` for the model.json of another FORMAT.

    A model.json that describes no model at all does not count as one of an older format.
    """
    is_model = "format" in data or isinstance(data.get("settings"), dict)
    saved_format = data.get("format", 1)
    if is_model and saved_format != FORMAT:
        versions = f"format {saved_format}, this one reads {FORMAT}"
        raise UserError(f"trained by another version of umemma ({versions})", str(folder), hint)


def load(folder: Path, model: nn.Module, settings: Mapping[str, Any], hint: str) -> ModelInfo:
    """Load the weights into `model`, after `check`.

    UserError with `hint` also for weights that are damaged or do not fit the model.
    """
    from safetensors.torch import load_file

    info = check(folder, settings, hint)
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError("no such file", str(path), hint)
    if sha256(path) != info.weights_sha256:
        raise UserError("weights differ from model.json: truncated or altered", str(path), hint)
    try:
        weights = load_file(path)
        model.load_state_dict(weights)
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"weights do not fit: {reason}", str(path), hint) from None
    for name, x in weights.items():
        if x.isnan().any() and not name.startswith("probes."):  # those that were not fitted
            raise UserError(f"the weights {name} are not numbers", str(path), hint)
    return info

"""Prediction from new media, with nothing but the folder of a trained model.

`umemma.load(folder).predict(image="x.png")`. Media are handled like training samples: packed as the
shards were, then decoded and finished as the encoder asks. An absent modality gets the blank input.
The logits are calibrated with the temperature and bias of the subset that is present.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.data import DataLoader

from umemma import modalities
from umemma.config import Encoder, Training
from umemma.data.decoding import watch_handover, watch_workers
from umemma.errors import UserError, unknown_name
from umemma.evaluation.calibration import probabilities
from umemma.evaluation.regression import gaussian
from umemma.missing import list_patterns
from umemma.models import factory, hub, saved_model
from umemma.models.answers import AnyPrediction, NumberPrediction, Prediction
from umemma.models.explanation import Explanation, attribute, make_prior, measure_worth
from umemma.models.fusions import check_predicts_alone
from umemma.models.hf_files import locate_hf_folders
from umemma.models.late_fusion import LateFusion
from umemma.models.predict_inputs import (
    DecodedBatch,
    DecodedBatches,
    Failure,
    ignore_interrupts,
    return_unchanged,
)
from umemma.models.saved_model import ModelInfo, ModelSettings
from umemma.system.executors import name_semaphores
from umemma.system.signals import start_without_interrupts
from umemma.types import OWN, BrokenPolicy, InputSpec, TextInput, format_pattern

TRAIN_HINT = "Run: umemma finetune-ensemble, or name the folder of a trained model."
REPAIR_HINT = "Copy the folder again, or train it: umemma finetune-ensemble --force"


# Load. ----------------------------------------------------------------------------------------


def load(
    folder: str | Path,
    trust: bool = False,
    device: str = "",
    broken: BrokenPolicy = "absent",
) -> Predictor:
    """Load the model in `folder`, of one modality or more, onto the GPU if there is one.

    folder: also hf://owner/name[@revision], a model of the Hugging Face hub.

    broken: whether a medium that cannot be read is absent, or its sample fails. trust: whether an
    encoder `import:...`, which runs code of its author, is allowed. UserError where it is not, for
    a folder that is incomplete or damaged, and for a model that has no answer to a sample alone.
    """
    policies = get_args(BrokenPolicy)
    if broken not in policies:
        raise unknown_name("policy", broken, policies, "broken")
    folder = hub.fetch_model(str(folder)) if hub.is_on_hub(folder) else Path(folder)
    info, settings = _read_info(folder)
    fusion = settings.training.fusion
    check_predicts_alone(fusion, str(folder))
    if not trust:
        _refuse_custom_code(settings.encoders, folder)
    encoders, specs = _resolve_encoders(folder, info, settings)
    # The initial weights are overwritten; the caller's random state must not change.
    with torch.random.fork_rng(devices=[]):
        model = factory.build(
            encoders,
            specs,
            info.classes,
            settings.training.absent,
            fusion=fusion,
            task=info.task,
        )
    saved_model.load(folder, model, info.settings, REPAIR_HINT)
    if not device:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    training = Training(
        precision=settings.training.precision,
        channels_last=settings.training.channels_last,
    )
    model = factory.place_on_device(model, training, torch.device(device))
    return Predictor(info, model.eval(), specs, torch.device(device), broken)


def _read_info(folder: Path) -> tuple[ModelInfo, ModelSettings]:
    """Read model.json. UserError where there is none, or where it lacks what prediction needs."""
    path = folder / saved_model.ABOUT
    data = saved_model.read_about(folder, TRAIN_HINT, REPAIR_HINT)
    section: tuple[str, ...] = ()
    try:
        info = ModelInfo.model_validate(data)
        section = ("settings",)
        settings = ModelSettings.model_validate(info.settings)
        _check_consistent(info, settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (*section, *first["loc"])))
        reason = f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    except ValueError as error:
        reason = str(error)
    else:
        return info, settings
    raise UserError(f"damaged, or of another version: {reason}", str(path), REPAIR_HINT)


def _check_consistent(info: ModelInfo, settings: ModelSettings) -> None:
    """ValueError where the parts of model.json do not fit one another; UserError for a modality."""
    names = settings.modalities
    if names != sorted(settings.encoders):
        raise ValueError("its modalities and its encoders do not match")
    if len(set(info.classes)) < len(info.classes):
        raise ValueError("it names a class twice")
    if info.task == "regression" and len(info.scales) != len(info.classes):
        raise ValueError("its task is regression, and its targets lack a scale")
    for m, encoder in settings.encoders.items():
        kind = encoder.kind or m
        if not kind.startswith(OWN):  # code that may not be trusted
            modalities.get_module(kind)
    for pattern in map(format_pattern, list_patterns(names)):
        if pattern not in info.calibration:
            raise ValueError(f"no calibration of {pattern!r}")
        bias = info.calibration[pattern].bias
        if len(bias) not in (0, 1, len(info.outputs)):
            raise ValueError(f"the calibration of {pattern!r} has {len(bias)} classes")
        found = info.thresholds.get(pattern, ())
        if len(found) not in (0, len(info.classes)):
            raise ValueError(f"{pattern!r} has {len(found)} thresholds")


def _read_encoders(info: ModelInfo) -> dict[str, Encoder]:
    return ModelSettings.model_validate(info.settings).encoders


def _refuse_custom_code(encoders: Mapping[str, Encoder], folder: Path) -> None:
    for m, encoder in encoders.items():
        for part, name in (("encoder", encoder.name), ("kind", encoder.kind or m)):
            if not name.startswith(OWN):
                continue
            what = f"the {m} {part} {name!r} runs code of its author"
            hint = "If you trust that code: --trust, or umemma.load(folder, trust=True)."
            raise UserError(what, str(folder), hint)


def _resolve_encoders(
    folder: Path,
    info: ModelInfo,
    settings: ModelSettings,
) -> tuple[dict[str, Encoder], dict[str, InputSpec]]:
    """Return the encoders and what they take, with each `hf:NAME` replaced by its copy in `folder`.

    UserError where a copy is missing or altered.
    """
    hf_folders = locate_hf_folders(folder, info.hf, REPAIR_HINT)
    encoders: dict[str, Encoder] = {}
    for m, encoder in settings.encoders.items():
        name = _replace_hf_name(encoder.name, hf_folders, folder)
        encoders[m] = encoder.model_copy(update={"name": name})
    specs = factory.input_specs(encoders, info.inputs)
    for m, spec in specs.items():
        if isinstance(spec, TextInput):
            tokenizer = _replace_hf_name(spec.tokenizer, hf_folders, folder)
            specs[m] = spec.model_copy(update={"tokenizer": tokenizer})
    return encoders, specs


def _replace_hf_name(name: str, hf_folders: Mapping[str, str], folder: Path) -> str:
    if not name.startswith("hf:") or name in hf_folders.values():
        return name
    if name not in hf_folders:
        raise UserError(f"damaged: no tokenizer of {name} in it", str(folder), REPAIR_HINT)
    return hf_folders[name]


def _make_calibration_tables(info: ModelInfo, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (2**M, 1) temperatures and (2**M, C) biases of every subset of the modalities `names`.

    The row of a subset is the number whose bit i says that modality i is present. Row 0, in which
    nothing is present, is NaN.
    """
    temperature = np.full((2 ** len(names), 1), np.nan)
    bias = np.zeros((2 ** len(names), len(info.outputs)))
    for pattern in list_patterns(names):
        calibration = info.calibration[format_pattern(pattern)]
        row = sum(2**i for i, m in enumerate(names) if m in pattern)
        temperature[row] = calibration.temperature
        bias[row] = np.array(calibration.bias or [0.0])
    return temperature, bias


def _make_threshold_table(info: ModelInfo, names: list[str]) -> np.ndarray:
    """Return (2**M, C) thresholds of every subset, whose rows are those of the calibration."""
    usual = 1.0
    if info.task == "multilabel":
        usual = 0.5
    thresholds = np.full((2 ** len(names), len(info.classes)), usual)
    for pattern in list_patterns(names):
        found = info.thresholds.get(format_pattern(pattern))
        if found:
            thresholds[sum(2**i for i, m in enumerate(names) if m in pattern)] = found
    return thresholds


# Predict. -------------------------------------------------------------------------------------


class Predictor:
    """A trained model that predicts from new media.

    Use does not change it, so threads may share one.
    """

    def __init__(
        self,
        info: ModelInfo,
        model: LateFusion,
        specs: Mapping[str, InputSpec],
        device: torch.device,
        broken: BrokenPolicy = "absent",
    ) -> None:
        self.info = info
        self.model = model
        self.specs = specs
        self.device = device
        self.broken = broken
        self.modalities = model.modalities
        self.kinds = {m: encoder.kind or m for m, encoder in _read_encoders(info).items()}
        self.classes = info.classes
        self.task = info.task
        self.temperature, self.bias = _make_calibration_tables(info, model.modalities)
        self.thresholds = _make_threshold_table(info, model.modalities)

    def predict(self, **media: Any) -> AnyPrediction:
        """Predict one sample, {modality: media}; a modality that is None or not named is absent.

        Text is a str; any other str is a path. All modalities: a Path, or encoded bytes. Image: an
        (H, W[, 3]) uint8 array or a PIL image too. Audio: a types.Sound or (samples (T,), rate)
        too.

        UserError where there is no prediction: no modality is present, or a medium cannot be read
        and `broken` says that its sample fails.
        """
        return self._answer(self._decode(media), media)

    def _decode(self, media: Mapping[str, Any]) -> DecodedBatch:
        """Return one sample as a batch."""
        (batch,) = DecodedBatches([media], 1, self.info.media, self.specs, self.broken)
        if isinstance(batch, UserError):
            raise batch
        return batch

    def _answer(self, batch: DecodedBatch, media: Mapping[str, Any]) -> AnyPrediction:
        """Return the prediction for the one sample of a batch. UserError where there is none."""
        (result,) = self._predict_batch(batch)
        if not isinstance(result, Failure):
            return result
        modality, _, reason = result.reason.partition(": ")
        if not reason:
            hint = f"This model predicts from {' or '.join(self.modalities)}."
            raise UserError(result.reason, hint=hint, usage=True)
        value = media[modality]
        if not isinstance(value, (Path, str)):
            value = type(value).__name__
        raise UserError(reason, f"{modality} {value!s:.200}", usage=True)

    def explain(self, **media: Any) -> Explanation:
        """Predict one sample, and say what each of its modalities adds. UserError as `predict`.

        UserError too for a model that does not know how frequent its classes are.
        """
        prior = make_prior(self.info)
        batch = self._decode(media)
        prediction = self._answer(batch, media)
        worth = measure_worth(self.answer_subsets(batch), self.task)
        worth = np.concatenate([prior[None], worth])
        return attribute(prediction, worth, self.modalities, self.classes)

    def predict_many(
        self,
        samples: Iterable[Mapping[str, Any] | Failure],
        batch_size: int = 64,
        workers: int = 0,
    ) -> Iterator[AnyPrediction | Failure]:
        """Yield a Prediction or a Failure for each sample, in their order.

        A Failure among the samples is passed on. workers: the number of processes that decode; each
        iterates over `samples` by itself, so these must be picklable and the same each time.
        UserError for a modality that the model does not know.
        """
        dataset = DecodedBatches(samples, batch_size, self.info.media, self.specs, self.broken)
        batches: Iterable[DecodedBatch | UserError] = dataset
        if workers:
            name_semaphores()
            batches = DataLoader(
                dataset,
                batch_size=None,
                num_workers=workers,
                collate_fn=return_unchanged,
                worker_init_fn=ignore_interrupts,
                multiprocessing_context="spawn",
            )
        hint = (
            "It may have run out of memory: use fewer workers, or a smaller batch size. In a "
            'script, the call has to stand below: if __name__ == "__main__":'
        )
        with watch_workers("workers", hint), watch_handover("workers", hint):
            with start_without_interrupts():
                decoded = iter(batches)
            for batch in decoded:
                if isinstance(batch, UserError):
                    raise batch
                yield from self._predict_batch(batch)

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], present: Tensor) -> np.ndarray:
        """Return (B, C) float32 calibrated logits, or the (B, 2T) outputs of a regression.

        inputs: {modality: (B, ...)} as the encoders take them; present: (B, M) bool.
        """
        features, absent = self.model.encode(inputs, present)
        raw_logits = self.model.fuse(features, absent, present, present).cpu().numpy()
        return self.calibrate(raw_logits, present.numpy())

    def calibrate(self, raw_logits: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Return (B, C) float32 logits that are calibrated for what is present (B, M) bool."""
        row = present @ (2 ** np.arange(len(self.modalities)))
        temperature, bias = self.temperature[row], self.bias[row]
        if self.task == "regression":
            calibrated = gaussian.calibrate(raw_logits, temperature, bias)
        else:
            calibrated = raw_logits / temperature + bias
        return calibrated.astype(np.float32)

    @torch.inference_mode()
    def answer_subsets(self, batch: DecodedBatch) -> np.ndarray:
        """Return the calibrated logits of every subset but none of the P modalities of a sample.

        (2**P - 1, C); row k is the subset whose modalities are the bits of k + 1. In regression
        they are the values of the targets.
        """
        columns = batch.present[0].nonzero()[:, 0]
        subsets = torch.arange(1, 2 ** len(columns))
        keep = torch.zeros(len(subsets), len(self.modalities), dtype=torch.bool)
        keep[:, columns] = (subsets[:, None] >> torch.arange(len(columns))) % 2 == 1
        features, absent = self.model.encode(self.finish_inputs(batch), batch.present)
        raw_logits = self.model.fuse(features, absent, keep[None], batch.present)[0]
        calibrated = self.calibrate(raw_logits.cpu().numpy(), keep.numpy())
        if self.task == "regression":
            calibrated, _ = self.restore_units(calibrated)
        return calibrated

    def finish_inputs(self, batch: DecodedBatch) -> dict[str, Tensor]:
        """Return {modality: (B, ...)} as the encoders take them."""
        inputs: dict[str, Tensor] = {}
        for m, compact in batch.inputs.items():
            spec = self.specs[m]
            modality = modalities.find_module(spec)
            inputs[m] = modality.finish(compact.to(self.device), spec)
        return inputs

    def _predict_batch(self, batch: DecodedBatch) -> Iterator[AnyPrediction | Failure]:
        predictions: Iterator[Prediction | NumberPrediction] = iter(())
        if len(batch.present):
            logits = self.logits(self.finish_inputs(batch), batch.present)
            if self.task == "regression":
                rows = np.stack(self.restore_units(logits), 1)
            else:
                rows = probabilities(logits, self.task)
            predictions = map(self._make_prediction, rows, batch.present.tolist(), batch.broken)
        for failure in batch.failures:
            yield failure or next(predictions)

    def _make_prediction(
        self,
        class_probabilities: np.ndarray,
        present: list[bool],
        broken: tuple[str, ...],
    ) -> Prediction | NumberPrediction:
        """class_probabilities: (C,), or (2, T) means and standard deviations of a regression."""
        if self.task == "regression":
            means, deviations = class_probabilities
            return self._make_number_prediction(means, deviations, present, broken)
        by_class = dict(zip(self.classes, class_probabilities.tolist(), strict=True))
        thresholds = self.thresholds[sum(2**i for i, has in enumerate(present) if has)]
        present_names = tuple(itertools.compress(self.modalities, present))
        if self.task == "multiclass":
            label = self.classes[int((class_probabilities / thresholds).argmax())]
            return Prediction(label, by_class[label], by_class, present_names, broken)
        labels = tuple(itertools.compress(self.classes, class_probabilities > thresholds))
        values = tuple(by_class[label] for label in labels)
        return Prediction(labels, values, by_class, present_names, broken)

    def restore_units(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the (B, T) means and standard deviations of a regression, in the targets' units.

        outputs: (B, 2T), as `logits` returns them.
        """
        mean = np.array([scale.mean for scale in self.info.scales])
        std = np.array([scale.std for scale in self.info.scales])
        standardized_mean, precision = gaussian.to_gaussian(outputs)
        return mean + std * standardized_mean, std / np.sqrt(precision)

    def _make_number_prediction(
        self,
        means: np.ndarray,
        deviations: np.ndarray,
        present: list[bool],
        broken: tuple[str, ...],
    ) -> NumberPrediction:
        reach = gaussian.half_width(gaussian.INTERVAL)
        value: dict[str, float] = {}
        deviation: dict[str, float] = {}
        interval: dict[str, tuple[float, float]] = {}
        for name, mean, std in zip(self.classes, means.tolist(), deviations.tolist(), strict=True):
            value[name] = mean
            deviation[name] = std
            interval[name] = (mean - reach * std, mean + reach * std)
        present_names = tuple(itertools.compress(self.modalities, present))
        return NumberPrediction(value, deviation, interval, present_names, broken)

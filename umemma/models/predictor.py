"""New media -> answers, by the folder of a trained model alone: `umemma.load(folder).predict(image="x.png")`.

Media go the way that training samples went: packed as the shards were, decoded and finished as the encoder asks, an absent
modality blank, the logits of what is there calibrated with that subset's own temperature and bias.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor
from torch.utils.data import DataLoader

from umemma import modalities
from umemma.config import Encoder, Training
from umemma.data.decoding import watch_handover, watch_workers
from umemma.errors import UserError, unknown_name
from umemma.evaluation.calibration import Calibration, probabilities
from umemma.missing import list_patterns
from umemma.models import factory, saved_model
from umemma.models.late_fusion import LateFusion
from umemma.models.predict_inputs import Batches, Decoded, Failure, start_worker, unchanged
from umemma.system.files import read_json
from umemma.types import BrokenPolicy, InputSpec, Packing, Plain, TextInput, format_pattern

HINT = "Run: umemma finetune-ensemble, or name the folder of a trained model."
AGAIN = "Copy the folder again, or train it: umemma finetune-ensemble --again"


@dataclass(frozen=True)
class Prediction:
    """label: the likeliest class or, of a multilabel task, those whose probability is over 0.5; probability: of each such;
    present: the modalities that it was answered from; broken: those given that can't be read, each with the reason, as
    "image: file is missing"."""

    label: str | tuple[str, ...]
    probability: float | tuple[float, ...]
    probabilities: dict[str, float]
    present: tuple[str, ...]
    broken: tuple[str, ...] = ()


# What a folder says of its model. -------------------------------------------------------------------------------------


class _Known(Plain):
    """What is needed of a JSON object that holds more."""

    model_config = ConfigDict(extra="ignore")


class _Trained(_Known):
    absent: Literal["zero", "blank", "learned"] = "zero"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False


class _Settings(_Known):
    modalities: Annotated[list[str], Field(min_length=1)]
    encoders: dict[str, Encoder]
    finetune: _Trained = _Trained()
    pretrain: _Trained = _Trained()


class About(_Known):
    """model.json, as checkpoint.save writes it."""

    settings: _Settings
    weights_sha256: str
    classes: Annotated[list[str], Field(min_length=1)]
    task: Literal["multiclass", "multilabel"]
    media: Packing
    calibration: dict[str, dict[str, Any]]
    hf: dict[str, saved_model.Carried]

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """(2**M, 1) temperatures and (2**M, C) biases. A subset's row is the number whose bit i says that modality i is
        there; row 0, nothing, is NaN. KeyError, TypeError or ValueError for a subset without a calibration."""
        names = self.settings.modalities
        temperature, bias = (
            np.full((2 ** len(names), 1), np.nan),
            np.zeros((2 ** len(names), len(self.classes))),
        )
        for pattern in list_patterns(names):
            one = Calibration.of(self.calibration[format_pattern(pattern)])
            row = sum(2**i for i, m in enumerate(names) if m in pattern)
            temperature[row], bias[row] = one.temperature, np.array(one.bias or [0.0])
        return temperature, bias


def read(folder: Path) -> About:
    """model.json of a folder. UserError where there is none, or where it doesn't say all that answering takes."""
    path = folder / saved_model.ABOUT
    data = read_json(path, HINT)
    saved_model.check_format(data, folder, AGAIN)
    try:
        about = About.model_validate(data)
        names = about.settings.modalities
        if names != sorted(about.settings.encoders) or len(set(about.classes)) < len(about.classes):
            raise ValueError("its modalities or classes make no sense")
        for m in names:
            modalities.get_module(m)
        about.tables()
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
    else:
        return about
    raise UserError(f"damaged, or of another version: {reason}", str(path), AGAIN)


def load(
    folder: str | Path, trust: bool = False, device: str = "", broken: BrokenPolicy = "absent"
) -> Predictor:
    """The model in `folder`, of one modality or more, on the GPU if there is one. broken: a medium that can't be read is
    absent, or its sample fails. UserError for a folder that is not whole, and for one that would run code of its own (an
    encoder `import:...`) unless `trust` says that it may."""
    if broken not in ("absent", "fail"):
        raise unknown_name("policy", broken, ("absent", "fail"), "broken")
    folder = Path(folder)
    about = read(folder)
    chosen = about.settings.encoders
    for m, encoder in chosen.items():
        if encoder.name.startswith("import:") and not trust:
            what = f"the {m} encoder {encoder.name!r} runs code of whoever wrote it"
            raise UserError(
                what,
                str(folder),
                "If you trust that code: --trust, or umemma.load(folder, trust=True).",
            )
    trained = (
        about.settings.finetune
        if "finetune" in about.settings.model_fields_set
        else about.settings.pretrain
    )
    carried = saved_model.locate_hf_folders(folder, about.hf, AGAIN)
    chosen = {
        m: one.model_copy(update={"name": _carried(one.name, carried, folder)})
        for m, one in chosen.items()
    }
    specs = factory.input_specs(chosen)
    for m, spec in specs.items():
        if isinstance(spec, TextInput):
            specs[m] = spec.model_copy(
                update={"tokenizer": _carried(spec.tokenizer, carried, folder)}
            )
    with torch.random.fork_rng(devices=[]):  # initial weights, which nobody sees
        model = factory.build(chosen, specs, about.classes, trained.absent)
    saved_model.load(folder, model, read_json(folder / saved_model.ABOUT, HINT)["settings"], AGAIN)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    how = Training(precision=trained.precision, channels_last=trained.channels_last)
    return Predictor(about, factory.place_on_device(model, how, where).eval(), specs, where, broken)


def _carried(name: str, carried: Mapping[str, str], folder: Path) -> str:
    """An encoder or a tokenizer, where it is an hf:NAME as it lies in the model's folder. UserError where it doesn't."""
    if not name.startswith("hf:") or name in carried.values():
        return name
    if name not in carried:
        raise UserError(f"damaged: no tokenizer of {name} in it", str(folder), AGAIN)
    return carried[name]


class Predictor:
    """A trained model that answers from new media. Nothing of it changes in use, so threads may share one."""

    def __init__(
        self,
        about: About,
        model: LateFusion,
        specs: Mapping[str, InputSpec],
        device: torch.device,
        broken: BrokenPolicy = "absent",
    ) -> None:
        self.about, self.model, self.specs, self.device, self.broken = (
            about,
            model,
            specs,
            device,
            broken,
        )
        self.modalities, self.classes, self.task = model.modalities, about.classes, about.task
        self.temperature, self.bias = about.tables()

    def predict(self, **media: Any) -> Prediction:
        """The answer to one sample, {modality: media}; None and what isn't named is absent. UserError where there is none:
        nothing is left, or a medium can't be read and `broken` says that its sample fails.

        Text is a str; any other str is a path. All: a Path, or encoded bytes. Image: an (H, W[, 3]) uint8 array or a PIL
        image too; audio: a contracts.Sound or (samples (T,), rate) too.
        """
        (found,) = self.predict_many([media])
        if isinstance(found, Prediction):
            return found
        modality, _, reason = found.reason.partition(": ")
        if not reason:
            raise UserError(
                found.reason,
                hint=f"This model answers from {' or '.join(self.modalities)}.",
                usage=True,
            )
        named = (
            media[modality]
            if isinstance(media[modality], (Path, str))
            else type(media[modality]).__name__
        )
        raise UserError(reason, f"{modality} {named!s:.200}", usage=True)

    def predict_many(
        self, samples: Iterable[Mapping[str, Any] | Failure], batch_size: int = 64, workers: int = 0
    ) -> Iterator[Prediction | Failure]:
        """An answer to each sample, or why there is none, in their order; a Failure among them is passed on.

        workers: processes that decode ahead; each goes through `samples` by itself, which then have to be picklable and
        give the same each time. UserError for a modality that the model doesn't know.
        """
        batches = Batches(samples, batch_size, self.about.media, self.specs, self.broken)
        found: Iterable[Decoded | UserError] = batches
        if workers:
            found = DataLoader(
                batches,
                batch_size=None,
                num_workers=workers,
                collate_fn=unchanged,
                worker_init_fn=start_worker,
                multiprocessing_context="spawn",
            )
        hint = "It may have run out of memory: use fewer workers, or a smaller batch size."
        with watch_workers("workers", hint), watch_handover("workers", hint):
            for batch in found:
                if isinstance(batch, UserError):
                    raise batch
                yield from self._answers(batch)

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], present: Tensor) -> np.ndarray:
        """(B, C) float32, calibrated, from what encoders see, {modality: (B, ...)}, and present (B, M) bool."""
        raw = self.model.fuse(*self.model.encode(inputs, present), present).cpu().numpy()
        row = present.numpy() @ (2 ** np.arange(len(self.modalities)))
        return (raw / self.temperature[row] + self.bias[row]).astype(np.float32)

    def _answers(self, batch: Decoded) -> Iterator[Prediction | Failure]:
        answers: Iterator[Prediction] = iter(())
        if len(batch.present):
            compact = {m: x.to(self.device) for m, x in batch.inputs.items()}
            seen = {
                m: modalities.get_module(m).finish(x, self.specs[m]) for m, x in compact.items()
            }
            chances = probabilities(self.logits(seen, batch.present), self.task)
            answers = map(self._answer, chances, batch.present.tolist(), batch.broken)
        for failure in batch.failures:
            yield failure or next(answers)

    def _answer(
        self, chances: np.ndarray, present: list[bool], broken: tuple[str, ...]
    ) -> Prediction:
        by_class = dict(zip(self.classes, chances.tolist(), strict=True))
        there = tuple(itertools.compress(self.modalities, present))
        if self.task == "multiclass":
            label = self.classes[int(chances.argmax())]
            return Prediction(label, by_class[label], by_class, there, broken)
        labels = tuple(label for label, chance in by_class.items() if chance > 0.5)
        return Prediction(
            labels, tuple(by_class[label] for label in labels), by_class, there, broken
        )

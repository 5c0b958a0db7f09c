"""What a user gives to be answered -> batches of decoded samples, the way that training samples went.

Media are packed as the shards were and decoded as the encoders ask. A medium that can't be read is absent, and said to be
broken; a sample of which nothing is left is a Failure in its place.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from umemma import modalities
from umemma.errors import UserError, unknown
from umemma.types import BrokenPolicy, Clip, InputSpec, Media, Packing, Sound

NOTHING = "nothing is there of any modality"
MOST_RATE = 655350  # Hz that FLAC can say


@dataclass(frozen=True)
class Failure:
    """Why there is no answer: fixed phrases after their modalities, "image: file is missing; text: not a text"."""

    reason: str


class Decoded(NamedTuple):
    """A batch of the B' samples that could be decoded: inputs {modality: (B', ...)}, compact; present: (B', M) bool; broken:
    B' times the reasons why media can't be read. failures: B, None for those that could."""

    inputs: dict[str, Tensor]
    present: Tensor
    broken: list[tuple[str, ...]]
    failures: list[Failure | None]


@dataclass
class Batches(IterableDataset[Any]):
    """Samples in batches, decoded; of several processes each makes every so many-th batch."""

    samples: Iterable[Mapping[str, Any] | Failure]
    size: int
    packing: Packing
    specs: Mapping[str, InputSpec]
    policy: BrokenPolicy = "absent"

    def __iter__(self) -> Iterator[Decoded | UserError]:
        info, rest = get_worker_info(), iter(self.samples)
        batches = iter(lambda: list(itertools.islice(rest, self.size)), [])
        try:
            for batch in itertools.islice(
                batches, info.id if info else 0, None, info.num_workers if info else 1
            ):
                yield self._decoded(batch)
        except UserError as error:  # handed over whole: raised, DataLoader would make a text of it
            yield error

    def _decoded(self, batch: list[Mapping[str, Any] | Failure]) -> Decoded:
        found = [
            one if isinstance(one, Failure) else decode(one, self.packing, self.specs, self.policy)
            for one in batch
        ]
        good = [one for one in found if not isinstance(one, Failure)]
        inputs = {m: torch.stack([x[m] for x, _, _ in good]) for m in self.specs} if good else {}
        return Decoded(
            inputs,
            torch.tensor([there for _, there, _ in good]).reshape(-1, len(self.specs)),
            [reasons for _, _, reasons in good],
            [one if isinstance(one, Failure) else None for one in found],
        )


def decode(
    sample: Mapping[str, Any],
    packing: Packing,
    specs: Mapping[str, InputSpec],
    policy: BrokenPolicy = "absent",
) -> tuple[dict[str, Tensor], list[bool], tuple[str, ...]] | Failure:
    """({modality: (...)} compact, M times whether it is there, why media can't be read) of one sample; a Failure where
    nothing is there or, by `policy`, where a medium can't be read. UserError for an unknown modality."""
    for m in sample:
        if m not in specs:
            raise unknown("modality", m, specs, "the model")
    inputs: dict[str, Tensor] = {}
    broken: dict[str, str] = {}
    for m, spec in specs.items():
        if sample.get(m) is not None:
            try:
                for data in modalities.pack({m: _media(m, sample[m], packing)}, packing).values():
                    inputs[m] = modalities.get(m).decode(data, spec)
            except ValueError as error:
                broken[m] = str(error)
    reasons = modalities.reasons(broken)
    if not inputs or (broken and policy == "fail"):
        return Failure("; ".join(reasons) or NOTHING)
    present = [m in inputs for m in sorted(specs)]
    blanks = {m: modalities.get(m).blank(spec) for m, spec in specs.items() if m not in inputs}
    return inputs | blanks, present, reasons


def _media(modality: str, given: Any, packing: Packing) -> Media:
    """What a user gives as packing takes it. ValueError for an array or a sound that is neither."""
    if isinstance(given, str) and modality != "text":
        given = Path(given)
    if isinstance(given, Path):
        try:
            endless = given.exists() and not given.is_file()  # a device
        except OSError:  # a name too long, a folder that may not be entered
            raise ValueError("file can't be read") from None
        if endless:
            raise ValueError("not a file")
        return Clip(given) if modality in ("audio", "video") else given
    if isinstance(given, bytes) and modality == "video":
        from umemma.modalities import av_decoder

        return av_decoder.read(given, packing, pictures=True, sound=False).frames or []
    if isinstance(given, Image.Image) and not given.mode.startswith(("I", "F")):
        upright = ImageOps.exif_transpose(given)
        given = np.asarray(upright if upright.mode in ("L", "RGB") else upright.convert("RGB"))
    if isinstance(given, np.ndarray):
        colours = given.shape[2:] in ((), (3,)) and given.ndim > 1
        if given.dtype != np.uint8 or not colours or not given.size:
            raise ValueError("not an image: an array has to be (H, W) or (H, W, 3) uint8")
        return given
    if isinstance(given, tuple) and len(given) == 2:
        given = Sound(np.asarray(given[0]), given[1])
    if isinstance(given, Sound):
        real = given.samples.dtype in (np.float32, np.float64, np.int16) and given.samples.ndim == 1
        if not real or not isinstance(given.rate, int) or not 0 < given.rate <= MOST_RATE:
            raise ValueError(
                "not a sound: (samples, rate) has to be (T,) float32 in -1..1 or int16, and Hz"
            )
    return given


def calm(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one


def same(batch: Any) -> Any:
    return batch

"""Records with encoded media -> tensors -> batches.

A split is decoded once and kept in memory; an epoch then costs no decoding. An absent modality is filled with its blank
input before collation, and `present` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from umemma import modalities
from umemma.contracts import Batch, InputSpec, Record
from umemma.errors import UserError


@dataclass(frozen=True)
class Split:
    """Decoded samples. inputs: {modality: (N, ...)}; present: (N, M) bool; target: (N,) int64 classes, or (N, C) float32
    of 0 and 1 where samples have sets of labels; keys, groups: N."""

    inputs: dict[str, Tensor]
    present: Tensor
    target: Tensor
    keys: list[str]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    def batches(self, size: int, device: torch.device, order: np.ndarray | None = None) -> Iterator[Batch]:
        """Batches in stored order, or in `order` ((N,) indices). Every sample once; the last batch may be short."""
        indices = torch.from_numpy(order if order is not None else np.arange(len(self)))
        for chunk in indices.split(size):
            yield Batch(
                {m: x[chunk].to(device) for m, x in self.inputs.items()},
                self.present[chunk].to(device),
                self.target[chunk].to(device),
            )


def decode(
    records: Iterable[Record],
    specs: Mapping[str, InputSpec],
    classes: int,
    where: str,
    advance: Callable[[], None] = lambda: None,
) -> Split:
    """Decode the modalities of `specs`; a sample that has none of them is left out. classes: how many there are.

    UserError for media that can't be decoded, for a modality that no sample has, and where no sample remains.
    """
    names = sorted(specs)
    blanks = {m: modalities.get(m).blank(specs[m]) for m in names}
    inputs: dict[str, list[Tensor]] = {m: [] for m in names}
    kept: list[Record] = []
    for record in records:
        advance()
        if not any(m in record.media for m in names):
            continue
        for m in names:
            try:
                known = m in record.media
                inputs[m].append(modalities.get(m).decode(record.media[m], specs[m]) if known else blanks[m])
            except ValueError as error:
                raise UserError(f"sample {record.key!r}: {error}", where, "Run: umemma preprocess") from None
        kept.append(record)
    present = torch.tensor([[m in record.media for m in names] for record in kept]).reshape(-1, len(names))
    for i, m in enumerate(names):
        if not present[:, i].any():
            raise UserError(f"no sample has {m}", where, f"Take {m} out of modalities in the settings.")
    return Split(
        {m: torch.stack(tensors) for m, tensors in inputs.items()},
        present,
        _targets([record.label for record in kept], classes),
        [record.key for record in kept],
        [record.group or record.key for record in kept],
    )


def _targets(labels: Sequence[int | tuple[int, ...] | None], classes: int) -> Tensor:
    if not any(isinstance(label, tuple) for label in labels):
        return torch.tensor(labels)
    target = torch.zeros(len(labels), classes)
    for row, label in zip(target, labels, strict=True):
        row[list(label)] = 1.0  # type: ignore[arg-type]
    return target

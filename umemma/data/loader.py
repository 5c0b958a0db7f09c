"""Shards -> decoded samples -> batches, in any order that a training asks for.

What fits a memory budget is decoded once and kept (pictures as bytes: a quarter of what an encoder sees); what doesn't is
read and decoded anew for each batch, by processes that work ahead. Both give the same batches. An absent modality is
filled with its blank input before collation, and `present` says so.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from umemma import modalities
from umemma.data import shard_reader
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.missing import lost
from umemma.system import distributed
from umemma.system.seeds import hashes, mixed
from umemma.types import Batch, InputSpec, Plain, Record, Span

AHEAD = 4  # batches that each decoding process works ahead
GRACE = 60  # s that a decoding process goes on after SIGTERM
WORTH = 10.0  # s of decoding from which on further processes pay: one takes seconds to start


@dataclass(frozen=True)
class Split:
    """The samples of a split. kept: {modality: (N, ...)} decoded; present: (N, M) bool; target: (N,) int64 classes, or
    (N, C) float32 of 0 and 1 where samples have sets of labels; keys: N; groups: {grouping: N groups}; specs: what the
    encoders of `kept` and `streamed` see; streamed: the modalities that are decoded for each batch."""

    kept: dict[str, Tensor]
    present: Tensor
    target: Tensor
    keys: list[str]
    groups: dict[str, list[str]]
    specs: Mapping[str, InputSpec] = field(default_factory=dict)
    augments: Mapping[str, Plain] = field(default_factory=dict)
    streamed: Streamed | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, names: Collection[str]) -> Split:
        """The same samples with some of their modalities."""
        columns = [i for i, m in enumerate(sorted(self.specs)) if m in names]
        return replace(
            self,
            kept={m: x for m, x in self.kept.items() if m in names},
            present=self.present[:, columns],
            specs={m: spec for m, spec in self.specs.items() if m in names},
            streamed=self.streamed and self.streamed.of(names),
        )

    def on_features(self, features: Mapping[str, Tensor]) -> Split:
        """The same samples with `features` {modality: (N, D_m)} in place of what encoders see."""
        specs = {m: spec for m, spec in self.specs.items() if m not in features}
        streamed = self.streamed and self.streamed.of(specs.keys())
        return replace(self, kept={**self.kept, **features}, specs=specs, streamed=streamed)

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        return hashes(self.keys)

    def batches(
        self, plan: Sequence[np.ndarray], device: torch.device, seed: int | None = None
    ) -> Iterator[Batch]:
        """A batch for each array of sample numbers in `plan`. With a seed, which belongs to an epoch, samples are
        augmented and have numbers to draw further chance from."""
        found = self.streamed.decoded(plan) if self.streamed else itertools.repeat({})
        for numbers, decoded in zip(plan, found):  # noqa: B905 (the second may have no end)
            chosen = torch.from_numpy(numbers)
            inputs = {m: _to(x, device) for m, x in decoded.items()}
            inputs |= {m: _to(x[chosen], device) for m, x in self.kept.items()}
            chance = None if seed is None else mixed(self.hashes[numbers], seed)
            for m, spec in self.specs.items():
                modality = modalities.get(m)
                if chance is not None and m in self.augments:
                    drawn = modality.draw(self.augments[m], mixed(chance, 0, "augment", m), spec)
                    inputs[m] = modality.augment(inputs[m], spec, self.augments[m], drawn)
                inputs[m] = modality.finish(inputs[m], spec)
            yield Batch(inputs, self.present[chosen], _to(self.target[chosen], device), chance)


def cut(numbers: np.ndarray | range, size: int) -> list[np.ndarray]:
    """Sample numbers in batches of `size`, the last one shorter where they don't divide."""
    array = np.array(numbers, dtype=np.int64)
    return [array[start : start + size] for start in range(0, len(array), size)]


class Reader(Dataset[Any]):
    """Samples by number, from where they lie in shards. A plain object that can go to another process."""

    def __init__(
        self, records: Sequence[Record], specs: Mapping[str, InputSpec], where: str
    ) -> None:
        self.keys, self.specs, self.where = [record.key for record in records], dict(specs), where
        self.files = sorted(
            {
                span.path
                for record in records
                for span in record.media.values()
                if isinstance(span, Span)
            }
        )
        number = {path: i for i, path in enumerate(self.files)}
        self.at = {
            m: np.zeros((len(records), 3), np.int64) for m in specs
        }  # file, offset, size; size 0 = absent
        for i, record in enumerate(records):
            for m in specs:
                if isinstance(span := record.media.get(m), Span):
                    self.at[m][i] = number[span.path], span.offset, span.size

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """{modality: (...)}, compact. UserError for media that can't be decoded."""
        inputs = {}
        for m, spec in self.specs.items():
            modality = modalities.get(m)
            file, offset, size = self.at[m][i].tolist()
            if not size:
                inputs[m] = modality.blank(spec)
                continue
            with open(self.files[file], "rb") as shard:
                shard.seek(offset)
                data = shard.read(size)
            try:
                inputs[m] = modality.decode(data, spec)
            except ValueError as error:
                raise UserError(
                    f"sample {self.keys[i]!r}: {error}", self.where, shard_reader.REMAKE
                ) from None
        return inputs

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Tensor] | UserError:
        """A batch {modality: (B, ...)}; an error is handed over whole: raised, DataLoader would make a text of it."""
        try:
            samples = [self[int(i)] for i in numbers]
        except UserError as error:
            return error
        return {m: torch.stack([sample[m] for sample in samples]) for m in self.specs}


class _Plan(Sampler[list[int]]):
    """The batches of the epoch that comes next."""

    batches: Sequence[np.ndarray] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return (numbers.tolist() for numbers in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Streamed:
    """Batches decoded when they are asked for, by `workers` processes that last as long as `stay`; 0 = by this one."""

    def __init__(self, reader: Reader, workers: int, stay: contextlib.ExitStack) -> None:
        self.reader, self.workers, self.stay, self.plan = reader, workers, stay, _Plan()
        several: dict[str, Any] = {
            "multiprocessing_context": "spawn",
            "persistent_workers": True,
            "prefetch_factor": AHEAD,
        }
        self.loader = DataLoader(
            reader,
            batch_sampler=self.plan,
            num_workers=workers,
            collate_fn=_same,
            worker_init_fn=_calm,
            **several if workers else {},
        )
        stay.callback(self.close)

    def of(self, names: Collection[str]) -> Streamed | None:
        """Those of its modalities, if it has any of them."""
        some = copy.copy(self.reader)
        some.specs = {m: spec for m, spec in some.specs.items() if m in names}
        return Streamed(some, self.workers, self.stay) if some.specs else None

    def decoded(self, plan: Sequence[np.ndarray]) -> Iterator[dict[str, Tensor]]:
        """{modality: (B, ...)}, compact, for each array of `plan`, in its order."""
        self.plan.batches = plan
        try:
            for batch in self.loader:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except (
            ConnectionError,
            EOFError,
        ) as error:  # the process died while it handed over a batch
            raise _killed() from error

    def close(self) -> None:
        """End the processes, whoever still holds on to this: torch itself does so only when nobody does. One that a busy
        machine keeps from ending when it is asked to is killed, as it only reads."""
        if self.workers and self.loader._iterator is not None:
            processes = self.loader._iterator._workers  # type: ignore[attr-defined]
            self.loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()
            self.loader._iterator = None


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """In the block the death of a decoding process, which torch raises wherever the main one happens to be, is a UserError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _killed() from error


def _killed() -> UserError:
    hint = "It may have run out of memory: lower machine.workers or machine.memory."
    return UserError("a decoding process was killed", "machine.workers", hint)


def load(
    store: Store,
    index: shard_reader.Index,
    split: str,
    specs: Mapping[str, InputSpec],
    stay: contextlib.ExitStack,
    *,
    memory: float = math.inf,
    workers: int | None = None,
    once: Collection[str] = (),
    augments: Mapping[str, Plain] | None = None,
    missing: Mapping[str, float] | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda samples: None,
) -> Split:
    """The samples of a split that have any modality of `specs`.

    memory: GiB of decoded samples that may be kept; workers: decoding processes, None = as it pays; once: modalities that
    aren't worth keeping; missing: {what: share of the samples that lose it}, before anything is decoded. `stay`
    holds what reading needs. UserError for media that can't be decoded, for a modality that no sample has, and where no
    sample remains.
    """
    where = f"{split} shards"
    listed = distributed.together(lambda: list(shard_reader.locate(store, index, split, stay)))
    listed = _without(listed, missing or {}, seed)
    names = sorted(specs)
    records = [record for record in listed if any(m in record.media for m in names)]
    present = torch.tensor([[m in record.media for m in names] for record in records]).reshape(
        -1, len(names)
    )
    for i, m in enumerate(names):
        if not present[:, i].any():
            raise UserError(
                f"no sample has {m}",
                where,
                f"Take {m} out of modalities in the settings, or less of it away (missing).",
            )
    if len(records) < len(listed):
        logger.debug(
            f"{where}: {len(listed) - len(records)} samples have none of {', '.join(names)} and are left out"
        )
    keeping = {m: spec for m, spec in specs.items() if m not in once}
    size = (
        sum(modalities.get(m).blank(spec).nbytes for m, spec in keeping.items())
        * len(records)
        / 2**30
    )
    if over := size > memory:
        logger.info(
            f"{where}: {size:.1f} GiB decoded, over the budget of {memory:g}: decoded for each batch"
        )
        keeping = {}
    kept: dict[str, Tensor] = {}
    if keeping:
        reader = Reader(records, keeping, where)
        mine = distributed.together(
            lambda: _keep(reader, _processes(reader, workers, _cores()), advance)
        )
        kept = {m: distributed.rows(x, len(records)) for m, x in mine.items()}
    streamed = None
    if rest := {m: spec for m, spec in specs.items() if m not in keeping}:
        reader = Reader(records, rest, where)
        if over and workers is None:  # in every epoch anew
            workers = _cores()
        streamed = Streamed(
            reader, distributed.together(lambda: _processes(reader, workers, _cores())), stay
        )
    return Split(
        kept,
        present,
        _targets([record.label for record in records], len(index.classes)),
        [record.key for record in records],
        _groups(records),
        dict(specs),
        augments or {},
        streamed,
    )


def _without(records: list[Record], missing: Mapping[str, float], seed: int) -> list[Record]:
    """The records, each without the modalities that it loses."""
    away = lost([record.key for record in records], seed, missing)
    return [
        Record(
            r.key,
            r.split,
            r.label,
            {m: x for m, x in r.media.items() if not (m in away and away[m][i])},
            r.group,
        )
        for i, r in enumerate(records)
    ]


def _keep(reader: Reader, workers: int, advance: Callable[[int], None]) -> dict[str, Tensor]:
    """{modality: (n, ...)}: this process's share of the samples."""
    parts = [{m: modalities.get(m).blank(spec)[None][:0] for m, spec in reader.specs.items()}]
    with contextlib.ExitStack() as stay:
        for part in Streamed(reader, workers, stay).decoded(
            cut(distributed.share(len(reader.keys)), 32)
        ):
            parts.append(part)
            advance(len(next(iter(part.values()))) * distributed.world().size)
    return {m: torch.cat([part.pop(m) for part in parts]) for m in reader.specs}


def _processes(reader: Reader, wanted: int | None, most: int) -> int:
    """How many are to decode: what is asked for, else `most`, or none where this one is soon done."""
    if wanted is not None:
        return wanted
    reader[0]  # the first pays for what is imported
    some = range(0, len(reader.keys), math.ceil(len(reader.keys) / 8))
    started = time.perf_counter()
    for i in some:
        reader[i]
    return most if (time.perf_counter() - started) / len(some) * len(reader.keys) > WORTH else 0


def _cores() -> int:
    """Of this machine, for each of its training processes."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", 1)))
    return max(1, len(os.sched_getaffinity(0)) // local)


def _groups(records: Sequence[Record]) -> dict[str, list[str]]:
    """{grouping: the group of each record}. A record without a group is one by itself; so is each where there is no grouping,
    which is called "sample"."""
    own = [record.groups for record in records]
    names = sorted(set().union(*own))
    if not names:
        return {"sample": [record.key for record in records]}
    return {
        name: [groups.get(name, r.key) for groups, r in zip(own, records, strict=True)]
        for name in names
    }


def _targets(labels: Sequence[int | tuple[int, ...] | None], classes: int) -> Tensor:
    if not any(isinstance(label, tuple) for label in labels):
        return torch.tensor(labels)
    target = torch.zeros(len(labels), classes)
    for row, label in zip(target, labels, strict=True):
        row[list(label)] = 1.0  # type: ignore[arg-type]
    return target


def _to(x: Tensor, device: torch.device) -> Tensor:
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)


def _calm(worker: int) -> None:
    """In a decoding process: signals to the whole group are for the training, which then ends its processes itself. Not to
    obey SIGTERM at all would leave a parent that dies in disorder waiting for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


def _same(batch: Any) -> Any:
    return batch

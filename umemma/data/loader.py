"""Shards -> decoded samples -> batches, in any order that a training asks for.

What fits into a memory budget is decoded once and held (pictures as bytes: a quarter of what an
encoder sees). The rest is read and decoded for each batch, by DataLoader workers (`decoding.py`).
Both give the same batches. An absent modality is filled with its blank input before collation, and
`present` says so.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from loguru import logger
from torch import Tensor

from umemma import modalities
from umemma.data import decoded_cache, sample_table, shard_reader
from umemma.data.decoding import BatchStream, SampleDataset, choose_workers
from umemma.data.sample_table import MediaTable, SampleTable
from umemma.errors import UserError
from umemma.missing import draw_training_absences
from umemma.modalities.corruption import Corruption
from umemma.system import distributed
from umemma.system.cores import count_cores_of_process
from umemma.system.seeds import hash_keys, mix
from umemma.system.storage import Store
from umemma.types import Batch, InputSpec, Plain

BATCH = 32  # samples that are decoded together for memory
GIB = 2**30


@dataclass(frozen=True)
class LoadOptions:
    """How to load a split.

    memory: GiB of decoded samples that may be held; workers: DataLoader workers, None = chosen
    automatically; once: modalities that are not worth holding; augments: {modality: settings} for
    training; missing: {what: share of the samples that lose it}, taken away before anything is
    decoded; seed: for `missing`; cache: the folder of decoded samples, None for no cache.
    """

    memory: float = math.inf
    workers: int | None = None
    once: Collection[str] = ()
    augments: Mapping[str, Plain] = field(default_factory=dict)
    missing: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    cache: Path | None = None


@dataclass(frozen=True)
class LoadedSplit:
    """The samples of a split.

    in_memory: {modality: (N, ...)} decoded; present: (N, M) bool; target: (N,) int64 classes, or
    (N, C) float32 of 0 and 1 where samples have sets of labels, or (N, T) float64 standardized
    numbers in regression; keys: N; groups: {grouping: N
    groups}; specs: what the encoders of `in_memory` and `stream` see; stream: the modalities that
    are decoded for each batch; weight: (N,) of the samples in the loss, None for all alike.
    """

    in_memory: dict[str, Tensor]
    present: Tensor
    target: Tensor
    keys: list[str]
    groups: dict[str, list[str]]
    specs: Mapping[str, InputSpec] = field(default_factory=dict)
    augments: Mapping[str, Plain] = field(default_factory=dict)
    stream: BatchStream | None = None
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def select_modalities(self, names: Collection[str]) -> LoadedSplit:
        """Return the same samples with some of their modalities."""
        columns = [i for i, m in enumerate(sorted(self.specs)) if m in names]
        return replace(
            self,
            in_memory={m: x for m, x in self.in_memory.items() if m in names},
            present=self.present[:, columns],
            specs={m: spec for m, spec in self.specs.items() if m in names},
            stream=self._select_stream(names),
        )

    def with_features(self, features: Mapping[str, Tensor]) -> LoadedSplit:
        """Return the same samples with `features` {modality: (N, D_m)} in place of the inputs of
        those encoders."""
        specs = {m: spec for m, spec in self.specs.items() if m not in features}
        return replace(
            self,
            in_memory={**self.in_memory, **features},
            specs=specs,
            stream=self._select_stream(specs.keys()),
        )

    def corrupt(self, with_: Corruption) -> LoadedSplit:
        """Return the same samples, a modality of which is corrupted after it is read.

        It has to be decoded for each batch: what is in memory, or in a cache, is intact.
        """
        assert self.stream is not None
        assert with_.modality not in self.in_memory
        return replace(self, stream=self.stream.corrupt(with_))

    def _select_stream(self, names: Collection[str]) -> BatchStream | None:
        if self.stream is None:
            return None
        return self.stream.select_modalities(names)

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        """The hash of each key, (N,) uint64.

        The random numbers of the sample are drawn from it.
        """
        return hash_keys(self.keys)

    def batches(
        self,
        plan: Sequence[np.ndarray],
        device: torch.device,
        seed: int | None = None,
    ) -> Iterator[Batch]:
        """Yield a batch for each array of sample numbers in `plan`.

        With a seed, which belongs to an epoch, samples are augmented and the batches have
        `sample_seeds`.
        """
        streamed: Iterator[dict[str, Tensor]] = itertools.repeat({})
        if self.stream:
            streamed = self.stream.iterate_batches(plan)
        for numbers, decoded in zip(plan, streamed):  # noqa: B905 (the second may have no end)
            rows = torch.from_numpy(numbers)
            inputs = {m: _move(x, device) for m, x in decoded.items()}
            for m, x in self.in_memory.items():
                inputs[m] = _select(x, rows, device)
            sample_seeds = None
            if seed is not None:
                sample_seeds = mix(self.hashes[numbers], seed)
            for m, spec in self.specs.items():
                inputs[m] = self._finish_input(m, spec, inputs[m], sample_seeds)
            target = _select(self.target, rows, device)
            weight = None
            if self.weight is not None:
                weight = _select(self.weight, rows, device)
            yield Batch(inputs, self.present[rows], target, sample_seeds, weight)

    def _finish_input(
        self,
        name: str,
        spec: InputSpec,
        inputs: Tensor,
        sample_seeds: np.ndarray | None,
    ) -> Tensor:
        """Augment the compact inputs of a modality (in training) and make what its encoder sees."""
        modality = modalities.find_module(spec)
        if sample_seeds is not None and name in self.augments:
            augment = self.augments[name]
            drawn = modality.draw(augment, mix(sample_seeds, 0, "augment", name), spec)
            inputs = modality.augment(inputs, spec, augment, drawn)
        return modality.finish(inputs, spec)


def cut_batches(numbers: np.ndarray | range, size: int) -> list[np.ndarray]:
    """Return sample numbers in batches of `size`, the last one shorter where they don't divide."""
    array = np.array(numbers, dtype=np.int64)
    return [array[start : start + size] for start in range(0, len(array), size)]


def load_split(
    store: Store,
    index: shard_reader.Index,
    split: str,
    specs: Mapping[str, InputSpec],
    stay: contextlib.ExitStack,
    options: LoadOptions = LoadOptions(),
    advance: Callable[[int], None] = lambda samples: None,
) -> LoadedSplit:
    """Return the samples of a split that have any modality of `specs`.

    `stay` holds what reading needs; `advance` is told how many samples have been decoded. Raises
    UserError for media that cannot be decoded, for a modality that no sample has, and where no
    sample remains.
    """
    where = f"{split} shards"
    # 1. The samples, without the modalities that are taken away from them.
    samples = distributed.raise_on_all(lambda: sample_table.read_samples(store, index, split))
    absences = draw_training_absences(samples.media.keys, options.seed, options.missing)
    samples = _select_present(samples.take_away(absences), sorted(specs), where)
    media = samples.media
    present = _find_present(media, sorted(specs), where)
    # 2. What fits into memory is decoded now.
    held = {m: spec for m, spec in specs.items() if m not in options.once}
    fits = _fits_memory(held, len(samples), options.memory, where)
    if not fits:
        held = {}
    in_memory: dict[str, Tensor] = {}
    if held:
        dataset = SampleDataset(media, held, where)
        in_memory = _decode_held(dataset, split, index.fingerprint, options, advance)
    # 3. The rest is decoded for each batch.
    rest = {m: spec for m, spec in specs.items() if m not in held}
    stream = None
    if rest:
        workers = options.workers
        if workers is None and not fits:  # decoded again in every epoch
            workers = count_cores_of_process()
        stream = _make_stream(SampleDataset(media, rest, where), workers, stay)
    return LoadedSplit(
        in_memory,
        present,
        _make_targets(samples.labels, store, index),
        media.keys,
        samples.groups,
        dict(specs),
        options.augments,
        stream,
        _make_weights(samples.weights, where),
    )


def _select_present(samples: SampleTable, names: Sequence[str], where: str) -> SampleTable:
    """Return the samples that have any of the modalities."""
    has_any = np.any([samples.media.has(m) for m in names], 0)
    if has_any.all():
        return samples
    logger.debug(
        f"{where}: {(~has_any).sum()} samples have none of {', '.join(names)} and are left out"
    )
    return samples.select(np.flatnonzero(has_any))


def _find_present(media: MediaTable, names: Sequence[str], where: str) -> Tensor:
    """Return (N, M) bool. Raises UserError for a modality that no sample has."""
    for m in names:
        if not media.has(m).any():
            raise UserError(
                f"no sample has {m}",
                where,
                f"Remove {m} from modalities in the settings, or take away less of it (missing).",
            )
    return torch.from_numpy(np.stack([media.has(m) for m in names], 1))


def _fits_memory(
    specs: Mapping[str, InputSpec],
    samples: int,
    memory: float,
    where: str,
) -> bool:
    """Return whether the decoded samples need at most `memory` GiB."""
    sizes = [modalities.find_module(spec).make_blank(spec).nbytes for spec in specs.values()]
    size = sum(sizes) * samples / GIB
    if size > memory:
        logger.info(
            f"{where}: {size:.1f} GiB decoded, over the budget of {memory:g}: decoded for each "
            "batch"
        )
    return size <= memory


def _decode_held(
    dataset: SampleDataset,
    split: str,
    shards: str,
    options: LoadOptions,
    advance: Callable[[int], None],
) -> dict[str, Tensor]:
    """Return {modality: (N, ...)}, cached or decoded. shards: their fingerprint."""

    def decode(dataset: SampleDataset) -> dict[str, Tensor]:
        return _decode_all(dataset, options.workers, advance)

    if options.cache is None or options.missing:  # what is taken away differs by seed
        return decode(dataset)
    sources = {"shards": shards}
    return decoded_cache.load_or_decode(dataset, options.cache, split, sources, decode)


def _decode_all(
    dataset: SampleDataset,
    workers: int | None,
    advance: Callable[[int], None],
) -> dict[str, Tensor]:
    """Return {modality: (N, ...)}, decoded by all processes together."""

    def decode_share() -> dict[str, Tensor]:
        return _decode_share(dataset, choose_workers(dataset, workers), advance)

    share = distributed.raise_on_all(decode_share)
    return {m: distributed.gather_rows(x, len(dataset.keys)) for m, x in share.items()}


def _decode_share(
    dataset: SampleDataset,
    workers: int,
    advance: Callable[[int], None],
) -> dict[str, Tensor]:
    """Return {modality: (n, ...)}, this process's share of the samples."""
    numbers = distributed.rank_indices(len(dataset.keys))
    held: dict[str, Tensor] = {}
    for m, spec in dataset.specs.items():
        blank = modalities.find_module(spec).make_blank(spec)
        held[m] = blank.new_empty((len(numbers), *blank.shape))
    plan = cut_batches(numbers, BATCH)
    done = 0
    processes = distributed.world().size
    with contextlib.ExitStack() as stay:
        stream = BatchStream(dataset, workers, stay)
        for rows, batch in zip(plan, stream.iterate_batches(plan), strict=True):
            for m, x in batch.items():
                held[m][done : done + len(rows)] = x  # a tensor of a worker keeps a file open
            done += len(rows)
            advance(len(rows) * processes)
    return held


def _make_stream(
    dataset: SampleDataset,
    workers: int | None,
    stay: contextlib.ExitStack,
) -> BatchStream:
    count = distributed.raise_on_all(lambda: choose_workers(dataset, workers))
    return BatchStream(dataset, count, stay)


def _make_targets(labels: pa.Array, store: Store, index: shard_reader.Index) -> Tensor:
    """Return the target of a LoadedSplit."""
    if index.task == "multiclass":
        return torch.tensor(labels.to_numpy())
    numbers = labels.flatten().to_numpy()
    if index.task == "regression":
        scales = distributed.raise_on_all(lambda: shard_reader.read_scales(store, index))
        mean = torch.tensor([scale.mean for scale in scales], dtype=torch.float64)
        std = torch.tensor([scale.std for scale in scales], dtype=torch.float64)
        return (torch.tensor(numbers).reshape(len(labels), -1) - mean) / std
    target = np.zeros((len(labels), len(index.classes)), np.float32)
    counts = labels.value_lengths().to_numpy()
    target[np.repeat(np.arange(len(labels)), counts), numbers] = 1.0
    return torch.from_numpy(target)


def _make_weights(weights: np.ndarray | None, where: str) -> Tensor | None:
    """Return (N,) float32 weights, None where no sample has one. UserError where all are 0."""
    if weights is None:
        return None
    if not weights.any():
        raise UserError("the weight of every sample is 0", where, "Correct the column of weights.")
    return torch.tensor(weights, dtype=torch.float32)


def _select(x: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Return rows of a tensor on the device."""
    if device.type == "cpu":
        return x[rows]
    pinned = torch.empty((len(rows), *x.shape[1:]), dtype=x.dtype, pin_memory=True)
    torch.index_select(x, 0, rows, out=pinned)
    return pinned.to(device, non_blocking=True)


def _move(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on the device, copied asynchronously to a GPU."""
    if device.type == "cpu":
        return x
    return x.pin_memory().to(device, non_blocking=True)

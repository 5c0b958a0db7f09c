"""Samples of shards, decoded when a batch asks for them, by torch's DataLoader and its workers.

Also the one place that knows how a dead DataLoader worker shows itself: `watch_workers`,
`watch_handover`.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from umemma import modalities
from umemma.data import shard_reader
from umemma.data.sample_table import MediaTable
from umemma.errors import UserError
from umemma.modalities import corruption
from umemma.modalities.corruption import Corruption
from umemma.system.cores import count_cores_of_process
from umemma.system.executors import name_semaphores
from umemma.system.signals import allow_interrupts, start_without_interrupts
from umemma.types import InputSpec

PREFETCH = 4  # batches that each worker decodes ahead
GRACE = 60  # s that a worker continues after SIGTERM
WORTH = 10.0  # s of decoding from which on workers pay: one takes seconds to start
TRIALS = 8  # samples decoded to estimate how long all of them take
SETTING = "machine.workers"
HINT = "It may have run out of memory: lower machine.workers or machine.memory."


class SampleDataset(Dataset[Any]):
    """A map-style torch Dataset over the samples of shards, read from anywhere in a tar.

    Where WebDataset reads a tar from front to back, this one reads the range of bytes of each
    medium, so a Sampler may ask for any order. It holds no open file and so can be pickled for a
    worker.
    """

    def __init__(self, media: MediaTable, specs: Mapping[str, InputSpec], where: str) -> None:
        self.media = media
        self.keys = media.keys
        self.specs = dict(specs)
        self.where = where
        self.corruption: Corruption | None = None

    def select_modalities(self, names: Collection[str]) -> SampleDataset:
        """Return the same samples with some of their modalities."""
        selected = copy.copy(self)
        selected.specs = {m: spec for m, spec in self.specs.items() if m in names}
        return selected

    def corrupt(self, with_: Corruption) -> SampleDataset:
        """Return the same samples, whose modality is corrupted wherever it is present."""
        corrupted = copy.copy(self)
        corrupted.corruption = with_
        return corrupted

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Return {modality: (...)}, compact (pictures as bytes); an absent one is its blank input.

        Raises UserError for media that cannot be read or decoded.
        """
        (sample,) = self._decode([i])
        return sample

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Tensor] | UserError:
        """Return a batch {modality: (B, ...)}, or the error.

        If the error were raised in a worker, DataLoader would turn it into a text.
        """
        try:
            samples = self._decode(numbers)
        except UserError as error:
            return error
        return {m: torch.stack([sample[m] for sample in samples]) for m in self.specs}

    def _decode(self, numbers: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return the decoded samples; their media are read together."""
        wanted = []
        for i in numbers:
            wanted += [(i, m) for m in self.specs if self.media.spans[m].size[i]]
        data = dict(zip(wanted, self.media.read(wanted), strict=True))
        samples = []
        for i in numbers:
            inputs = {}
            for m, spec in self.specs.items():
                modality = modalities.find_module(spec)
                if (i, m) not in data:
                    inputs[m] = modality.make_blank(spec)
                    continue
                try:
                    if self.corruption is not None and self.corruption.modality == m:
                        key = self.keys[i]
                        inputs[m] = corruption.decode(data[i, m], spec, self.corruption, key)
                    else:
                        inputs[m] = modality.decode(data[i, m], spec)
                except ValueError as error:
                    what = f"sample {self.keys[i]!r}: {error}"
                    raise UserError(what, self.where, shard_reader.REMAKE) from None
            samples.append(inputs)
        return samples


class _PlannedBatches(Sampler[list[int]]):
    """A torch batch sampler whose batches are set anew for every epoch.

    The DataLoader and its persistent workers outlive an epoch, so the order can't be given to them
    once: `batches` is assigned before each iteration.
    """

    batches: Sequence[np.ndarray] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return (numbers.tolist() for numbers in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class BatchStream:
    """A DataLoader over a SampleDataset whose workers live until `stay` is closed.

    workers: number of processes, 0 = decode in this one. The order of the batches is given for each
    pass (`iterate_batches`) and does not depend on the number of workers.
    """

    def __init__(self, dataset: SampleDataset, workers: int, stay: contextlib.ExitStack) -> None:
        self.dataset = dataset
        self.workers = workers
        self.stay = stay
        self.plan = _PlannedBatches()
        for_workers: dict[str, Any] = {}
        if workers:
            name_semaphores()
            for_workers = {
                "multiprocessing_context": "spawn",
                "persistent_workers": True,
                "prefetch_factor": PREFETCH,
            }
        self.loader = DataLoader(
            dataset,
            batch_sampler=self.plan,
            num_workers=workers,
            collate_fn=_keep_batch,
            worker_init_fn=defer_signals,
            **for_workers,
        )
        stay.callback(self.close)

    def select_modalities(self, names: Collection[str]) -> BatchStream | None:
        """Return a stream of some of the modalities, None where it has none of them."""
        dataset = self.dataset.select_modalities(names)
        if not dataset.specs:
            return None
        return BatchStream(dataset, self.workers, self.stay)

    def corrupt(self, with_: Corruption) -> BatchStream:
        """Return a stream of the same samples, whose modality is corrupted."""
        return BatchStream(self.dataset.corrupt(with_), self.workers, self.stay)

    def iterate_batches(self, plan: Sequence[np.ndarray]) -> Iterator[dict[str, Tensor]]:
        """Yield {modality: (B, ...)}, compact, for each array of sample numbers in `plan`."""
        self.plan.batches = plan
        with watch_handover():
            with start_without_interrupts():
                batches = iter(self.loader)
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                yield batch

    def close(self) -> None:
        """End the workers, whoever still refers to this stream: torch itself ends them only when
        nobody does. A worker that a busy machine keeps from ending is killed, since it only
        reads."""
        if not self.workers or self.loader._iterator is None:
            return
        processes = self.loader._iterator._workers  # type: ignore[attr-defined]
        self.loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
        self.loader._iterator = None


def _keep_batch(batch: Any) -> Any:
    """The collate function: `__getitems__` has collated already."""
    return batch


# Workers. -----------------------------------------------------------------------------------------


def choose_workers(dataset: SampleDataset, workers: int | None) -> int:
    """Return `workers`, or where that is None one per core, or 0 where decoding soon ends.

    How long it takes is estimated from a few samples.
    """
    if workers is not None:
        return workers
    total = len(dataset.keys)
    dataset[0]  # the first one also imports what is needed
    trials = range(0, total, math.ceil(total / TRIALS))
    started = time.perf_counter()
    for i in trials:
        dataset[i]
    seconds = (time.perf_counter() - started) / len(trials) * total
    if seconds > WORTH:
        return count_cores_of_process()
    return 0


def defer_signals(worker: int) -> None:
    """Ignore Ctrl-C and defer SIGTERM in a worker, the worker_init_fn of DataLoader.

    Signals to the whole process group are for the training, which then ends its workers itself.
    SIGTERM ends a worker after `GRACE` seconds: if it were ignored, a training that dies in
    disorder would wait for its workers for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    allow_interrupts()
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


@contextlib.contextmanager
def watch_workers(where: str = SETTING, hint: str = HINT) -> Iterator[None]:
    """Turn the death of a DataLoader worker into a UserError inside the block.

    torch raises it as a RuntimeError from a signal handler, so anywhere in the main process.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _worker_killed(where, hint) from error


@contextlib.contextmanager
def watch_handover(where: str = SETTING, hint: str = HINT) -> Iterator[None]:
    """Turn the death of a DataLoader worker while it hands over a batch into a UserError."""
    try:
        yield
    except (ConnectionError, EOFError) as error:
        raise _worker_killed(where, hint) from error


def _worker_killed(where: str, hint: str) -> UserError:
    return UserError("a decoding process was killed", where, hint)

"""preprocess: raw files -> verified WebDataset shards in data/shards/<dataset>/.

The shard is the unit of work. A shard that is there and was made from the same input stays, so that
a run after a kill, after a changed file or on another machine writes only what is missing. The
index is written when no shard is missing.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from loguru import logger
from rich.progress import Progress

from umemma import datasets
from umemma.config import Params
from umemma.data import raw_folder, shard_plan, shard_reader
from umemma.data.shard_index import write_index
from umemma.data.shard_marker import ShardMarker, is_current, read_marker
from umemma.data.shard_plan import ShardJob
from umemma.data.shard_reader import Index
from umemma.data.shard_writer import write_shard
from umemma.errors import UserError
from umemma.system import executors
from umemma.system.cores import count_cores
from umemma.system.log import make_progress
from umemma.system.storage import Store
from umemma.types import DatasetSpec

SHOWN = 5  # missing shards that an error names


@dataclass(frozen=True)
class Share:
    """The part of the shards that this task writes: those whose place in the list leaves `index`
    when divided by `tasks`."""

    tasks: int = 1
    index: int = 0


class _Plan(NamedTuple):
    """What there is to write. defaults: those of the settings; total: number of records; jobs: one
    for each shard."""

    spec: DatasetSpec
    store: Store
    settings: Mapping[str, Any]
    defaults: Mapping[str, Any]
    total: int
    jobs: Iterator[ShardJob]


def run(
    params: Params,
    workers: int = 0,
    *,
    retry_failed: bool = False,
    share: Share = Share(),
    executor: executors.Executor = executors.run_locally,
) -> Index:
    """Write every shard that is missing or out of date, and the index when none is missing.

    workers: number of processes, 0 = one per core; retry_failed: also write the shards again whose
    samples failed or have a broken medium. Raises UserError where the raw files are missing or
    differ from download.json, for options that the dataset does not know, where too many samples
    fail or have broken media, and while shards are missing: those of other tasks, and those whose
    worker died every time.
    """
    # 1. Check the raw files and list the shards.
    plan = _make_plan(params)
    _log_differences(plan)

    # 2. Write the shards that are missing.
    expected: dict[str, ShardJob] = {}
    with _remove_leftovers(plan, share), make_progress() as bars:
        progress = _ProgressBar(bars, f"preprocess {params.name}", plan.total)
        jobs = _select_jobs(plan, expected, progress, retry_failed, share)
        count = _choose_workers(workers, plan, params.preprocess.shard_size)
        with contextlib.closing(executor(write_shard, jobs, count)) as markers:
            for marker in markers:
                progress.add(marker)

    # 3. Look for shards that are still missing.
    made = _collect_markers(plan, expected, share)

    # 4. Write the index.
    return write_index(
        plan.store,
        plan.spec,
        plan.settings,
        made,
        params.preprocess.max_failures,
        plan.defaults,
    )


def _make_plan(params: Params) -> _Plan:
    section = params.preprocess
    raw = params.paths.raw
    module = datasets.get_module(params.dataset)
    options = datasets.read_options(module, section.options, params.modalities)
    hint = f"Run: umemma download {params.dataset}"
    files = raw_folder.read_raw_files(raw, hint)
    raw_folder.check_raw_files(raw, files, hint)
    spec: DatasetSpec = module.spec(raw, options)
    params.check_modalities(spec.modalities, spec.kinds)
    counts, repeated = shard_plan.count_records(module.records(raw, options))
    check_splits(counts, spec)
    store = Store(params.paths.shards)
    defaults = {"preprocess": {"options": type(options)().model_dump(mode="json")}}
    settings = _choose_settings(store, params.shard_settings(), defaults)
    jobs = shard_plan.plan_shards(
        shard_plan.mark_problems(module.records(raw, options), spec, repeated),
        spec,
        store,
        section.media,
        section.shard_size,
        shard_plan.make_input_hash(module, raw, files, settings, spec.kinds),
        section.broken,
    )
    return _Plan(spec, store, settings, defaults, counts.total(), jobs)


def _choose_settings(
    store: Store, settings: dict[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings as the present index has them, where only written defaults differ.

    The index and its shards, and the models that name its fingerprint, then stay as they are.
    """
    try:
        present = shard_reader.read_index(store).settings
    except UserError:
        return settings
    if shard_reader.compare_settings(present, settings, defaults):
        return settings
    return present


def check_splits(counts: Mapping[str, int], spec: DatasetSpec) -> None:
    """Raise UserError for an empty or unknown split, before any work."""
    for split in spec.splits:
        if not counts[split]:
            raise UserError(
                f"no samples in split {split!r}",
                spec.name,
                f"See: umemma doctor {spec.name}",
            )
    unknown = counts.keys() - set(spec.splits)
    if unknown:
        raise UserError(f"splits {sorted(unknown)} are not those of the dataset", spec.name)


@contextlib.contextmanager
def _remove_leftovers(plan: _Plan, share: Share) -> Iterator[None]:
    """Remove what workers left half-written that died in the block, also where Ctrl-C ends it."""
    try:
        yield
    finally:
        if share.tasks == 1:  # tasks on other machines may be writing now
            plan.store.remove_leftovers()


def _log_differences(plan: _Plan) -> None:
    """Warn where the present shards were made with other settings, and so are written again."""
    try:
        present = shard_reader.read_index(plan.store).settings
    except UserError:  # without a readable index, the marker of each shard decides
        return
    differences = shard_reader.compare_settings(present, plan.settings, plan.defaults)
    if differences:
        logger.warning(
            f"{plan.store.url}: made with other settings, so written again "
            f"({'; '.join(differences)})"
        )


def _choose_workers(workers: int, plan: _Plan, shard_size: int) -> int:
    """Return how many processes to use: at most one for each shard."""
    if plan.store.url.startswith("memory://"):  # each process has a memory of its own
        return 1
    wanted = workers or count_cores()
    return min(wanted, math.ceil(plan.total / shard_size))


def _select_jobs(
    plan: _Plan,
    expected: dict[str, ShardJob],
    progress: _ProgressBar,
    retry_failed: bool,
    share: Share,
) -> Iterator[ShardJob]:
    """Yield the jobs of this task whose shard is missing or out of date.

    Every job is added to `expected` by name, without its records.
    """
    for number, job in enumerate(plan.jobs):
        expected[job.name] = replace(job, records=())
        marker = read_marker(job.store, job.name)
        current = is_current(job.store, marker, job.input_hash, thorough=True)
        if current and retry_failed and marker is not None and marker.has_failures:
            current = False
            job = replace(job, retry=True)
        if current or number % share.tasks != share.index:
            progress.skip(len(job.records))
        else:
            plan.store.remove("index.json")  # the shards that it vouches for are about to change
            yield job


def _collect_markers(
    plan: _Plan,
    expected: Mapping[str, ShardJob],
    share: Share,
) -> dict[str, list[ShardMarker]]:
    """Return {split: markers of all expected shards}. Raises UserError while one is missing."""
    made: dict[str, list[ShardMarker]] = {split: [] for split in plan.spec.splits}
    missing: list[str] = []
    for name, job in expected.items():
        marker = read_marker(job.store, name)
        if marker is not None and is_current(job.store, marker, job.input_hash):
            made[job.split].append(marker)
        else:
            missing.append(name)
    if not missing:
        return made
    what = f"{len(missing)} of {len(expected)} shards are missing: {', '.join(missing[:SHOWN])}"
    if len(missing) > SHOWN:
        what += ", ..."
    if share.tasks > 1:
        what += "; other tasks may be writing them, and the last task writes the index"
    raise UserError(
        what,
        plan.store.url,
        "Run: umemma preprocess, which writes the missing shards and keeps the others.",
    )


class _ProgressBar:
    """The progress bar of the records, with the speed and the failures so far."""

    def __init__(self, bars: Progress, title: str, total: int) -> None:
        self.bars = bars
        self.task = bars.add_task(title, total=total, note="")
        self.started = time.perf_counter()
        self.samples = 0
        self.failed = 0
        self.broken = 0

    def skip(self, records: int) -> None:
        """Count records whose shard is there already or belongs to another task."""
        self.bars.advance(self.task, records)

    def add(self, marker: ShardMarker) -> None:
        """Count the records of a shard that has been written."""
        self.bars.advance(self.task, marker.samples + marker.failed + marker.left_out)
        self.samples += marker.samples
        self.failed += marker.failed
        self.broken += marker.broken_samples
        speed = self.samples / (time.perf_counter() - self.started)
        note = f"{speed:,.0f}/s"
        if self.failed:
            note += f"  {self.failed:,} failed"
        if self.broken:
            note += f"  {self.broken:,} with broken media"
        self.bars.update(self.task, note=note)
        logger.debug(
            f"{marker.name}: {marker.samples} samples, {marker.broken_samples} of them with broken "
            f"media, {marker.failed} failed, {marker.left_out} left out"
        )

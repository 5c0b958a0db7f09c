"""preprocess: raw files -> verified WebDataset shards in data/shards/<dataset>/.

The shard is the unit of work. What is there and was made from the same input stays, so that a run after a kill, after a
changed file or on another machine does only what is missing; the index is written when nothing is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from loguru import logger

from umemma import datasets
from umemma.config import Params
from umemma.data import raw_folder, shard_reader, shard_writer
from umemma.data.raw_folder import RawFile
from umemma.data.shard_reader import Index, Shard
from umemma.data.shard_writer import Job
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.system import executors
from umemma.system.files import sha256
from umemma.system.log import progress
from umemma.types import Clip, DatasetSpec, Media, Record, Unreadable
from umemma.validation import checked, difference, fingerprint

Executor = Callable[[Callable[[Job], Shard], Iterable[Job], int], Iterator[Shard]]


@dataclass(frozen=True)
class Share:
    """This task's part of the shards: those whose place in the list leaves `index` when divided by `tasks`."""

    tasks: int = 1
    index: int = 0


def run(
    params: Params,
    workers: int = 0,
    *,
    retry_failed: bool = False,
    share: Share = Share(),
    executor: Executor = executors.local,
) -> Index:
    """Make every shard that isn't there yet, and the index when none is missing. workers: 0 = all cores.

    UserError where the raw files are missing or differ from download.json, for options the dataset doesn't know, where
    too many samples fail or have broken media, and while shards are missing: those of other tasks, and those whose worker
    died every time.
    """
    # 1. What there is to do.
    module, section, raw = datasets.get(params.dataset), params.preprocess, params.paths.raw
    options = checked(module.Options, section.options, "settings", "preprocess.options")
    again = f"Run: umemma download {params.dataset}"
    files = raw_folder.raw_files(raw, again)
    raw_folder.check(raw, files, again)
    spec: DatasetSpec = module.spec(raw, options)
    params.check_modalities(spec.modalities)
    store, settings = Store(params.paths.shards), params.shard_settings()
    counts, repeated = shard_writer.survey(module.records(raw, options))
    check_splits(counts, spec)
    total = counts.total()
    say_what_differs(store, settings)

    # 2. Do what is missing.
    records = shard_writer.storable(module.records(raw, options), spec, repeated)
    made_from = input_of(module, raw, files, settings)
    expected: dict[str, Job] = {}
    with progress() as bars:
        bar = bars.add_task(f"preprocess {params.dataset}", total=total, note="")

        def todo() -> Iterator[Job]:
            listed = shard_writer.jobs(
                records, spec, store, section.media, section.shard_size, made_from, section.broken
            )
            for number, job in enumerate(listed):
                expected[job.name] = replace(job, records=())
                made = shard_writer.is_made(job, thorough=True)
                if made and retry_failed and shard_writer.has_failures(job):
                    made, job = False, replace(job, retry=True)
                if made or number % share.tasks != share.index:
                    bars.advance(bar, len(job.records))
                else:
                    store.remove("index.json")  # what it vouches for is about to change
                    yield job

        workers = min(
            workers or len(os.sched_getaffinity(0)), math.ceil(total / section.shard_size)
        )
        workers = (
            1 if store.url.startswith("memory://") else workers
        )  # which each process has for itself
        started, done, failed, broken = time.perf_counter(), 0, 0, 0
        for shard in executor(shard_writer.make, todo(), workers):
            bars.advance(bar, shard.samples + shard.failed + shard.left_out)
            done, failed, broken = (
                done + shard.samples,
                failed + shard.failed,
                broken + shard.broken_samples,
            )
            note = f"{done / (time.perf_counter() - started):,.0f}/s"
            note += (f"  {failed:,} failed" if failed else "") + (
                f"  {broken:,} with broken media" if broken else ""
            )
            bars.update(bar, note=note)
            logger.debug(
                f"{shard.name}: {shard.samples} samples, {shard.broken_samples} of them with broken media, "
                f"{shard.failed} failed, {shard.left_out} left out"
            )

    # 3. List again what is missing.
    made: dict[str, list[Shard]] = {split: [] for split in spec.splits}
    missing: list[str] = []
    for name, job in expected.items():
        found = shard_reader.marker(store, name) if shard_writer.is_made(job) else None
        if found is None:
            missing.append(name)
        else:
            made[job.split].append(found)
    if missing:
        others = (
            ""
            if share.tasks == 1
            else "; other tasks may be at work on them, and the last one writes the index"
        )
        raise UserError(
            f"{len(missing)} of {len(expected)} shards are missing: {', '.join(missing[:5])}"
            + (f", ...{others}" if len(missing) > 5 else others),
            store.url,
            "Run: umemma preprocess, which makes whatever is missing and keeps what is there.",
        )
    if share.tasks == 1:  # tasks of other machines may be at work
        store.sweep()
    return shard_writer.write_index(store, spec, settings, made, section.max_failures)


def check_splits(counts: Mapping[str, int], spec: DatasetSpec) -> None:
    """UserError for an empty split, before any work."""
    for split in spec.splits:
        if not counts[split]:
            raise UserError(
                f"no samples in split {split!r}", spec.name, f"See: umemma doctor {spec.name}"
            )
    if strangers := counts.keys() - set(spec.splits):
        raise UserError(f"splits {sorted(strangers)} are not those of the dataset", spec.name)


def input_of(
    module: ModuleType, raw: Path, files: Mapping[str, RawFile], settings: Mapping[str, Any]
) -> Callable[[Iterable[Record]], str]:
    """A function from the records of a shard to the fingerprint of all that decides its bytes.

    That is the settings, the dataset's code, the raw files that every record may come from, and of each record what it
    says and the checksums of the media that it names. So a changed clip remakes one shard.
    """
    shared = Path(datasets.__file__).parent.glob("_[a-z]*.py")  # what several datasets import
    common = fingerprint(
        {
            "settings": settings,
            "format": shard_writer.FORMAT,
            "code": [sha256(file) for file in sorted({Path(module.__file__ or ""), *shared})],
            "raw": {name: file.sha256 for name, file in files.items() if not file.media},
        }
    )

    def media(one: Media) -> Any:
        if isinstance(one, (Path, Clip)):
            path = one.path if isinstance(one, Clip) else one
            stretch = [one.start, one.end] if isinstance(one, Clip) else []
            name = path.relative_to(raw).as_posix() if path.is_relative_to(raw) else path.name
            if name in files:
                return [name, files[name].sha256, *stretch]
            return [name, _content(path), *stretch]
        if isinstance(one, Unreadable):
            return ["unreadable", one.reason]
        return one if isinstance(one, str) else ""

    def of(records: Iterable[Record]) -> str:
        hasher = hashlib.sha256(common.encode())
        for r in records:
            said = [
                r.key,
                r.label,
                r.group,
                r.problem,
                r.left_out,
                {m: media(one) for m, one in sorted(r.media.items())},
            ]
            hasher.update(json.dumps(said).encode())
        return hasher.hexdigest()[:16]

    return of


def _content(path: Path) -> str:
    """The checksum of a media file that isn't a raw file; "" for none that can be read, for packing says why."""
    try:
        return sha256(path)
    except OSError:
        return ""


def say_what_differs(store: Store, settings: Mapping[str, Any]) -> None:
    """A line in the log where the present shards are other settings' work, and so are remade."""
    try:
        differences = difference(shard_reader.read_index(store).settings, settings)
    except UserError:  # no index, or none that can be read: whatever there is speaks for itself
        return
    if differences:
        logger.warning(
            f"{store.url}: made with other settings, so made anew ({'; '.join(differences)})"
        )

"""Records -> shards: what can be stored, cut into jobs, one shard each; then the index over all of them.

A shard's tar and its table are written first and its marker last, each by a rename; the index comes when no shard is
missing. The same records give the same bytes wherever, whenever and in however many processes it is done.
"""

from __future__ import annotations

import array
import hashlib
import io
import itertools
import json
import math
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma import modalities
from umemma.data.shard_reader import (
    Index,
    Shard,
    marker,
    marker_of,
    problems,
    rows_of,
    samples,
    summary,
)
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.system.files import sha256
from umemma.types import BrokenPolicy, DatasetSpec, Packing, Plain, Record

SHOWN = 5  # samples that an error names
FORMAT = 2  # of the shards' bytes: raise it when packing the same media gives other bytes


@dataclass(frozen=True)
class Job:
    """One shard to make: everything that a process anywhere needs to know. broken: what a medium that can't be read makes
    of its sample; retry: keep what is well in the present shard."""

    store: Store
    split: str
    number: int
    records: tuple[Record, ...] = field(repr=False)
    modalities: tuple[str, ...] = field(repr=False)
    packing: Packing = field(repr=False)
    made_from: str = field(repr=False)
    broken: BrokenPolicy = field(default="absent", repr=False)
    retry: bool = field(default=False, repr=False)

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}"

    def __str__(self) -> str:
        return f"shard {self.name}"


def survey(records: Iterable[Record]) -> tuple[Counter[str], set[int]]:
    """({split: how many records}, hashes of the ids that stand there more than once), at 8 bytes per record."""
    counts, hashes = Counter[str](), array.array("Q")
    for record in records:
        counts[record.split] += 1
        hashes.append(_hash(record.key))
    values, times = np.unique(np.frombuffer(hashes, dtype=np.uint64), return_counts=True)
    return counts, set(values[times > 1].tolist())


def storable(records: Iterable[Record], spec: DatasetSpec, repeated: set[int]) -> Iterator[Record]:
    """The records, with a problem where they can't be stored: a repeated id, a strange one, a label out of range."""
    seen = set[str]()
    for record in records:
        labels = record.label if isinstance(record.label, tuple) else (record.label,)
        problem = ""
        if record.key in seen:
            problem = "duplicate id"
        elif not re.fullmatch(r"[\w-]+", record.key, re.ASCII):
            problem = "an id with other characters than letters, digits, '_' and '-'"
        elif (
            isinstance(record.label, tuple) != (spec.task == "multilabel")
            and record.label is not None
        ):
            problem = f"not the label of a {spec.task} task"
        elif not all(n is not None and 0 <= n < len(spec.classes) for n in labels):
            problem = "label out of range"
        if repeated and _hash(record.key) in repeated:
            seen.add(record.key)
        yield (
            replace(record, problem=problem)
            if problem and not (record.problem or record.left_out)
            else record
        )


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def jobs(
    records: Iterable[Record],
    spec: DatasetSpec,
    store: Store,
    packing: Packing,
    shard_size: int,
    made_from: Any,
    broken: BrokenPolicy = "absent",
) -> Iterator[Job]:
    """The shards to make of `records`, each split cut every `shard_size` samples, in the order of the records.

    `made_from(records)` is the fingerprint of a shard's input.
    """
    waiting: dict[str, list[Record]] = {split: [] for split in spec.splits}
    numbers: Counter[str] = Counter()

    def job(split: str) -> Job:
        chunk = tuple(waiting[split])
        waiting[split] = []
        numbers[split] += 1
        return Job(
            store,
            split,
            numbers[split] - 1,
            chunk,
            spec.modalities,
            packing,
            made_from(chunk),
            broken,
        )

    for record in records:
        waiting[record.split].append(record)
        if len(waiting[record.split]) == shard_size:
            yield job(record.split)
    for split in spec.splits:
        if waiting[split]:
            yield job(split)


def make(job: Job) -> Shard:
    """Pack the records of a job and write its shard, the marker last; the same bytes wherever and whenever it runs."""
    kept = _kept(job) if job.retry else {}
    rows = []
    with job.store.new(f"{job.name}.tar") as tar:
        with tarfile.open(
            tar, "w", format=tarfile.GNU_FORMAT
        ) as archive:  # no times, owners or paths: the same bytes
            for record in job.records:
                usable = not (record.problem or record.left_out)
                members, row = (kept.get(record.key) if usable else None) or _pack(record, job)
                for suffix, data in members.items():
                    member = tarfile.TarInfo(f"{record.key}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                rows.append(row)
        size, checksum = tar.stat().st_size, sha256(tar)
    with job.store.new(f"{job.name}.parquet") as table:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema(job)), table)
        rows_checksum = sha256(table)
    status = Counter(row["status"] for row in rows)
    reasons = Counter((row["status"], row["reason"]) for row in rows if row["reason"])
    shard = Shard(
        name=f"{job.name}.tar",
        samples=status["ok"],
        failed=status["failed"],
        left_out=status["left out"],
        reasons={
            reason: count for (of, reason), count in sorted(reasons.items()) if of == "failed"
        },
        broken={reason: count for (of, reason), count in sorted(reasons.items()) if of == "ok"},
        size=size,
        sha256=checksum,
        rows_sha256=rows_checksum,
        made_from=job.made_from,
    )
    shard = shard.model_copy(update={"itself": shard.identity()})
    with job.store.new(f"{job.name}.json") as marker:
        marker.write_text(_as_json(shard))
    return shard


def _pack(record: Record, job: Job) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The tar members of a sample, none where it failed or is left out, and its row. A sample that is well has a reason
    where a medium of it couldn't be read, and its modality is absent for that."""
    members: dict[str, bytes] = {}
    status, reason = "ok", ""
    has = sorted(record.media)
    if record.problem or record.left_out:
        status, reason = (
            ("failed", record.problem) if record.problem else ("left out", record.left_out)
        )
    else:
        packed, broken = modalities.pack_readable(record.media, job.packing)
        reason = "; ".join(modalities.reasons(broken))
        if not packed or (broken and job.broken == "fail"):
            status, reason = "failed", reason or "no modality at all"
        else:
            has = [member.split(".")[0] for member in packed]
            about = {"label": record.label, "group": record.group, "has": has}
            members = {**packed, "json": json.dumps(about).encode()}
    label = list(record.label) if isinstance(record.label, tuple) else record.label
    row: dict[str, Any] = {"key": record.key, "split": record.split, "label": label}
    row |= (
        {"group": record.group}
        if isinstance(record.group, str)
        else {_column(n): g for n, g in record.group.items()}
    )
    row |= {f"has_{name}": name in has for name in job.modalities} | {
        "status": status,
        "reason": reason,
    }
    return members, row


def _schema(job: Job) -> pa.Schema:
    many = any(isinstance(record.label, tuple) for record in job.records)
    fields: list[tuple[str, pa.DataType]] = [("key", pa.string()), ("split", pa.string())]
    fields += [("label", pa.list_(pa.int64()) if many else pa.int64())]
    named = {
        name for record in job.records if not isinstance(record.group, str) for name in record.group
    }
    fields += [(column, pa.string()) for column in map(_column, sorted(named))] or [
        ("group", pa.string())
    ]
    fields += [(f"has_{name}", pa.bool_()) for name in job.modalities]
    return pa.schema([*fields, ("status", pa.string()), ("reason", pa.string())])


def _column(grouping: str) -> str:
    """Of the table of rows."""
    return f"group_{grouping}"


def _kept(job: Job) -> dict[str, tuple[dict[str, bytes], dict[str, Any]]]:
    """{key: (members, row)} of what is well in the present shard of a job, every medium of it; empty where the shard itself
    isn't well."""
    shard = marker(job.store, job.name)
    if shard is None or problems(job.store, shard):
        return {}
    with job.store.local(rows_of(shard)) as table, job.store.local(shard.name) as tar:
        assert tar is not None
        rows = {
            row["key"]: row
            for row in pq.read_table(table).to_pylist()
            if row["status"] == "ok" and not row["reason"]
        }
        read = {sample["__key__"]: sample for sample in samples(tar, shard.name)}
    members = {
        key: {n: data for n, data in sample.items() if n[0] != "_"} for key, sample in read.items()
    }
    return {key: (members[key], row) for key, row in rows.items()}


def is_made(job: Job, thorough: bool = False) -> bool:
    """Whether the shard of a job is there, made from the same input. thorough: its bytes too, where they are at hand."""
    shard = marker(job.store, job.name)
    if (
        shard is None
        or shard.made_from != job.made_from
        or job.store.size(shard.name) != shard.size
    ):
        return False
    return (
        not problems(job.store, shard)
        if thorough and not job.store.remote
        else bool(job.store.size(rows_of(shard)))
    )


def has_failures(job: Job) -> bool:
    """Whether samples of its shard failed or have a medium that couldn't be read."""
    shard = marker(job.store, job.name)
    return shard is not None and bool(shard.failed or shard.broken)


def write_index(
    store: Store,
    spec: DatasetSpec,
    settings: Mapping[str, Any],
    made: Mapping[str, list[Shard]],
    max_failures: float,
) -> Index:
    """The index over the shards `made` {split: shards}; files of other shards are removed.

    Raises UserError where more than `max_failures` (a ratio) of the samples could not be packed or have a medium that
    can't be read (their reasons are summed up), or where a split has no sample.
    """
    every = [shard for shards in made.values() for shard in shards]
    failed = sum(shard.failed for shard in every)
    broken = sum(shard.broken_samples for shard in every)
    total = failed + sum(shard.samples for shard in every)
    if failed + broken > max_failures * total:
        raise _too_many(store, spec, every, failed, broken, total)
    for split in spec.splits:
        if not sum(shard.samples for shard in made[split]):
            hint = f"Mend them: {summary(s.reasons for s in made[split])}. See: umemma doctor {spec.name}"
            raise UserError(f"no sample of split {split!r} could be packed", spec.name, hint)
    index = Index(
        dataset=spec.name,
        variant=spec.variant,
        task=spec.task,
        classes=list(spec.classes),
        modalities=list(spec.modalities),
        settings=dict(settings),
        fingerprint="",
        splits=dict(made),
    )
    index = index.model_copy(update={"fingerprint": index.identity()})
    text = _as_json(index)
    if store.read("index.json") == text.encode():
        return index
    known = {name for shard in every for name in (shard.name, rows_of(shard), marker_of(shard))}
    for name in set(store.names()) - known:
        if re.fullmatch(rf"({'|'.join(spec.splits)})-\d{{6,}}\.(tar|parquet|json)", name):
            store.remove(name)
    with store.new("index.json") as path:
        path.write_text(text)
    return index


def _too_many(
    store: Store, spec: DatasetSpec, every: list[Shard], failed: int, broken: int, total: int
) -> UserError:
    """The error that names the reasons, the first few samples, and the two settings that decide."""
    what = []
    if failed:
        what.append(
            f"{failed} of {total} samples could not be packed: {summary(shard.reasons for shard in every)}"
        )
    if broken:
        reasons = summary(shard.broken for shard in every)
        what.append(f"{broken} of {total} samples have a medium that can't be read: {reasons}")
    first = list(itertools.islice(_lost(store, every), SHOWN + 1))
    listed = ", ".join(first[:SHOWN]) + (", ..." if len(first) > SHOWN else "")
    what.append(f"They are {listed}; {store.at('*.parquet')} say why of each.")
    share = math.ceil(1000 * (failed + broken) / total) / 1000
    hint = (
        f"Mend the files (umemma doctor {spec.name} names them) and run: umemma preprocess --retry-failed\n"
        f"Or allow a share of failures with preprocess.max_failures: {share:g}."
    )
    if broken:
        hint += (
            " A medium that can't be read is absent then; preprocess.broken: fail drops its sample."
        )
    return UserError("\n".join(what), spec.name, hint)


def _lost(store: Store, made: Iterable[Shard]) -> Iterator[str]:
    """The keys of the samples that failed or have a medium that couldn't be read."""
    for shard in made:
        if shard.failed or shard.broken:
            with store.local(rows_of(shard)) as table:
                for row in pq.read_table(table, columns=["key", "status", "reason"]).to_pylist():
                    if row["reason"] and row["status"] != "left out":
                        yield row["key"]


def _as_json(data: Plain) -> str:
    return json.dumps(data.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

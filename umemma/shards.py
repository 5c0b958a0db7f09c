"""Records -> WebDataset shards, and back.

A shard is a tar of encoded media (`key.audio.flac`, `key.image.png`, `key.json`), a Parquet table with one row per
sample, failures too, and a marker, in this order: the marker (`train-000000.json`: counts, sha256, fingerprint) vouches
for the other two. `index.json` comes last and vouches for all shards. What isn't vouched for is refused: a truncated tar
would otherwise read as missing modalities.
"""

from __future__ import annotations

import array
import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma import modalities
from umemma.checks import difference, fingerprint
from umemma.contracts import DatasetSpec, Packing, Plain, Record
from umemma.errors import UserError, unknown
from umemma.files import sha256
from umemma.store import Store

REMAKE = "Run: umemma preprocess"
FORMAT = 2  # of the shards' bytes: raise it when packing the same media gives other bytes
NAME = re.compile(r"[A-Za-z0-9]+-\d{6,}\.tar", re.ASCII)


class Shard(Plain):
    """A marker. `samples` are in the tar; `failed` and those `left_out` by the settings have a row only.

    reasons: {why a sample failed: how many}; made_from: the fingerprint of everything that went in.
    """

    name: str
    samples: int
    failed: int
    left_out: int
    reasons: dict[str, int]
    size: int
    sha256: str
    rows_sha256: str
    made_from: str


class Index(Plain):
    """index.json. `settings` is what the shards were made from; `fingerprint` is that of their content."""

    dataset: str
    variant: str
    task: str
    classes: list[str]
    modalities: list[str]
    settings: dict[str, Any]
    fingerprint: str
    splits: dict[str, list[Shard]]

    def shards(self, split: str) -> list[Shard]:
        """UserError for a split that isn't there."""
        if split not in self.splits:
            raise unknown("split", split, self.splits, f"shards of {self.dataset}")
        return self.splits[split]

    def samples(self, split: str) -> int:
        return sum(shard.samples for shard in self.shards(split))

    def failures(self) -> str:
        """Why samples failed and how many: "3 x file is missing; 1 x a video with no frames"."""
        return summary(shard for shards in self.splits.values() for shard in shards)


@dataclass(frozen=True)
class Job:
    """One shard to make: everything that a process anywhere needs to know. retry: keep what is well in the present one."""

    store: Store
    split: str
    number: int
    records: tuple[Record, ...] = field(repr=False)
    modalities: tuple[str, ...] = field(repr=False)
    packing: Packing = field(repr=False)
    made_from: str = field(repr=False)
    retry: bool = field(default=False, repr=False)

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}"

    def __str__(self) -> str:
        return f"shard {self.name}"


# Making shards. -------------------------------------------------------------------------------------------------------


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
        elif isinstance(record.label, tuple) != (spec.task == "multilabel") and record.label is not None:
            problem = f"not the label of a {spec.task} task"
        elif not all(n is not None and 0 <= n < len(spec.classes) for n in labels):
            problem = "label out of range"
        if repeated and _hash(record.key) in repeated:
            seen.add(record.key)
        yield replace(record, problem=problem) if problem and not (record.problem or record.left_out) else record


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def jobs(
    records: Iterable[Record], spec: DatasetSpec, store: Store, packing: Packing, shard_size: int, made_from: Any
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
        return Job(store, split, numbers[split] - 1, chunk, spec.modalities, packing, made_from(chunk))

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
    rows, reasons = [], Counter[str]()
    with job.store.new(f"{job.name}.tar") as tar:
        with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as archive:  # no times, owners or paths: the same bytes
            for record in job.records:
                usable = not (record.problem or record.left_out)
                members, row = (kept.get(record.key) if usable else None) or _pack(record, job)
                for suffix, data in members.items():
                    member = tarfile.TarInfo(f"{record.key}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                reasons[row["reason"]] += row["status"] == "failed"
                rows.append(row)
        size, checksum = tar.stat().st_size, sha256(tar)
    with job.store.new(f"{job.name}.parquet") as table:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema(job)), table)
        rows_checksum = sha256(table)
    status = Counter(row["status"] for row in rows)
    shard = Shard(
        name=f"{job.name}.tar",
        samples=status["ok"],
        failed=status["failed"],
        left_out=status["left out"],
        reasons={reason: count for reason, count in sorted(reasons.items()) if count},
        size=size,
        sha256=checksum,
        rows_sha256=rows_checksum,
        made_from=job.made_from,
    )
    with job.store.new(f"{job.name}.json") as marker:
        marker.write_text(as_json(shard))
    return shard


def _pack(record: Record, job: Job) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The tar members of a sample, none where it failed or is left out, and its row."""
    members: dict[str, bytes] = {}
    status, reason = "ok", ""
    has = sorted(record.media)
    if record.problem or record.left_out:
        status, reason = ("failed", record.problem) if record.problem else ("left out", record.left_out)
    else:
        try:
            members = modalities.pack(record.media, job.packing)
            has = [member.split(".")[0] for member in members]
            if not members:
                raise ValueError("no modality at all")
            members["json"] = json.dumps({"label": record.label, "group": record.group, "has": has}).encode()
        except ValueError as error:
            members, status, reason = {}, "failed", str(error)
    label = list(record.label) if isinstance(record.label, tuple) else record.label
    row = {"key": record.key, "split": record.split, "label": label, "group": record.group}
    row |= {f"has_{name}": name in has for name in job.modalities} | {"status": status, "reason": reason}
    return members, row


def _schema(job: Job) -> pa.Schema:
    many = any(isinstance(record.label, tuple) for record in job.records)
    fields: list[tuple[str, pa.DataType]] = [("key", pa.string()), ("split", pa.string())]
    fields += [("label", pa.list_(pa.int64()) if many else pa.int64()), ("group", pa.string())]
    fields += [(f"has_{name}", pa.bool_()) for name in job.modalities]
    return pa.schema([*fields, ("status", pa.string()), ("reason", pa.string())])


def _kept(job: Job) -> dict[str, tuple[dict[str, bytes], dict[str, Any]]]:
    """{key: (members, row)} of what is well in the present shard of a job; empty where the shard itself isn't well."""
    shard = marker(job.store, job.name)
    if shard is None or problems(job.store, shard):
        return {}
    with job.store.local(_rows(shard)) as table, job.store.local(shard.name) as tar:
        assert tar is not None
        rows = {row["key"]: row for row in pq.read_table(table).to_pylist() if row["status"] == "ok"}
        samples = {sample["__key__"]: sample for sample in _samples(tar, shard.name)}
    members = {key: {n: data for n, data in sample.items() if n[0] != "_"} for key, sample in samples.items()}
    return {key: (members[key], row) for key, row in rows.items()}


# What is there. -------------------------------------------------------------------------------------------------------


def marker(store: Store, name: str) -> Shard | None:
    """The marker of the shard `name`, None where there is none that can be read."""
    try:
        return Shard.model_validate_json(store.read(f"{name}.json") or b"")
    except ValueError:
        return None


def is_made(job: Job) -> bool:
    """Whether the shard of a job is there, made from the same input. Its bytes are taken on trust: see `problems`."""
    shard = marker(job.store, job.name)
    whole = shard is not None and shard.made_from == job.made_from and job.store.size(shard.name) == shard.size
    return whole and job.store.size(f"{job.name}.parquet") is not None


def has_failures(job: Job) -> bool:
    shard = marker(job.store, job.name)
    return shard is not None and shard.failed > 0


def problems(store: Store, shard: Shard) -> list[str]:
    """What is wrong with a shard: every truncated, altered or missing file, and content that its marker doesn't name."""
    found = []
    for name, checksum in ((shard.name, shard.sha256), (_rows(shard), shard.rows_sha256)):
        with store.local(name) as path:
            if path is None:
                found.append(f"{name} is missing")
            elif sha256(path) != checksum:
                found.append(f"{name} is truncated or altered")
    return found


def write_index(
    store: Store, spec: DatasetSpec, settings: Mapping[str, Any], made: Mapping[str, list[Shard]], max_failures: float
) -> Index:
    """The index over the shards `made` {split: shards}; files of other shards are removed.

    Raises UserError where more than `max_failures` (a ratio) of the samples could not be packed (their reasons are
    summed up), or where a split has no sample.
    """
    every = [shard for shards in made.values() for shard in shards]
    failed = sum(shard.failed for shard in every)
    total = failed + sum(shard.samples for shard in every)
    if failed > max_failures * total:
        raise UserError(
            f"{failed} of {total} samples could not be packed: {summary(every)}",
            spec.name,
            "Mend the files and run: umemma preprocess --retry-failed\n"
            "Or allow a share of failures with preprocess.max_failures.",
        )
    for split in spec.splits:
        if not sum(shard.samples for shard in made[split]):
            raise UserError(f"no sample of split {split!r} could be packed", spec.name, summary(every))
    content = {split: [[s.name, s.sha256, s.rows_sha256] for s in shards] for split, shards in made.items()}
    about = {
        "dataset": spec.name,
        "variant": spec.variant,
        "task": spec.task,
        "classes": list(spec.classes),
        "modalities": list(spec.modalities),
        "settings": dict(settings),
    }
    whole = fingerprint({**about, "content": content})
    index = Index.model_validate({**about, "fingerprint": whole, "splits": dict(made)})
    known = {name for shard in every for name in (shard.name, _rows(shard), _marker(shard))}
    for name in set(store.names()) - known:
        if NAME.fullmatch(re.sub(r"\.(parquet|json)$", ".tar", name)):
            store.remove(name)
    store.sweep()
    with store.new("index.json") as path:
        path.write_text(as_json(index))
    return index


def summary(made: Iterable[Shard]) -> str:
    reasons = sum((Counter(shard.reasons) for shard in made), Counter[str]())
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(8))


def as_json(data: Plain) -> str:
    return json.dumps(data.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


# Reading shards. ------------------------------------------------------------------------------------------------------


def read_index(store: Store, settings: Mapping[str, Any] | None = None) -> Index:
    """UserError where there is no index, it isn't one of ours, or other settings than `settings` made the shards."""
    data = store.read("index.json")
    if data is None:
        raise UserError("not there yet", store.at("index.json"), REMAKE)
    try:
        index = Index.model_validate_json(data)
    except ValueError:
        raise UserError("damaged: not an index of shards", store.at("index.json"), REMAKE) from None
    for shard in (shard for shards in index.splits.values() for shard in shards):
        if not NAME.fullmatch(shard.name):  # an index may come from a stranger
            raise UserError(f"{shard.name!r} is not the name of a shard", store.at("index.json"), REMAKE)
    if settings is not None and (differences := difference(index.settings, settings)):
        raise UserError(f"shards made with other settings ({'; '.join(differences)})", store.url, REMAKE)
    return index


def read(store: Store, index: Index, split: str) -> Iterator[Record]:
    """Every sample of a split, in stored order, its media encoded bytes. UserError for a shard that differs from its index."""
    for shard in index.shards(split):
        with store.local(shard.name) as path:
            where = store.at(shard.name)
            if path is None:
                raise UserError("shard is missing", where, REMAKE)
            if sha256(path) != shard.sha256:
                raise UserError("shard differs from its index: truncated or altered", where, REMAKE)
            count = 0
            for sample in _samples(path, shard.name):
                count += 1
                yield _unpack(sample, split, index, where)
            if count != shard.samples:
                raise UserError(f"{count} samples in the shard, {shard.samples} in the index", where, REMAKE)


def verify(store: Store, index: Index, split: str, shard: Shard) -> list[str]:
    """As `problems`, and every sample of the shard read."""
    if found := problems(store, shard):
        return found
    try:
        for _ in read(store, index.model_copy(update={"splits": {split: [shard]}}), split):
            pass
    except UserError as error:
        return [f"{shard.name}: {error.what}"]
    return []


def _samples(tar: Path, name: str) -> Iterator[dict[str, Any]]:
    """{"__key__": key, "audio.flac": bytes, ..., "json": bytes} of every sample of a tar that has been verified."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with tar.open("rb") as file:  # our own handle: WebDataset leaves the one that it opens to the collector
        yield from group_by_keys(tar_file_expander([{"url": name, "stream": file}]))


def _unpack(sample: Mapping[str, Any], split: str, index: Index, where: str) -> Record:
    """A checksum says that a shard is the one that was written, not that a stranger wrote it well."""
    key = sample["__key__"]
    try:
        about = json.loads(sample["json"])
        label, group, has = about["label"], about["group"], about["has"]
        label = tuple(label) if isinstance(label, list) else label
        numbers = label if isinstance(label, tuple) else (label,)
        well = all(isinstance(n, int) and 0 <= n < len(index.classes) for n in numbers) and isinstance(group, str)
    except (KeyError, ValueError, TypeError):
        well = False
    if not well or isinstance(label, tuple) != (index.task == "multilabel"):
        raise UserError(f"sample {key!r} has no description, or one that makes no sense", where, REMAKE)
    media = {name.split(".")[0]: data for name, data in sample.items() if name[0] != "_" and name != "json"}
    if sorted(media) != has or not media.keys() <= set(index.modalities):
        raise UserError(f"sample {key!r} has lost media", where, REMAKE)
    return Record(key, split, label, media, group)


def _rows(shard: Shard) -> str:
    return shard.name.replace(".tar", ".parquet")


def _marker(shard: Shard) -> str:
    return shard.name.replace(".tar", ".json")

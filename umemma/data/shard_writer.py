"""A job -> its shard: a WebDataset tar, a table with one row per sample, and the marker.

The marker is written last, and each file appears by a rename. The same records give the same bytes
wherever, whenever and by however many processes the shard is written. `shard_plan.FORMAT` goes up
when a change here gives other bytes.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from umemma import modalities
from umemma.data.sample_table import PARTS, compute_checksum
from umemma.data.shard_marker import ShardMarker, list_damage, read_marker
from umemma.data.shard_plan import ShardJob
from umemma.data.shard_reader import iterate_samples
from umemma.system.files import sha256
from umemma.types import Plain, Record


class PackedSample(NamedTuple):
    """A sample as it is stored. members: {suffix: bytes} of the tar, empty where it failed or is
    left out; row: of the table; status: "ok", "failed" or "left out"; reason: why it has another
    status, or which medium of it cannot be read."""

    members: Mapping[str, bytes]
    row: Mapping[str, Any]
    status: str
    reason: str


def write_shard(job: ShardJob) -> ShardMarker:
    """Write the shard of a job, its marker last, and return the marker."""
    present: Mapping[str, PackedSample] = {}
    if job.retry:
        present = _read_good_samples(job)
    samples: list[PackedSample] = []
    with job.store.new(f"{job.name}.tar") as path:
        # No times, owners or paths: the same bytes.
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            for record in job.records:
                sample = _pack_or_take(record, job, present)
                spans = _add_members(tar, record.key, sample.members)
                samples.append(sample._replace(members={}, row={**sample.row, **spans}))
        size = path.stat().st_size
        checksum = sha256(path)
    rows_checksum = _write_table(job, samples)
    marker = _make_marker(job, samples, size, checksum, rows_checksum)
    with job.store.new(f"{job.name}.json") as path:
        path.write_text(to_json(marker))
    return marker


def _pack_or_take(
    record: Record,
    job: ShardJob,
    present: Mapping[str, PackedSample],
) -> PackedSample:
    """Pack a record, or take it from the samples of the present shard that are well."""
    usable = not record.problem and not record.left_out
    if usable and record.key in present:
        return present[record.key]
    return _pack(record, job)


def _add_members(
    tar: tarfile.TarFile, key: str, members: Mapping[str, bytes]
) -> dict[str, int | None]:
    """Add the members of a sample, and return what its row says of where its media are."""
    spans: dict[str, int | None] = {}
    for suffix, data in members.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        name = suffix.split(".")[0]
        blocks = math.ceil(len(data) / tarfile.BLOCKSIZE)
        values = (tar.offset - blocks * tarfile.BLOCKSIZE, len(data), compute_checksum(data))
        for part, value in zip(PARTS, values, strict=True):
            spans[f"{part}_{name}"] = value
    return spans


def _write_table(job: ShardJob, samples: Sequence[PackedSample]) -> str:
    """Write the table of rows and return its sha256."""
    rows = [sample.row for sample in samples]
    with job.store.new(f"{job.name}.parquet") as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=_make_schema(job)), path)
        return sha256(path)


def _make_marker(
    job: ShardJob,
    samples: Sequence[PackedSample],
    size: int,
    checksum: str,
    rows_checksum: str,
) -> ShardMarker:
    counts = Counter(sample.status for sample in samples)
    marker = ShardMarker(
        name=f"{job.name}.tar",
        samples=counts["ok"],
        failed=counts["failed"],
        left_out=counts["left out"],
        reasons=_count_reasons(samples, "failed"),
        broken=_count_reasons(samples, "ok"),
        size=size,
        sha256=checksum,
        rows_sha256=rows_checksum,
        input_hash=job.input_hash,
    )
    return marker.model_copy(update={"content_hash": marker.compute_content_hash()})


def _count_reasons(samples: Sequence[PackedSample], status: str) -> dict[str, int]:
    """Return {reason: number of samples}, sorted, of the samples with a status."""
    reasons = Counter(
        sample.reason for sample in samples if sample.status == status and sample.reason
    )
    return dict(sorted(reasons.items()))


def _pack(record: Record, job: ShardJob) -> PackedSample:
    """Pack a record. A sample with a medium that cannot be read lacks that modality, or fails
    where `job.broken` says so; either way the reason is given."""
    named = sorted(record.media)
    if record.problem:
        return _make_sample(record, job, {}, named, "failed", record.problem)
    if record.left_out:
        return _make_sample(record, job, {}, named, "left out", record.left_out)
    packed, broken = modalities.pack_readable(record.media, job.packing, job.kinds)
    reason = "; ".join(modalities.format_reasons(broken))
    if not packed or (broken and job.broken == "fail"):
        reason = reason or "no modality at all"
        return _make_sample(record, job, {}, named, "failed", reason)
    has = [member.split(".")[0] for member in packed]
    description: dict[str, Any] = {"label": record.label, "group": record.group, "has": has}
    if record.weight is not None:
        description["weight"] = record.weight
    members = {**packed, "json": json.dumps(description).encode()}
    return _make_sample(record, job, members, has, "ok", reason)


def _make_sample(
    record: Record,
    job: ShardJob,
    members: Mapping[str, bytes],
    has: Sequence[str],
    status: str,
    reason: str,
) -> PackedSample:
    """Add the row of the table. has: the modalities in the tar; those named where it failed."""
    row: dict[str, Any] = {"key": record.key, "split": record.split, "label": record.label}
    if isinstance(record.label, tuple):
        row["label"] = list(record.label)
    if isinstance(record.group, str):
        row["group"] = record.group
    else:
        for grouping, group in record.group.items():
            row[_name_column(grouping)] = group
    for name in job.modalities:
        row[f"has_{name}"] = name in has
    row["weight"] = record.weight
    row["status"] = status
    row["reason"] = reason
    return PackedSample(members, row, status, reason)


def _make_schema(job: ShardJob) -> pa.Schema:
    """Return the columns of the table of rows."""
    label_type = pa.int64()
    groupings: set[str] = set()
    has_weight = False
    for record in job.records:
        has_weight |= record.weight is not None
        if isinstance(record.label, tuple):
            label_type = pa.list_(pa.int64())
            if any(isinstance(number, float) for number in record.label):
                label_type = pa.list_(pa.float64())
        if not isinstance(record.group, str):
            groupings |= record.group.keys()
    group_columns = [_name_column(grouping) for grouping in sorted(groupings)] or ["group"]
    fields: list[tuple[str, pa.DataType]] = [
        ("key", pa.string()),
        ("split", pa.string()),
        ("label", label_type),
    ]
    for column in group_columns:
        fields.append((column, pa.string()))
    for name in job.modalities:
        fields.append((f"has_{name}", pa.bool_()))
        for part, kind in PARTS.items():
            fields.append((f"{part}_{name}", kind))
    if has_weight:
        fields.append(("weight", pa.float64()))
    fields.append(("status", pa.string()))
    fields.append(("reason", pa.string()))
    return pa.schema(fields)


def _name_column(grouping: str) -> str:
    return f"group_{grouping}"


def _read_good_samples(job: ShardJob) -> dict[str, PackedSample]:
    """Return {key: sample} of what is well in the present shard of a job, every medium of it.

    Empty where the shard itself is missing or damaged.
    """
    shard = read_marker(job.store, job.name)
    if shard is None or list_damage(job.store, shard):
        return {}
    with job.store.local(shard.rows_name) as path:
        rows = pq.read_table(path).to_pylist()
    good_rows = {}
    for row in rows:
        if row["status"] == "ok" and not row["reason"]:
            good_rows[row["key"]] = row
    good: dict[str, PackedSample] = {}
    with job.store.local(shard.name) as path:
        assert path is not None
        for sample in iterate_samples(path, shard.name):
            row = good_rows.get(sample["__key__"])
            if row is not None:
                good[row["key"]] = PackedSample(_take_members(sample), row, "ok", "")
    return good


def _take_members(sample: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the members of a sample of WebDataset, without its own keys ("__key__", ...)."""
    return {suffix: data for suffix, data in sample.items() if not suffix.startswith("_")}


def to_json(data: Plain) -> str:
    """Return a marker or an index as it is written."""
    return json.dumps(data.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

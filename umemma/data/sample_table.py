"""The samples of a split as columns: what the tables of its shards say, and where each medium is.

No tar is opened for it, so a million samples are listed in seconds, from a disk or a bucket. Each
medium is then read by its own range of bytes, in any order, and its checksum is compared each time:
a shard need not be read whole before its first sample is trusted.
"""

from __future__ import annotations

import hashlib
import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from umemma.data.shard_marker import ShardMarker
from umemma.data.shard_reader import REMAKE, Index, explain_alteration, read_rows
from umemma.errors import UserError
from umemma.system.files import sha256
from umemma.system.storage import Store

UNGROUPED = "sample"  # the grouping of samples that have none: each is a group by itself
PARTS = {"offset": pa.int64(), "size": pa.int64(), "checksum": pa.uint64()}


class Spans(NamedTuple):
    """Where the media of a modality are. shard: (N,) int32, the number of a tar; offset, size: (N,)
    int64 bytes, size 0 where it is absent; checksum: (N,) uint64, by `compute_checksum`."""

    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    checksum: np.ndarray

    def select(self, rows: np.ndarray) -> Spans:
        return Spans(*(column[rows] for column in self))


@dataclass(frozen=True)
class MediaTable:
    """The encoded media of samples: all that a process needs that reads them.

    keys: N; shards: the names of tars; spans: {modality: its Spans}.
    """

    store: Store
    keys: list[str]
    shards: list[str]
    spans: dict[str, Spans]

    def has(self, modality: str) -> np.ndarray:
        """Return (N,) bool: which samples have the modality."""
        return self.spans[modality].size > 0

    def read(self, wanted: Sequence[tuple[int, str]]) -> list[bytes]:
        """Return the encoded medium of each (sample number, modality).

        Raises UserError for one that is not what was written.
        """
        ranges = []
        for i, m in wanted:
            span = self.spans[m]
            name = self.shards[span.shard[i]]
            ranges.append((name, int(span.offset[i]), int(span.size[i])))
        data = self.store.read_ranges(ranges)
        for (i, m), (name, _, _), medium in zip(wanted, ranges, data, strict=True):
            if compute_checksum(medium) != self.spans[m].checksum[i]:
                what = f"{m} of sample {self.keys[i]!r} is not what was written: "
                raise explain_alteration(self.store, name, what)
        return data


@dataclass(frozen=True)
class SampleTable:
    """The samples of a split, in stored order.

    labels: an Arrow array of N class numbers, lists of them, or lists of numbers in regression;
    groups: {grouping: N groups}; weights: (N,) float64 in the loss, None for all alike.
    """

    media: MediaTable
    labels: pa.Array
    groups: dict[str, list[str]]
    weights: np.ndarray | None

    def __len__(self) -> int:
        return len(self.media.keys)

    def take_away(self, absences: Mapping[str, np.ndarray]) -> SampleTable:
        """Return the samples without the media of `absences` {modality: (N,) bool}."""
        spans = dict(self.media.spans)
        for m, is_absent in absences.items():
            if m in spans:
                spans[m] = spans[m]._replace(size=np.where(is_absent, 0, spans[m].size))
        return replace(self, media=replace(self.media, spans=spans))

    def select(self, rows: np.ndarray) -> SampleTable:
        """Return the samples with these numbers."""
        media = self.media
        spans = {m: columns.select(rows) for m, columns in media.spans.items()}
        weights = self.weights
        if weights is not None:
            weights = weights[rows]
        return SampleTable(
            replace(media, keys=[media.keys[i] for i in rows], spans=spans),
            self.labels.take(pa.array(rows)),
            {name: [groups[i] for i in rows] for name, groups in self.groups.items()},
            weights,
        )


def compute_checksum(data: bytes) -> int:
    """Return the 64-bit checksum that the table of a shard has of a medium."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def read_samples(store: Store, index: Index, split: str) -> SampleTable:
    """Return every sample of a split.

    Raises UserError for a shard that differs from the index, as far as that can be told without its
    tar, and for a table that makes no sense.
    """
    shards = index.shards(split)
    tables = []
    for number, shard in enumerate(shards):
        _check_size(store, shard)
        rows = read_rows(store, shard)
        rows = rows.filter(pc.equal(rows["status"], "ok"))
        if f"offset_{index.modalities[0]}" not in rows.column_names:
            rows = _add_spans(rows, store, index, shard)
        _check_rows(rows, store, index, shard)
        if len(rows):  # without any, its labels have no type
            numbers = pa.array(np.full(len(rows), number, np.int32))
            tables.append(rows.append_column("shard", numbers))
    if not tables:
        raise UserError("no sample", f"{split} shards", REMAKE)
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()
    spans = {}
    for m in index.modalities:
        columns = [table[f"{part}_{m}"].fill_null(0).to_numpy() for part in PARTS]
        spans[m] = Spans(table["shard"].to_numpy(), *columns)
    keys = table["key"].to_pylist()
    weights = None
    if "weight" in table.column_names:
        weights = table["weight"].fill_null(1.0).to_numpy()
    return SampleTable(
        MediaTable(store, keys, [shard.name for shard in shards], spans),
        table["label"].combine_chunks(),
        _make_groups(table, keys),
        weights,
    )


def _check_size(store: Store, shard: ShardMarker) -> None:
    """UserError for a tar that is missing or truncated. In a bucket, reading a medium will tell."""
    if store.remote:
        return
    size = store.size(shard.name)
    if size is None:
        raise UserError("shard is missing", store.at(shard.name), REMAKE)
    if size != shard.size:
        raise explain_alteration(store, shard.name)


def _check_rows(rows: pa.Table, store: Store, index: Index, shard: ShardMarker) -> None:
    """UserError for rows that make no sense: a checksum says that a table is the one that was
    written, not that a stranger wrote it well."""
    where = store.at(shard.rows_name)
    if len(rows) != shard.samples:
        what = f"{len(rows)} samples in the table, {shard.samples} in the index"
        raise UserError(what, where, REMAKE)
    has_media = np.zeros(len(rows), bool)
    for m in index.modalities:
        try:
            parts = [rows[f"{part}_{m}"].cast(kind) for part, kind in PARTS.items()]
            offset, size, _ = (part.fill_null(0).to_numpy() for part in parts)
        except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise UserError(f"the table does not say where {m} is", where, REMAKE) from None
        if (np.minimum(offset, size) < 0).any() or (size > shard.size - offset).any():
            raise UserError(f"the table has a {m} outside the shard", where, REMAKE)
        has_media |= size > 0
    if not has_media.all() or not _are_labels(rows["label"], index):
        raise UserError("the table has a sample that makes no sense", where, REMAKE)


def _are_labels(labels: pa.ChunkedArray, index: Index) -> bool:
    """Return whether labels are as the Records of the task have them."""
    if not len(labels):
        return True
    if labels.null_count or (index.task == "multiclass") == pa.types.is_list(labels.type):
        return False
    numbers = labels
    if index.task != "multiclass":
        numbers = pc.list_flatten(labels)
    if index.task == "regression":
        counts = pc.list_value_length(labels).to_numpy()
        is_whole = pa.types.is_floating(numbers.type) and not numbers.null_count
        return is_whole and bool(
            (counts == len(index.classes)).all() and np.isfinite(numbers).all()
        )
    if numbers.null_count or not pa.types.is_integer(numbers.type):
        return False
    values = numbers.to_numpy()
    return bool(((values >= 0) & (values < len(index.classes))).all())


def _make_groups(table: pa.Table, keys: list[str]) -> dict[str, list[str]]:
    """Return {grouping: the group of each sample}.

    A sample without a group is a group by itself. Where there is no grouping, so is every sample.
    """
    groups = {}
    for column in table.column_names:
        name = column.removeprefix("group_")
        if column not in ("group", f"group_{name}"):
            continue
        encoded = table[column].fill_null("").combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        if any(names):
            numbers = encoded.indices.to_numpy()
            groups[name] = [names[n] or key for n, key in zip(numbers, keys, strict=True)]
    return dict(sorted(groups.items())) or {UNGROUPED: keys}


# Shards of umemma before their tables said where the media are. ----------------------------------


def _add_spans(rows: pa.Table, store: Store, index: Index, shard: ShardMarker) -> pa.Table:
    """Add what a table of FORMAT 2 lacks, from the tar itself, which is verified and read whole."""
    with store.local(shard.name) as path:
        if path is None:
            raise UserError("shard is missing", store.at(shard.name), REMAKE)
        if sha256(path) != shard.sha256:
            raise explain_alteration(store, shard.name)
        found = _find_members(path)
    columns: dict[str, list[Any]] = {"weight": []}
    for key in rows["key"].to_pylist():
        media = found.get(key, {})
        columns["weight"].append(media.get("weight"))
        for m in index.modalities:
            span = media.get(m, dict.fromkeys(PARTS))
            for part in PARTS:
                columns.setdefault(f"{part}_{m}", []).append(span[part])
    for name, values in columns.items():
        kind = PARTS.get(name.split("_")[0], pa.float64())
        if name != "weight" or any(value is not None for value in values):
            rows = rows.append_column(name, pa.array(values, kind))
    return rows


def _find_members(tar: Path) -> dict[str, dict[str, Any]]:
    """Return {key: {modality: {part: value}}} of a tar, and "weight" of a sample that has one."""
    found: dict[str, dict[str, Any]] = {}
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is None:
                continue
            key, _, suffix = member.name.partition(".")
            sample = found.setdefault(key, {})
            data = file.read()
            if suffix != "json":
                values = (member.offset_data, member.size, compute_checksum(data))
                sample[suffix.split(".")[0]] = dict(zip(PARTS, values, strict=True))
                continue
            weight = _read_weight(data)
            if weight is not None:
                sample["weight"] = weight
    return found


def _read_weight(description: bytes) -> float | None:
    """Return the weight of a sample, None where its description has none or makes no sense."""
    try:
        weight = json.loads(description)["weight"]
    except (ValueError, LookupError, TypeError):
        return None
    if isinstance(weight, float) and math.isfinite(weight):
        return weight
    return None

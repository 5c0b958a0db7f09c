"""Records -> WebDataset shards, and back.

A shard is a tar of encoded media (`key.audio.flac`, `key.image.png`, `key.json`) beside a Parquet table with one row per
sample, failures too. `index.json` comes last: counts and sha256 of every shard, classes, modalities, and the settings
that made it. What the index doesn't vouch for is refused: a truncated tar would otherwise read as missing modalities.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from umemma import modalities
from umemma.checks import difference
from umemma.contracts import DatasetSpec, Plain, Record
from umemma.errors import UserError, unknown
from umemma.files import read_json, sha256, write_json

REMAKE = "Run: umemma preprocess"


class Shard(Plain):
    """One tar and its table of rows. `samples` are in the tar; `failed` have a row only."""

    name: str
    samples: int
    failed: int
    sha256: str
    rows_sha256: str


class Index(Plain):
    """index.json. `settings` is what the shards were made from, `fingerprint` their short hash."""

    dataset: str
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


def write(
    records: Iterable[Record],
    folder: Path,
    spec: DatasetSpec,
    settings: Mapping[str, Any],
    fingerprint: str,
    *,
    shard_size: int,
    max_failures: float,
    advance: Callable[[], None] = lambda: None,
) -> Index:
    """Pack every record into `folder` (empty) and write the index.

    Raises UserError where keys repeat or labels are out of range, where more than `max_failures` (a ratio) of the
    samples can't be packed (their reasons are summed up), or where a split has no sample.
    """
    seen: set[str] = set()
    with contextlib.ExitStack() as stack:
        writers = {split: _Writer(folder, split, spec.modalities, shard_size) for split in spec.splits}
        for writer in writers.values():
            stack.callback(writer.close)
        for record in records:
            _check(record, spec, seen)
            writers[record.split].add(record)
            advance()
        splits = {split: writer.finish() for split, writer in writers.items()}
    reasons = sum((writer.reasons for writer in writers.values()), Counter[str]())
    failed = reasons.total()
    if failed > max_failures * len(seen):
        summary = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))
        raise UserError(
            f"{failed} of {len(seen)} samples could not be packed: {summary}",
            spec.name,
            "Mend the files, or allow a share of failures with preprocess.max_failures.",
        )
    for split, shards in splits.items():
        if not sum(shard.samples for shard in shards):
            raise UserError(f"no samples in split {split!r}", spec.name, "Check the raw files: umemma download")
    index = Index(
        dataset=spec.name,
        classes=list(spec.classes),
        modalities=list(spec.modalities),
        settings=dict(settings),
        fingerprint=fingerprint,
        splits=splits,
    )
    write_json(folder / "index.json", index.model_dump())
    return index


def read_index(folder: Path, settings: Mapping[str, Any]) -> Index:
    """The index of `folder`. UserError where there is none, it isn't one of ours, or other settings made the shards."""
    data = read_json(folder / "index.json", REMAKE)
    try:
        index = Index.model_validate(data)
    except ValueError:
        raise UserError("damaged: not an index of shards", str(folder / "index.json"), REMAKE) from None
    if differences := difference(index.settings, settings):
        raise UserError(f"shards made with other settings ({'; '.join(differences)})", str(folder), REMAKE)
    return index


def read(folder: Path, index: Index, split: str) -> Iterator[Record]:
    """Every sample of a split, in stored order, its media encoded bytes. UserError for a shard that differs from its index."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    suffixes = {name: f"{name}.{modalities.get(name).SUFFIX}" for name in index.modalities}
    for shard in index.shards(split):
        path = folder / shard.name
        if not re.fullmatch(r"[\w-]+\.tar", shard.name) or not path.is_file():
            raise UserError("shard is missing", str(path), REMAKE)
        if sha256(path) != shard.sha256:
            raise UserError("shard differs from its index: truncated or altered", str(path), REMAKE)
        count = 0
        with path.open("rb") as file:  # our own handle: WebDataset leaves the one that it opens to the collector
            for sample in group_by_keys(tar_file_expander([{"url": shard.name, "stream": file}])):
                count += 1
                yield _unpack(sample, split, suffixes, path)
        if count != shard.samples:
            raise UserError(f"{count} samples in the shard, {shard.samples} in the index", str(path), REMAKE)


def _check(record: Record, spec: DatasetSpec, seen: set[str]) -> None:
    where = f"{spec.name}, sample {record.key!r}"
    if record.key in seen:
        raise UserError("two samples have this key", where, "Keys have to be unique in a dataset.")
    if not re.fullmatch(r"[\w-]+", record.key, re.ASCII):
        raise UserError("a key may hold letters, digits, '_' and '-' only", where, "Rename the sample.")
    if not 0 <= record.label < len(spec.classes):
        raise UserError(f"label {record.label} is not in 0..{len(spec.classes) - 1}", where, "Mend the label.")
    if not record.media.keys() <= set(spec.modalities):
        raise UserError(f"modalities {sorted(record.media)} are not those of the dataset", where)
    seen.add(record.key)


def _unpack(sample: dict[str, Any], split: str, suffixes: dict[str, str], path: Path) -> Record:
    about = json.loads(sample["json"])
    media = {name: sample[suffix] for name, suffix in suffixes.items() if suffix in sample}
    if sorted(media) != about["has"]:
        raise UserError(f"sample {sample['__key__']!r} has lost media", str(path), REMAKE)
    return Record(sample["__key__"], split, about["label"], media, about["group"])


class _Writer:
    """The shards of one split, one after another."""

    def __init__(self, folder: Path, split: str, names: tuple[str, ...], shard_size: int) -> None:
        self.folder, self.split, self.names, self.shard_size = folder, split, names, shard_size
        self.shards: list[Shard] = []
        self.reasons: Counter[str] = Counter()
        self.rows: list[dict[str, Any]] = []
        self.tar: Any = None

    def add(self, record: Record) -> None:
        import webdataset

        if self.tar is None:  # an int mtime makes the tar byte-identical on every run
            self.name = f"{self.split}-{len(self.shards):06d}"
            self.tar = webdataset.TarWriter(str(self.folder / f"{self.name}.tar"), mtime=0, encoder=False)
        row: dict[str, Any] = {"key": record.key, "split": self.split, "label": record.label, "group": record.group}
        row |= {f"has_{name}": name in record.media for name in self.names} | {"status": "ok", "reason": ""}
        try:
            members = {
                f"{name}.{modalities.get(name).SUFFIX}": modalities.get(name).pack(media)
                for name, media in sorted(record.media.items())
            }
            if not members:
                raise ValueError("no modality at all")
        except ValueError as error:
            row |= {"status": "failed", "reason": str(error)}
            self.reasons[str(error)] += 1
        else:
            about = {"label": record.label, "group": record.group, "has": sorted(record.media)}
            self.tar.write({"__key__": record.key, **members, "json": json.dumps(about).encode()})
        self.rows.append(row)
        if len(self.rows) == self.shard_size:
            self._complete()

    def finish(self) -> list[Shard]:
        """Complete the shard at hand; all shards of the split."""
        if self.rows:
            self._complete()
        return self.shards

    def close(self) -> None:
        """Let go of a shard that an error left open."""
        if self.tar is not None:
            self.tar.close()

    def _complete(self) -> None:
        self.tar.close()
        tar, rows = self.folder / f"{self.name}.tar", self.folder / f"{self.name}.parquet"
        pq.write_table(pa.Table.from_pylist(self.rows), rows)
        failed = sum(row["status"] == "failed" for row in self.rows)
        self.shards.append(
            Shard(
                name=tar.name,
                samples=len(self.rows) - failed,
                failed=failed,
                sha256=sha256(tar),
                rows_sha256=sha256(rows),
            )
        )
        self.tar, self.rows = None, []

"""Shards as they lie there, and how they are read.

A shard is a WebDataset tar of encoded media (`key.audio.flac`, `key.image.png`, `key.json`), a Parquet table with one row
per sample, failures too, and a marker (`train-000000.json`: counts, checksums, what it was made from) that vouches for
the other two. `index.json` vouches for all shards. What isn't vouched for is refused: a truncated tar would otherwise read
as missing modalities.
"""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from umemma.data.storage import Store
from umemma.errors import UserError, unknown
from umemma.system.files import sha256
from umemma.types import Plain, Record, Span
from umemma.validation import difference, fingerprint

REMAKE = "Run: umemma preprocess"
NAME = re.compile(r"[A-Za-z0-9]+-\d{6,}\.tar", re.ASCII)


class Shard(Plain):
    """A marker. `samples` are in the tar; `failed` and those `left_out` by the settings have a row only.

    reasons: {why a sample failed: how many}; broken: {which media of a sample in the tar couldn't be read, and why: how
    many such samples}; made_from: the fingerprint of everything that went in; itself: that of the marker's other fields.
    """

    name: str
    samples: int
    failed: int
    left_out: int
    reasons: dict[str, int]
    broken: dict[str, int] = {}
    size: int
    sha256: str
    rows_sha256: str
    made_from: str
    itself: str = ""

    @property
    def broken_samples(self) -> int:
        return sum(self.broken.values())

    def identity(self) -> str:
        """What `itself` has to be."""
        return fingerprint(self.model_dump(mode="json", exclude={"itself"}))


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

    def identity(self) -> str:
        """What `fingerprint` has to be: the same for shards of the same content, whatever they were made from."""
        about = self.model_dump(mode="json", exclude={"fingerprint", "splits"})
        content = {
            name: [[s.name, s.samples, s.sha256, s.rows_sha256] for s in self.splits[name]]
            for name in self.splits
        }
        return fingerprint({**about, "content": content})

    def failures(self) -> str:
        """Why samples failed and how many: "3 x file is missing; 1 x a video with no frames"."""
        return summary(shard.reasons for shards in self.splits.values() for shard in shards)

    def broken(self) -> str:
        """Which media can't be read, and of how many samples: "2 x image: file is missing"."""
        return summary(shard.broken for shards in self.splits.values() for shard in shards)


def summary(counts: Iterable[Mapping[str, int]]) -> str:
    """The commonest of all reasons in `counts` {reason: how many}: "3 x file is missing; 1 x a video with no frames"."""
    reasons = sum(map(Counter, counts), Counter[str]())
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(8))


def marker(store: Store, name: str) -> Shard | None:
    """The marker of the shard `name`, None where there is none that is whole."""
    try:
        shard = Shard.model_validate_json(store.read(f"{name}.json") or b"")
    except ValueError:
        return None
    return shard if shard.itself == shard.identity() else None


def problems(store: Store, shard: Shard) -> list[str]:
    """What is wrong with the files of a shard: every one that is missing, truncated or altered."""
    found = []
    for name, checksum in ((shard.name, shard.sha256), (rows_of(shard), shard.rows_sha256)):
        with store.local(name) as path:
            if path is None:
                found.append(f"{name} is missing")
            elif sha256(path) != checksum:
                found.append(f"{name} is truncated or altered")
    return found


def read_index(store: Store, settings: Mapping[str, Any] | None = None) -> Index:
    """UserError where there is no index, it isn't one of ours, or other settings than `settings` made the shards."""
    data = store.read("index.json")
    if data is None:
        raise UserError("not there yet", store.at("index.json"), REMAKE)
    try:
        index = Index.model_validate_json(data)
    except ValueError:
        raise UserError("damaged: not an index of shards", store.at("index.json"), REMAKE) from None
    if index.fingerprint != index.identity():
        raise UserError("altered: its fingerprint is another", store.at("index.json"), REMAKE)
    for shard in (shard for shards in index.splits.values() for shard in shards):
        if not NAME.fullmatch(shard.name):  # an index may come from a stranger
            raise UserError(
                f"{shard.name!r} is not the name of a shard", store.at("index.json"), REMAKE
            )
    if settings is not None and (differences := difference(index.settings, settings)):
        raise UserError(
            f"shards made with other settings ({'; '.join(differences)})", store.url, REMAKE
        )
    return index


def read(store: Store, index: Index, split: str) -> Iterator[Record]:
    """Every sample of a split, in stored order, its media encoded bytes. UserError for a shard that differs from its index."""
    for shard in index.shards(split):
        with _opened(store, shard) as path:
            yield from _records(samples(path, shard.name), store, index, split, shard)


def locate(store: Store, index: Index, split: str, stay: contextlib.ExitStack) -> Iterator[Record]:
    """As `read`, its media Spans of files, to be read in any order until `stay` is closed (remote shards are copied)."""
    for shard in index.shards(split):
        path = stay.enter_context(_opened(store, shard))
        yield from _records(_spans(path), store, index, split, shard)


@contextlib.contextmanager
def _opened(store: Store, shard: Shard) -> Iterator[Path]:
    with store.local(shard.name) as path:
        if path is None:
            raise UserError("shard is missing", store.at(shard.name), REMAKE)
        if sha256(path) != shard.sha256:
            hint = (
                f"Remove it, then run: {REMAKE.removeprefix('Run: ')}" if store.remote else REMAKE
            )  # checks local ones
            raise UserError(
                "shard differs from its index: truncated or altered", store.at(shard.name), hint
            )
        yield path


def _records(
    samples: Iterable[Mapping[str, Any]], store: Store, index: Index, split: str, shard: Shard
) -> Iterator[Record]:
    count = 0
    for sample in samples:
        count += 1
        yield _unpack(sample, split, index, store.at(shard.name))
    if count != shard.samples:
        raise UserError(
            f"{count} samples in the shard, {shard.samples} in the index",
            store.at(shard.name),
            REMAKE,
        )


def _spans(tar: Path) -> Iterator[dict[str, Any]]:
    """As `samples`, with a Span for the bytes of each member but the description."""
    sample: dict[str, Any] = {}
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            key, _, suffix = member.name.partition(".")
            if sample.get("__key__", key) != key:
                yield sample
                sample = {}
            file = archive.extractfile(member) if suffix == "json" else None
            sample |= {
                "__key__": key,
                suffix: file.read() if file else Span(str(tar), member.offset_data, member.size),
            }
    if sample:
        yield sample


def verify(store: Store, index: Index, split: str, shard: Shard) -> list[str]:
    """As `problems`, and every sample of the shard read."""
    if found := problems(store, shard):
        return found
    if marker(store, shard.name.removesuffix(".tar")) != shard:
        return [f"{marker_of(shard)} is missing or differs from the index"]
    try:
        for _ in read(store, index.model_copy(update={"splits": {split: [shard]}}), split):
            pass
    except UserError as error:
        return [f"{shard.name}: {error.what}"]
    return []


def samples(tar: Path, name: str) -> Iterator[dict[str, Any]]:
    """{"__key__": key, "audio.flac": bytes, ..., "json": bytes} of every sample of a tar that has been verified."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with tar.open(
        "rb"
    ) as file:  # our own handle: WebDataset leaves the one that it opens to the collector
        yield from group_by_keys(tar_file_expander([{"url": name, "stream": file}]))


def _unpack(sample: Mapping[str, Any], split: str, index: Index, where: str) -> Record:
    """A checksum says that a shard is the one that was written, not that a stranger wrote it well."""
    key = sample["__key__"]
    try:
        about = json.loads(sample["json"])
        label, group, has = about["label"], about["group"], about["has"]
        label = tuple(label) if isinstance(label, list) else label
        numbers = label if isinstance(label, tuple) else (label,)
        well = all(
            isinstance(n, int) and 0 <= n < len(index.classes) for n in numbers
        ) and _is_group(group)
    except (KeyError, ValueError, TypeError):
        well = False
    if not well or isinstance(label, tuple) != (index.task == "multilabel"):
        raise UserError(
            f"sample {key!r} has no description, or one that makes no sense", where, REMAKE
        )
    media = {
        name.split(".")[0]: data
        for name, data in sample.items()
        if name[0] != "_" and name != "json"
    }
    if sorted(media) != has or not media.keys() <= set(index.modalities):
        raise UserError(f"sample {key!r} has lost media", where, REMAKE)
    return Record(key, split, label, media, group)


def _is_group(group: Any) -> bool:
    """Whether it is a group as a Record has it: a text, or texts by name."""
    named = group if isinstance(group, dict) else {"group": group}
    return all(isinstance(one, str) for one in named.values())  # in JSON a name is always a text


def rows_of(shard: Shard) -> str:
    return shard.name.replace(".tar", ".parquet")


def marker_of(shard: Shard) -> str:
    return shard.name.replace(".tar", ".json")

"""Records -> the shards to write: which records can be stored, which shard each belongs to, and
the hash of all that decides the bytes of a shard."""

from __future__ import annotations

import array
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from umemma import datasets, modalities
from umemma.data.raw_folder import RawFile
from umemma.system.files import sha256
from umemma.system.storage import Store
from umemma.types import (
    NO_KINDS,
    OWN,
    BrokenPolicy,
    Clip,
    DatasetSpec,
    Media,
    Packing,
    Record,
    Series,
    Unreadable,
)
from umemma.validation import fingerprint

# The version of the bytes that packing gives, a part of every input hash as a cache key has one:
# raise it when packing the same media gives other bytes, and all shards are written again.
FORMAT = 3

KEY = re.compile(r"[\w-]+", re.ASCII)  # WebDataset splits the name of a member at its first dot


@dataclass(frozen=True)
class ShardJob:
    """One shard to write: everything that a process anywhere needs to know.

    input_hash: goes into the marker; kinds: {modality: its kind} of those that are not named like
    their kind; broken: what a medium that cannot be read makes of its sample;
    retry: take the samples of the present shard that are well from there.
    """

    store: Store
    split: str
    number: int
    records: tuple[Record, ...] = field(repr=False)
    modalities: tuple[str, ...] = field(repr=False)
    packing: Packing = field(repr=False)
    input_hash: str = field(repr=False)
    kinds: Mapping[str, str] = field(default_factory=dict, repr=False)
    broken: BrokenPolicy = field(default="absent", repr=False)
    retry: bool = field(default=False, repr=False)

    @property
    def name(self) -> str:
        """The name of the shard without a suffix: "train-000000"."""
        return f"{self.split}-{self.number:06d}"

    def __str__(self) -> str:
        return f"shard {self.name}"


def count_records(records: Iterable[Record]) -> tuple[Counter[str], set[int]]:
    """Return {split: number of records}, and the hashes of the ids that occur more than once.

    Needs 8 bytes of memory per record.
    """
    counts = Counter[str]()
    hashes = array.array("Q")
    for record in records:
        counts[record.split] += 1
        hashes.append(_hash_key(record.key))
    values, times = np.unique(np.frombuffer(hashes, dtype=np.uint64), return_counts=True)
    repeated = values[times > 1]
    return counts, set(repeated.tolist())


def _hash_key(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def mark_problems(
    records: Iterable[Record],
    spec: DatasetSpec,
    repeated: set[int],
) -> Iterator[Record]:
    """Yield the records, with a problem where one cannot be stored: a repeated id, one with other
    characters, a label out of range. repeated: the hashes from `count_records`."""
    seen = set[str]()
    for record in records:
        problem = _find_problem(record, spec, seen)
        if repeated and _hash_key(record.key) in repeated:
            seen.add(record.key)
        if problem and not record.problem and not record.left_out:
            yield replace(record, problem=problem)
        else:
            yield record


def _find_problem(record: Record, spec: DatasetSpec, seen: set[str]) -> str:
    """Return why a record cannot be stored, "" where it can. seen: earlier repeated ids."""
    if record.key in seen:
        return "duplicate id"
    if not KEY.fullmatch(record.key):
        return "an id with other characters than letters, digits, '_' and '-'"
    if record.label is None:
        return "label out of range"
    is_tuple = isinstance(record.label, tuple)
    if is_tuple != (spec.task in ("multilabel", "regression")):
        return f"not the label of a {spec.task} task"
    if spec.task == "regression":
        return _find_target_problem(record.label, len(spec.classes))
    if not all(0 <= number < len(spec.classes) for number in _list_classes(record.label)):
        return "label out of range"
    return ""


def _find_target_problem(label: Any, targets: int) -> str:
    if len(label) != targets:
        return "another number of targets"
    if not all(isinstance(number, float) and math.isfinite(number) for number in label):
        return "a target is not a finite number"
    return ""


def _list_classes(label: Any) -> tuple[int, ...]:
    if isinstance(label, tuple):
        return label
    return (label,)


def plan_shards(
    records: Iterable[Record],
    spec: DatasetSpec,
    store: Store,
    packing: Packing,
    shard_size: int,
    hash_input: Callable[[Iterable[Record]], str],
    broken: BrokenPolicy = "absent",
) -> Iterator[ShardJob]:
    """Yield the shards to write, each split cut every `shard_size` samples, in the order of
    `records`. hash_input: from `make_input_hash`."""
    waiting: dict[str, list[Record]] = {split: [] for split in spec.splits}
    numbers = Counter[str]()

    def make_job(split: str) -> ShardJob:
        chunk = tuple(waiting[split])
        waiting[split] = []
        number = numbers[split]
        numbers[split] += 1
        return ShardJob(
            store,
            split,
            number,
            chunk,
            spec.modalities,
            packing,
            hash_input(chunk),
            spec.kinds,
            broken,
        )

    for record in records:
        waiting[record.split].append(record)
        if len(waiting[record.split]) == shard_size:
            yield make_job(record.split)
    for split in spec.splits:
        if waiting[split]:
            yield make_job(split)


def make_input_hash(
    module: ModuleType,
    raw: Path,
    files: Mapping[str, RawFile],
    settings: Mapping[str, Any],
    kinds: Mapping[str, str] = NO_KINDS,
) -> Callable[[Iterable[Record]], str]:
    """Return a function from the records of a shard to the hash of all that decides its bytes.

    That is the settings, the code of the dataset, the raw files that any record may come from, and
    of each record its fields and the checksums of the media that it names. So a changed clip
    changes one shard.
    """
    # Modules of the folder that datasets import.
    folder = Path(datasets.__file__).parent
    shared_modules = {*folder.glob("_[a-z]*.py"), *folder.glob("_[a-z]*/*.py")}
    code = sorted({Path(module.__file__ or ""), *shared_modules})
    common_inputs = {
        "settings": settings,
        "format": FORMAT,
        "code": [sha256(file) for file in code],
        "raw": {name: file.sha256 for name, file in files.items() if not file.media},
    }
    if kinds:
        common_inputs["kinds"] = {name: _describe_kind(kind) for name, kind in kinds.items()}
    common = fingerprint(common_inputs)

    def hash_input(records: Iterable[Record]) -> str:
        hasher = hashlib.sha256(common.encode())
        for record in records:
            media = {}
            for name, medium in sorted(record.media.items()):
                media[name] = _describe_medium(medium, raw, files)
            fields: list[Any] = [
                record.key,
                record.label,
                record.group,
                record.problem,
                record.left_out,
                media,
            ]
            if record.weight is not None:
                fields.append(record.weight)
            hasher.update(json.dumps(fields).encode())
        return hasher.hexdigest()[:16]

    return hash_input


def _describe_kind(kind: str) -> list[str]:
    """Return the name of a kind and, where the user wrote it, the checksum of its file."""
    if not kind.startswith(OWN):
        return [kind]
    return [kind, sha256(Path(modalities.get_module(kind).__file__ or ""))]


def _describe_medium(medium: Media, raw: Path, files: Mapping[str, RawFile]) -> Any:
    """Return what identifies a medium in an input hash; "" for one that its dataset makes."""
    if isinstance(medium, Path):
        return _describe_file(medium, raw, files)
    if isinstance(medium, Clip):
        return [*_describe_file(medium.path, raw, files), medium.start, medium.end]
    if isinstance(medium, Series) and isinstance(medium.samples, Path):
        return [*_describe_file(medium.samples, raw, files), medium.rate]
    if isinstance(medium, Unreadable):
        return ["unreadable", medium.reason]
    if isinstance(medium, (str, Mapping)):
        return medium
    return ""


def _describe_file(path: Path, raw: Path, files: Mapping[str, RawFile]) -> list[str]:
    """Return the name of a file and its checksum, "" for a file that cannot be read: packing says
    why."""
    name = path.name
    if path.is_relative_to(raw):
        name = path.relative_to(raw).as_posix()
    if name in files:
        return [name, files[name].sha256]
    try:
        return [name, sha256(path)]
    except OSError:
        return [name, ""]

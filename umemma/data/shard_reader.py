"""How shards are read, through `Store`, so from a disk, S3 or any other URL.

A shard is a WebDataset tar of encoded media (`key.audio.flac`, `key.image.png`, `key.json`), a
Parquet table with one row per sample, failed ones too, and a marker (`shard_marker.py`) that
vouches for both. `index.json` vouches for all shards. What nothing vouches for is refused: a
truncated tar would otherwise be read as samples with missing modalities.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import SerializerFunctionWrapHandler, model_serializer

from umemma.data.shard_marker import ShardMarker, list_damage, read_marker, summarize_reasons
from umemma.errors import UserError, unknown_name
from umemma.system.files import sha256
from umemma.system.storage import Store
from umemma.types import Fold, Plain, Record, TargetScale
from umemma.validation import fill_in, fingerprint, list_differences

REMAKE = "Run: umemma preprocess"
SHARD_NAME = re.compile(r"(?:[A-Za-z0-9]+|fold-\d+)-\d{6,}\.tar", re.ASCII)


class Index(Plain):
    """index.json. settings: what the shards were made with; fingerprint: the hash of the content
    of all shards, which models name as the data that they were trained on; kinds: {modality: its
    kind} of those that are not named like their kind; inputs: {modality: what its training samples
    say about its InputSpec}; folds: those that the splits are named after; fold_inputs: {number of
    a fold: `inputs` where it is tested}; defaults: those of the settings, of which one may be
    written or not; defaults_hash: of these, which the fingerprint leaves out. Each of these is left
    out where there is nothing in it."""

    dataset: str
    variant: str
    task: str
    classes: list[str]
    modalities: list[str]
    settings: dict[str, Any]
    fingerprint: str
    splits: dict[str, list[ShardMarker]]
    kinds: dict[str, str] = {}
    inputs: dict[str, dict[str, Any]] = {}
    folds: list[Fold] = []
    fold_inputs: dict[str, dict[str, dict[str, Any]]] = {}
    defaults: dict[str, Any] = {}
    defaults_hash: str = ""

    @model_serializer(mode="wrap")
    def _leave_out_empty(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep the bytes of an index, and its fingerprint, as they were before there were these."""
        data: dict[str, Any] = serialize(self)
        names = ("kinds", "inputs", "folds", "fold_inputs", "defaults", "defaults_hash")
        for name in names:
            if not data.get(name):
                data.pop(name, None)
        return data

    def select_fold(self, number: int | None) -> Index:
        """Return an index with the splits train, val and test of one fold.

        Its fingerprint names the fold. An index without folds returns itself. Raises UserError for
        a fold that there is not, and where there are folds and none is selected.
        """
        numbers = [fold.number for fold in self.folds]
        if number is None and not numbers:
            return self
        if number not in numbers:
            raise _unknown_fold(number, numbers)
        (selected,) = [fold for fold in self.folds if fold.number == number]
        splits: dict[str, list[ShardMarker]] = {"train": [], "val": [], "test": []}
        for fold in self.folds:
            name = "train"
            if fold.number == number:
                name = "test"
            elif fold.number in selected.val:
                name = "val"
            splits[name] += self.shards(fold.split)
        changes = {
            "splits": splits,
            "folds": [],
            "inputs": self.fold_inputs.get(str(number), {}),
            "fold_inputs": {},
            "fingerprint": fingerprint({"shards": self.fingerprint, "fold": number}),
        }
        return self.model_copy(update=changes)

    def shards(self, split: str) -> list[ShardMarker]:
        """Return the shards of a split. Raises UserError for an unknown split."""
        if split not in self.splits:
            raise unknown_name("split", split, self.splits, f"shards of {self.dataset}")
        return self.splits[split]

    def samples(self, split: str) -> int:
        """Return how many samples of a split the shards hold."""
        return sum(shard.samples for shard in self.shards(split))

    def compute_fingerprint(self) -> str:
        """Return what `fingerprint` has to be.

        It is the same for shards of the same content, whatever they were made from.
        """
        left_out = {"fingerprint", "splits", "defaults", "defaults_hash"}
        about = self.model_dump(mode="json", exclude=left_out)
        content: dict[str, list[list[str | int]]] = {}
        for name, shards in self.splits.items():
            content[name] = [[s.name, s.samples, s.sha256, s.rows_sha256] for s in shards]
        return fingerprint({**about, "content": content})

    def list_shards(self) -> list[ShardMarker]:
        """Return the shards of all splits."""
        return [shard for shards in self.splits.values() for shard in shards]

    def failures(self) -> str:
        """Return why samples failed: "3 x file is missing; 1 x a video with no frames"."""
        return summarize_reasons(shard.reasons for shard in self.list_shards())

    def broken(self) -> str:
        """Return which media cannot be read, of how many samples: "2 x image: file is missing"."""
        return summarize_reasons(shard.broken for shard in self.list_shards())


def _unknown_fold(number: int | None, known: list[int]) -> UserError:
    if not known:
        what = f"fold {number} is set, but the shards have no folds"
        hint = 'Set fold to "", or preprocess.options.folds and run: umemma preprocess'
        return UserError(what, "fold", hint, usage=True)
    what = f"there is no fold {number}"
    if number is None:
        what = "the shards have folds, and none is selected"
    hint = f"Set fold, say --set fold={known[0]}; there are {known[0]} to {known[-1]}."
    return UserError(what, "fold", hint, usage=True)


def read_index(store: Store, settings: Mapping[str, Any] | None = None) -> Index:
    """Return the index of the shards in `store`.

    Raises UserError where there is none, where it is damaged or altered, and where the shards were
    made with other settings than `settings`.
    """
    data = store.read("index.json")
    where = store.at("index.json")
    if data is None:
        raise UserError("not there yet", where, REMAKE)
    try:
        index = Index.model_validate_json(data)
    except ValueError:
        raise UserError("damaged: not an index of shards", where, REMAKE) from None
    if index.fingerprint != index.compute_fingerprint():
        raise UserError("altered: its fingerprint is another", where, REMAKE)
    # An index of before there was this hash has none.
    if index.defaults_hash not in ("", fingerprint(index.defaults)):
        raise UserError("altered: its defaults are others", where, REMAKE)
    for shard in index.list_shards():
        if not SHARD_NAME.fullmatch(shard.name):  # an index may come from a stranger
            raise UserError(f"{shard.name!r} is not the name of a shard", where, REMAKE)
        if shard.content_hash not in ("", shard.compute_content_hash()):
            raise UserError(f"altered: the marker of {shard.name} in it is another", where, REMAKE)
    if settings is not None:
        differences = compare_settings(index.settings, settings, index.defaults)
        if differences:
            raise UserError(
                f"shards made with other settings ({'; '.join(differences)})",
                store.url,
                REMAKE,
            )
    return index


def compare_settings(
    there: Mapping[str, Any], here: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    """Return the differences of the settings of shards. A default that is written out is none."""
    return list_differences(fill_in(there, defaults), fill_in(here, defaults))


def read_split(store: Store, index: Index, split: str) -> Iterator[Record]:
    """Yield every sample of a split, in stored order, its media as encoded bytes.

    Raises UserError for a shard that differs from the index.
    """
    for shard in index.shards(split):
        with _open_shard(store, shard) as path:
            samples = iterate_samples(path, shard.name)
            yield from _make_records(samples, store, index, split, shard)


def count_classes(store: Store, index: Index) -> dict[str, dict[str, int]]:
    """Return {class: {split: samples}}, {} in regression.

    A sample of several classes counts in each.
    """
    if index.task == "regression":
        return {}
    counts = {name: dict.fromkeys(index.splits, 0) for name in index.classes}
    for split, shards in index.splits.items():
        for shard in shards:
            for row in read_rows(store, shard, ["label", "status"]).to_pylist():
                label = row["label"]
                if not isinstance(label, list):
                    label = [label]
                if row["status"] == "ok":
                    for number in label:
                        counts[index.classes[number]][split] += 1
    return counts


def read_rows(store: Store, shard: ShardMarker, columns: list[str] | None = None) -> pa.Table:
    """Return the table of a shard, failures included. UserError where it is not what was written.

    columns: those that are needed, None for all.
    """
    data = store.read(shard.rows_name)
    if data is None:
        raise UserError("the table of a shard is missing", store.at(shard.rows_name), REMAKE)
    if hashlib.sha256(data).hexdigest() != shard.rows_sha256:
        raise explain_alteration(store, shard.rows_name)
    # Of small files a ParquetFile is twice as fast as pq.read_table.
    return pq.ParquetFile(io.BytesIO(data)).read(columns, use_threads=False)


def read_scales(store: Store, index: Index) -> list[TargetScale]:
    """Return the scale of each target over all training samples; none but in regression.

    It does not depend on the modalities that a sample has. UserError for a target that is the same
    in every training sample.
    """
    if index.task != "regression":
        return []
    labels: list[list[float]] = []
    for shard in index.shards("train"):
        for row in read_rows(store, shard, ["label", "status"]).to_pylist():
            if row["status"] == "ok":
                labels.append(row["label"])
    targets = np.array(labels, dtype=np.float64)
    scales = []
    for name, values in zip(index.classes, targets.T, strict=True):
        mean, std = float(values.mean()), float(values.std())
        if not std > 0:
            raise UserError(
                f"the target {name!r} is {mean:g} in all {len(values)} samples",
                "train shards",
                "Take it out of the targets. Check the labels: umemma doctor",
            )
        scales.append(TargetScale(mean=mean, std=std))
    return scales


@contextlib.contextmanager
def _open_shard(store: Store, shard: ShardMarker) -> Iterator[Path]:
    """Give a verified tar on this machine's disk."""
    with store.local(shard.name) as path:
        if path is None:
            raise UserError("shard is missing", store.at(shard.name), REMAKE)
        if sha256(path) != shard.sha256:
            raise explain_alteration(store, shard.name)
        yield path


def explain_alteration(store: Store, name: str, what: str = "") -> UserError:
    """Return the error for a file of a shard that is not what was written, or `what` is not."""
    hint = REMAKE  # preprocess compares the checksums of local shards
    if store.remote:
        hint = "Remove it, then run: umemma preprocess"
    return UserError(
        f"{what}shard differs from its index: truncated or altered", store.at(name), hint
    )


def _make_records(
    samples: Iterable[Mapping[str, Any]],
    store: Store,
    index: Index,
    split: str,
    shard: ShardMarker,
) -> Iterator[Record]:
    count = 0
    for sample in samples:
        count += 1
        yield _make_record(sample, split, index, store.at(shard.name))
    if count != shard.samples:
        raise UserError(
            f"{count} samples in the shard, {shard.samples} in the index",
            store.at(shard.name),
            REMAKE,
        )


def iterate_samples(tar: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield {"__key__": key, "audio.flac": bytes, ..., "json": bytes} for every sample of a tar
    that has been verified, by WebDataset's own functions."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    # WebDataset would leave a file that it opens itself to the garbage collector.
    with tar.open("rb") as file:
        yield from group_by_keys(tar_file_expander([{"url": name, "stream": file}]))


def verify_shard(store: Store, index: Index, split: str, shard: ShardMarker) -> list[str]:
    """Return a line for each thing that is wrong with a shard, its samples included."""
    damage = list_damage(store, shard)
    if damage:
        return damage
    if read_marker(store, shard.name.removesuffix(".tar")) != shard:
        return [f"{shard.marker_name} is missing or differs from the index"]
    only_this = index.model_copy(update={"splits": {split: [shard]}})
    try:
        for _ in read_split(store, only_this, split):
            pass
    except UserError as error:
        return [f"{shard.name}: {error.what}"]
    return []


class _Description(NamedTuple):
    """The `json` member of a sample. has: the modalities that are in the tar, sorted."""

    label: int | tuple[int, ...] | tuple[float, ...]
    group: str | dict[str, str]
    has: list[str]
    weight: float | None = None


def _make_record(sample: Mapping[str, Any], split: str, index: Index, where: str) -> Record:
    """Return a sample as a Record. Raises UserError for a sample that makes no sense: a checksum
    says that a shard is the one that was written, not that a stranger wrote it well."""
    key = sample["__key__"]
    description = _parse_description(sample, index)
    if description is None:
        raise UserError(
            f"sample {key!r} has no description, or one that makes no sense",
            where,
            REMAKE,
        )
    media = {}
    for name, data in sample.items():
        if name[0] != "_" and name != "json":
            media[name.split(".")[0]] = data
    if sorted(media) != description.has or not media.keys() <= set(index.modalities):
        raise UserError(f"sample {key!r} has lost media", where, REMAKE)
    weight = description.weight
    return Record(key, split, description.label, media, description.group, weight=weight)


def _parse_description(sample: Mapping[str, Any], index: Index) -> _Description | None:
    """Return the description of a sample, None where it is missing or makes no sense."""
    try:
        about = json.loads(sample["json"])
        label = about["label"]
        group = about["group"]
        has = about["has"]
    except (KeyError, ValueError, TypeError):
        return None
    if isinstance(label, list):
        label = tuple(label)
    if not _is_label(label, index) or not _is_group(group):
        return None
    weight = about.get("weight")
    if weight is not None and not isinstance(weight, float):
        return None
    return _Description(label, group, has, weight)


def _is_label(label: Any, index: Index) -> bool:
    """Return whether a label is as a Record of the task has it."""
    count = len(index.classes)
    if isinstance(label, tuple) != (index.task in ("multilabel", "regression")):
        return False
    if index.task == "regression":
        is_number = [isinstance(number, float) and math.isfinite(number) for number in label]
        return len(is_number) == count and all(is_number)
    numbers = label
    if index.task == "multiclass":
        numbers = (label,)
    return all(isinstance(number, int) and 0 <= number < count for number in numbers)


def _is_group(group: Any) -> bool:
    """Return whether a group is as a Record has it: a text, or texts by name."""
    if isinstance(group, dict):  # whose names are always texts in JSON
        return all(isinstance(text, str) for text in group.values())
    return isinstance(group, str)

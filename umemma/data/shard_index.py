"""Writes index.json, the last file of the shards, where not too many samples have failed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from loguru import logger

from umemma import modalities
from umemma.data.sample_table import read_samples
from umemma.data.shard_marker import ShardMarker, summarize_reasons
from umemma.data.shard_reader import Index, count_classes, read_rows
from umemma.data.shard_writer import to_json
from umemma.errors import UserError
from umemma.system.storage import Store
from umemma.types import DatasetSpec
from umemma.validation import fingerprint

SHOWN = 5  # samples that an error names
NO_DEFAULTS: Mapping[str, object] = MappingProxyType({})
TOGETHER = 256  # media that are asked for at once, of a bucket


def write_index(
    store: Store,
    spec: DatasetSpec,
    settings: Mapping[str, object],
    made: Mapping[str, list[ShardMarker]],
    max_failures: float,
    defaults: Mapping[str, object] = NO_DEFAULTS,
) -> Index:
    """Write the index over the shards `made` {split: shards} and remove the files of other shards.

    defaults: of `settings`, so that a reader knows which of them need not be written.
    Raises UserError where more than the share `max_failures` of the samples could not be packed or
    have a medium that cannot be read, with a summary of the reasons, where a split has no sample,
    and where the samples of a modality differ in shape.
    """
    _check_failures(store, spec, made, max_failures)
    index = Index(
        dataset=spec.name,
        variant=spec.variant,
        task=spec.task,
        classes=list(spec.classes),
        modalities=list(spec.modalities),
        settings=dict(settings),
        fingerprint="",
        splits=dict(made),
        kinds=dict(spec.kinds),
        folds=list(spec.folds),
        defaults=dict(defaults),
    )
    if defaults:
        index = index.model_copy(update={"defaults_hash": fingerprint(index.defaults)})
    index = index.model_copy(update=_survey_training(store, index))
    index = index.model_copy(update={"fingerprint": index.compute_fingerprint()})
    text = to_json(index)
    if store.read("index.json") == text.encode():
        return index
    _remove_other_shards(store, spec, index.list_shards())
    _warn_of_untrained_classes(store, index)
    with store.new("index.json") as path:
        path.write_text(text)
    return index


def _survey_training(store: Store, index: Index) -> dict[str, Any]:
    """Return the `inputs` of an index; with folds its `fold_inputs`, as each has other training
    samples."""
    if not index.folds:
        return {"inputs": _survey_inputs(store, index)}
    fold_inputs: dict[str, dict[str, dict[str, Any]]] = {}
    for fold in index.folds:
        is_first = fold is index.folds[0]  # the others have nearly the same to say
        found = _survey_inputs(store, index.select_fold(fold.number), is_first)
        if found:
            fold_inputs[str(fold.number)] = found
    return {"fold_inputs": fold_inputs}


def _survey_inputs(store: Store, index: Index, is_logged: bool = True) -> dict[str, dict[str, Any]]:
    """Return {modality: what its training samples say about its InputSpec}, and log it.

    Empty for modalities whose input depends on the encoder alone, such as images.
    """
    surveys = {}
    for name in index.modalities:
        module = modalities.get_module(index.kinds.get(name, name))
        if hasattr(module, "Survey"):
            surveys[name] = module.Survey(name)
    if not surveys:
        return {}
    for split in index.splits:
        media = read_samples(store, index, split).media
        for name, survey in surveys.items():
            rows = np.flatnonzero(media.has(name)).tolist()
            for start in range(0, len(rows), TOGETHER):
                some = rows[start : start + TOGETHER]
                for i, data in zip(some, media.read([(i, name) for i in some]), strict=True):
                    survey.add(media.keys[i], split, data)
    for name, survey in surveys.items():
        for line in survey.summarize():
            if is_logged:
                logger.info(f"{name}: {line}")
    return {name: survey.find() for name, survey in surveys.items()}


def _warn_of_untrained_classes(store: Store, index: Index) -> None:
    """Warn of classes that other splits have and train lacks; of folds the doctor says it."""
    if index.folds or "train" not in index.splits:
        return
    unseen = []
    for name, samples in count_classes(store, index).items():
        if not samples["train"] and any(samples.values()):
            unseen.append(name)
    if unseen:
        names = ", ".join(repr(name) for name in unseen[:SHOWN])
        more = ", ..." if len(unseen) > SHOWN else ""
        logger.warning(
            f"Without a training sample, though other splits have some: {names}{more} "
            f"({len(unseen)} of {len(index.classes)} classes). No model learns these."
        )


def _check_failures(
    store: Store,
    spec: DatasetSpec,
    made: Mapping[str, list[ShardMarker]],
    max_failures: float,
) -> None:
    shards = [shard for in_split in made.values() for shard in in_split]
    failed = sum(shard.failed for shard in shards)
    broken = sum(shard.broken_samples for shard in shards)
    total = failed + sum(shard.samples for shard in shards)
    if failed + broken > max_failures * total:
        raise _too_many_failures(store, spec, shards, failed, broken, total)
    for split in spec.splits:
        if not sum(shard.samples for shard in made[split]):
            reasons = summarize_reasons(shard.reasons for shard in made[split])
            raise UserError(
                f"no sample of split {split!r} could be packed",
                spec.name,
                f"Correct the files: {reasons}. See: umemma doctor {spec.name}",
            )


def _too_many_failures(
    store: Store,
    spec: DatasetSpec,
    shards: list[ShardMarker],
    failed: int,
    broken: int,
    total: int,
) -> UserError:
    """Return the error that names the reasons, the first samples and the two settings that
    decide."""
    lines = []
    if failed:
        reasons = summarize_reasons(shard.reasons for shard in shards)
        lines.append(f"{failed} of {total} samples could not be packed: {reasons}")
    if broken:
        reasons = summarize_reasons(shard.broken for shard in shards)
        lines.append(f"{broken} of {total} samples have a medium that can't be read: {reasons}")
    keys = list(itertools.islice(_iterate_failed_keys(store, shards), SHOWN + 1))
    names = ", ".join(keys[:SHOWN])
    if len(keys) > SHOWN:
        names += ", ..."
    lines.append(f"They are {names}; {store.at('*.parquet')} say why for each sample.")
    share = math.ceil(1000 * (failed + broken) / total) / 1000
    hint = (
        f"Correct the files (umemma doctor {spec.name} names them) and run: "
        "umemma preprocess --retry-failed\n"
        f"Or allow a share of failures with preprocess.max_failures: {share:g}."
    )
    if broken:
        hint += (
            " A medium that can't be read is absent then; preprocess.broken: fail drops its sample."
        )
    return UserError("\n".join(lines), spec.name, hint)


def _iterate_failed_keys(store: Store, shards: Iterable[ShardMarker]) -> Iterator[str]:
    """Yield the keys of the samples that failed or have a medium that cannot be read."""
    columns = ["key", "status", "reason"]
    for shard in shards:
        if not shard.has_failures:
            continue
        for row in read_rows(store, shard, columns).to_pylist():
            if row["reason"] and row["status"] != "left out":
                yield row["key"]


def _remove_other_shards(store: Store, spec: DatasetSpec, shards: Iterable[ShardMarker]) -> None:
    """Remove the files of shards that are not part of the index, and no other files."""
    known: set[str] = set()
    for shard in shards:
        known |= {shard.name, shard.rows_name, shard.marker_name}
    splits = "|".join([*spec.splits, *DatasetSpec.splits, r"fold-\d+"])
    pattern = re.compile(rf"({splits})-\d{{6,}}\.(tar|parquet|json)")
    for name in set(store.list_names()) - known:
        if pattern.fullmatch(name):
            store.remove(name)

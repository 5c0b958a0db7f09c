"""doctor: what there is of a dataset, what is wrong with it and what to do about it. Reads everything, changes nothing.

Media are looked at, not decoded (umemma/modalities/probe.py): a clip that is damaged inside is found by preprocess only.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import operator
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from umemma import datasets, modalities
from umemma.config import Params, Preprocess
from umemma.data import raw_folder
from umemma.data.archives import find_target
from umemma.data.shard_plan import count_records, mark_problems
from umemma.errors import UserError
from umemma.modalities.probe import SOUNDLESS, Probe, probe
from umemma.reports.doctor import Report, Some, SplitReport, show
from umemma.system.files import file_size, find_mismatch, sha256
from umemma.system.log import make_progress
from umemma.types import BrokenPolicy, Clip, DatasetSpec, Media, Plain, Record, Source
from umemma.validation import validate

UNLISTED = "none listed"


def run(params: Params, as_json: bool) -> int:
    """Print the report. The exit status: 1 when something needs the user, else 0. UserError for wrong settings."""
    report = examine(params)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        show(report, datasets.get_module(params.dataset).SPEC)
    return 1 if report.needs else 0


def examine(params: Params) -> Report:
    """UserError for wrong settings only; any other becomes one of the needs."""
    module, section, raw = datasets.get_module(params.dataset), params.preprocess, params.paths.raw
    options = validate(module.Options, section.options, "settings", "preprocess.options")
    spec: DatasetSpec = module.SPEC
    report = Report(spec.name, spec.variant, spec.licence, spec.citation, str(raw))
    get = f"umemma download {params.dataset}"
    digests = _check_raw(report, raw, get)
    report.to_get = _to_get(module, raw, options)
    if report.to_get and not report.needs:
        report.needs.append(f"Get the raw files that are not in place. Run: {get}")
    try:
        spec = module.spec(raw, options)
        report.variant = spec.variant
        named = _check_samples(report, module, spec, raw, options, section)
    except UserError as error:
        if error.usage:
            raise
        if not report.to_get:  # else it follows from what isn't in place
            report.needs.append(str(error))
        return report
    _check_content(report, raw, named, digests)
    _conclude(report, spec, section.max_failures, options)
    return report


# The raw files. -------------------------------------------------------------------------------------------------------


def _check_raw(report: Report, raw: Path, get: str) -> dict[str, str]:
    """The raw files against download.json. {name: sha256} of those that are as it says."""
    try:
        files = raw_folder.read_raw_files(raw, f"Run: {get}")
    except UserError as error:
        report.files = len(raw_folder.list_files(raw))
        there = (raw / "download.json").exists()
        report.needs.append(
            str(error)
            if there
            else f"Put the raw files in place, or have them verified. Run: {get}"
        )
        return {}
    report.described, report.files, report.size = (
        True,
        len(files),
        sum(file.size for file in files.values()),
    )
    digests = {}

    def digest(name: str) -> str | None:
        if (size := file_size(raw / name)) is None:
            return None
        return _digest(raw / name) if size == files[name].size else ""

    with make_progress() as bars:
        bar = bars.add_task("doctor: checksums", total=len(files), note="")
        for name, found in zip(files, raw_folder.map_in_threads(digest, files), strict=True):
            if found is None:
                report.missing.add(name)
            elif found != files[name].sha256:
                report.altered.add(name)
            else:
                digests[name] = found
            bars.advance(bar)
    if report.missing.count:
        report.needs.append(
            f"Raw files that are gone: {report.missing.count:,} ({report.missing}). Run: {get}"
        )
    if report.altered.count:
        report.needs.append(
            f"Raw files that differ from download.json: {report.altered.count:,} ({report.altered}). Delete those that "
            f"are damaged. Then, or if the changes are your own, run: {get}"
        )
    return digests


def _digest(path: Path) -> str:
    """sha256, "" for what can't be read."""
    try:
        return sha256(path)
    except OSError:
        return ""


def _to_get(module: ModuleType, raw: Path, options: Plain) -> list[dict[str, Any]]:
    """The sources that are not in place, as far as they can be told."""
    sources: list[Source] = []
    try:
        for source in module.sources(raw, options):
            sources.append(source)
    except (UserError, OSError):
        pass  # the next ones follow from a file that isn't there; what came before it counts
    own = {source.path for source in sources if not source.unpack}
    names = [name for name in raw_folder.list_files(raw) if name not in own]
    held: dict[
        Callable[[str], str | None], int
    ] = {}  # files in place by where they come from: many tars share a rule

    def in_place(source: Source) -> bool:
        if not source.unpack:
            return not find_mismatch(raw / source.path, source)
        if source.unpack not in held:
            held[source.unpack] = sum(find_target(source.unpack, name) == name for name in names)
        return held[source.unpack] >= (1 if source.media else max(source.files, 1))

    return [
        {
            "path": one.path,
            "size": one.size,
            "urls": list(one.urls),
            "made": bool(one.make),
            "steps": one.steps,
        }
        for one in sources
        if not in_place(one)
    ]


# The samples. ---------------------------------------------------------------------------------------------------------


def _check_samples(
    report: Report,
    module: ModuleType,
    spec: DatasetSpec,
    raw: Path,
    options: Plain,
    section: Preprocess,
) -> dict[Path, int]:
    """Every record, and a look at its media. {media file: the splits whose samples name it, bit i for the i-th}."""
    counts, repeated = count_records(module.records(raw, options))
    report.splits = {split: SplitReport(spec.expected.get(split)) for split in spec.splits}
    report.classes = {name: {split: [0, 0] for split in spec.splits} for name in spec.classes}
    bits = {split: 1 << number for number, split in enumerate(spec.splits)}
    named: dict[Path, int] = {}
    homes: dict[tuple[str, str], int] = {}  # of a (grouping, group), likewise
    soundless: set[Path | str] = set()

    def look(record: Record) -> tuple[Record, Probe | None]:
        return record, None if record.problem or record.left_out else probe(
            record.media, section.media
        )

    with warnings.catch_warnings(), make_progress() as bars:
        warnings.simplefilter("ignore")
        bar = bars.add_task("doctor: samples", total=counts.total(), note="")
        for record, found in raw_folder.map_in_threads(
            look, mark_problems(module.records(raw, options), spec, repeated)
        ):
            _count(report, spec, record, found, section.broken, soundless)
            if found:
                for group in (record.groups or {"group": record.key}).items():
                    homes[group] = homes.get(group, 0) | bits[record.split]
                for path in filter(None, map(_path, record.media.values())):
                    named[path] = named.get(path, 0) | bits[record.split]
            bars.advance(bar)
    report.soundless_files = len(soundless)
    for pair in itertools.combinations(spec.splits, 2):
        both = bits[pair[0]] | bits[pair[1]]
        for (name, member), home in homes.items():
            if home & both == both:
                grouping = f" ({name})" if name != "group" else ""
                report.leaks.setdefault(" and ".join(pair) + grouping, Some()).add(member)
    return named


def _count(
    report: Report,
    spec: DatasetSpec,
    record: Record,
    found: Probe | None,
    policy: BrokenPolicy,
    soundless: set[Path | str],
) -> None:
    """Put one sample into the tallies. found: None where it isn't looked at."""
    if record.split not in report.splits:
        raise UserError(f"the split {record.split!r} is not one of the dataset's", spec.name)
    split, example, problem = report.splits[record.split], record.key, record.problem
    if problem == "duplicate id":
        report.duplicate_ids.add(record.key)
    reason = ""
    if found:
        reason = "; ".join(modalities.format_reasons(found.broken))
        paths = dict.fromkeys(
            str(path) for path in map(_path, map(record.media.__getitem__, found.broken)) if path
        )
        example += f" ({', '.join(paths)})" if paths else ""
        left = record.media.keys() - found.absent.keys() - found.broken.keys()
        if not left or (reason and policy == "fail"):
            problem = reason or "no modality at all"
    usable = found is not None and not problem
    split.listed += 1
    split.usable += usable
    for number in record.label if isinstance(record.label, tuple) else (record.label,):
        if number is not None and 0 <= number < len(spec.classes):
            tally = report.classes[spec.classes[number]][record.split]
            tally[0] += 1
            tally[1] += usable
    if problem:
        split.unusable += 1
        report.unusable.setdefault(problem, Some()).add(example)
    elif not found:
        split.left_out += 1
        report.left_out.setdefault(record.left_out, Some()).add(example)
    else:
        if reason:
            report.broken.setdefault(reason, Some()).add(example)
        report.not_looked_into += bool(found.unseen)
        lacking = dict.fromkeys(spec.modalities, UNLISTED) | dict.fromkeys(record.media, "")
        lacking |= found.absent | found.broken
        for name in spec.modalities:
            if why := lacking[name]:
                reasons = report.absent.setdefault(name, {})
                reasons.setdefault(why, dict.fromkeys(spec.splits, 0))[record.split] += 1
            if why == SOUNDLESS:
                soundless.add(_path(record.media[name]) or record.key)


def _path(one: Media) -> Path | None:
    return one.path if isinstance(one, Clip) else one if isinstance(one, Path) else None


def _check_content(
    report: Report, raw: Path, named: Mapping[Path, int], digests: Mapping[str, str]
) -> None:
    """Media files with the same bytes. Only files of the same size are compared; what `digests` has isn't read again."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in named:
        if size := file_size(path):
            by_size[size].append(path)
    twins = [path for paths in by_size.values() if len(paths) > 1 for path in paths]
    if not twins:
        return

    def digest(path: Path) -> str:
        known = digests.get(path.relative_to(raw).as_posix()) if path.is_relative_to(raw) else None
        return known or _digest(path)

    same: dict[str, list[Path]] = defaultdict(list)
    with make_progress() as bars:
        bar = bars.add_task("doctor: duplicates", total=len(twins), note="")
        for path, found in zip(twins, raw_folder.map_in_threads(digest, twins), strict=True):
            same[found].append(path)
            bars.advance(bar)
    for found, paths in same.items():
        if found and len(paths) > 1:
            report.same_content.add(" = ".join(map(str, paths)))
            if functools.reduce(operator.or_, (named[path] for path in paths)).bit_count() > 1:
                report.across_splits.add(" = ".join(map(str, paths)))


# What follows from it. ------------------------------------------------------------------------------------------------


def _conclude(report: Report, spec: DatasetSpec, max_failures: float, options: Plain) -> None:
    notes, needs = report.notes, report.needs
    for name, split in report.splits.items():
        if split.expected not in (None, split.listed):
            notes.append(
                f"{name}: {split.listed:,} samples are listed; the official number is {split.expected:,}."
            )
    if lacking := [name for name, split in report.splits.items() if not split.usable]:
        needs.append(
            f"No usable sample in {', '.join(lacking)}: preprocess needs some in each split."
        )
    for name in spec.splits:
        empty = Some()
        for one, splits in report.classes.items():
            if report.splits[name].usable and not splits[name][1]:
                empty.add(one)
        if empty.count:
            notes.append(f"{name}: classes without a usable sample: {empty.count:,} ({empty}).")
    hint = (
        " To leave them out: preprocess.options.leaks: drop"
        if getattr(options, "leaks", "") == "keep"
        else ""
    )
    for pair, groups in report.leaks.items():
        notes.append(f"Groups with samples in {pair}: {groups.count:,} ({groups}).{hint}")
    if (same := report.same_content).count:
        shown = report.across_splits if report.across_splits.count else same
        across = f"{report.across_splits.count:,} of them across splits"
        notes.append(
            f"Sets of media files with the same content: {same.count:,}, {across} ({shown})."
        )
    if report.soundless_files:
        notes.append(f"Files without sound, where sound was asked for: {report.soundless_files:,}.")
    if report.not_looked_into:
        notes.append(
            f"Samples with media that only preprocess makes, not looked into: {report.not_looked_into:,}."
        )
    failed = sum(split.unusable for split in report.splits.values())
    broken = sum(some.count for some in report.broken.values())
    total = failed + sum(split.usable for split in report.splits.values())
    if failed + broken > max_failures * total:
        share = math.ceil(1000 * (failed + broken) / total) / 1000
        accept = f", or accept it with preprocess.max_failures: {share:g}" if failed < total else ""
        if broken:
            accept += (
                " (the media count as absent then; preprocess.broken: fail drops their samples)"
            )
        besides = f" and {broken:,} have a medium that can't be read" if broken else ""
        needs.append(
            f"{failed:,} of {total:,} samples can't be used{besides}, more than preprocess.max_failures: {max_failures:g} "
            f"allows. The reasons are above: mend them{accept}."
        )
    if report.duplicate_ids.count:
        needs.append(
            f"Samples whose id another one has: {report.duplicate_ids.count:,} ({report.duplicate_ids})."
        )

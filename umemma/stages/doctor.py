"""doctor: what there is of a dataset, what is wrong with it and what to do about it. Reads everything, changes nothing.

Media are looked at, not decoded (umemma/modalities/probe.py): a clip that is damaged inside is found by preprocess only.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import operator
import re
import textwrap
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from umemma import datasets, fetch
from umemma.checks import checked
from umemma.config import Params
from umemma.contracts import Clip, DatasetSpec, Media, Packing, Plain, Record, Source
from umemma.errors import UserError
from umemma.files import sha256
from umemma.log import output, progress
from umemma.modalities.probe import SOUNDLESS, Probe, probe

Item = TypeVar("Item")
Answer = TypeVar("Answer")
SHOWN = 5  # examples of each kind
UNLISTED = "none listed"


@dataclass
class Some:
    """A count, and the first few of what was counted."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < SHOWN:
            self.examples.append(example)

    def __str__(self) -> str:
        return ", ".join(self.examples) + (", ..." if self.count > len(self.examples) else "")


@dataclass
class Split:
    """Samples. expected: by the official lists, None where they don't say; unusable: they will fail in preprocess."""

    expected: int | None = None
    listed: int = 0
    left_out: int = 0
    unusable: int = 0
    usable: int = 0


@dataclass
class Report:
    """What was found; --json prints it as it stands.

    to_get: sources that aren't in place. classes: {class: {split: [samples listed, usable]}}; a sample of several classes
    counts in each. unusable, left_out: samples by reason. absent: {modality: {why: {split: usable samples without it}}}.
    soundless_files: files whose sound was asked for and which have none; not_looked_into: usable samples with media that
    a function makes. leaks: {"train and test": groups in both}. same_content: sets of media files with the same bytes;
    across_splits: those whose samples are of different splits. notes: what is worth knowing; needs: what the user has to
    do, in order.
    """

    dataset: str
    variant: str
    licence: str
    citation: str
    folder: str
    described: bool = False  # by a download.json
    files: int = 0
    size: int = 0  # bytes
    missing: Some = field(default_factory=Some)
    altered: Some = field(default_factory=Some)
    to_get: list[dict[str, Any]] = field(default_factory=list)
    splits: dict[str, Split] = field(default_factory=dict)
    classes: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    unusable: dict[str, Some] = field(default_factory=dict)
    left_out: dict[str, Some] = field(default_factory=dict)
    duplicate_ids: Some = field(default_factory=Some)
    absent: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    soundless_files: int = 0
    not_looked_into: int = 0
    leaks: dict[str, Some] = field(default_factory=dict)
    same_content: Some = field(default_factory=Some)
    across_splits: Some = field(default_factory=Some)
    notes: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)


def run(params: Params, as_json: bool) -> int:
    """Print the report. The exit status: 1 when something needs the user, else 0. UserError for wrong settings."""
    report = examine(params)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        show(report, datasets.get(params.dataset).SPEC)
    return 1 if report.needs else 0


def examine(params: Params) -> Report:
    """UserError for wrong settings only; any other becomes one of the needs."""
    module, section, raw = datasets.get(params.dataset), params.preprocess, params.paths.raw
    options = checked(module.Options, section.options, "settings", "preprocess.options")
    spec: DatasetSpec = module.SPEC
    report = Report(spec.name, spec.variant, spec.licence, spec.citation, str(raw))
    digests = _check_raw(report, raw, f"umemma download {params.dataset}")
    report.to_get = _to_get(module, raw, options)
    try:
        spec = module.spec(raw, options)
        report.variant = spec.variant
        named = _check_samples(report, module, spec, raw, options, section.media)
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
        files = fetch.raw_files(raw, f"Run: {get}")
    except UserError as error:
        report.files = len(fetch.tree(raw))
        there = (raw / "download.json").exists()
        report.needs.append(str(error) if there else f"Put the raw files in place, or have them verified. Run: {get}")
        return {}
    report.described, report.files, report.size = True, len(files), sum(file.size for file in files.values())
    digests = {}

    def digest(name: str) -> str | None:
        path = raw / name
        if not path.is_file():
            return None
        return _digest(path) if path.stat().st_size == files[name].size else ""

    with progress() as bars:
        bar = bars.add_task("doctor: checksums", total=len(files), note="")
        for name, found in zip(files, fetch.parallel(digest, files), strict=True):
            if found is None:
                report.missing.add(name)
            elif found != files[name].sha256:
                report.altered.add(name)
            else:
                digests[name] = found
            bars.advance(bar)
    if report.missing.count:
        report.needs.append(f"Raw files that are gone: {report.missing.count:,} ({report.missing}). Run: {get}")
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
    names = [name for name in fetch.tree(raw) if name not in own]
    held: dict[Callable[[str], str | None], int] = {}  # files in place by where they come from: many tars share a rule

    def in_place(source: Source) -> bool:
        if not source.unpack:
            return not fetch.matches(raw / source.path, source)
        if source.unpack not in held:
            held[source.unpack] = sum(fetch.wanted(source.unpack, name) == name for name in names)
        return held[source.unpack] >= (1 if source.media else max(source.files, 1))

    return [
        {"path": one.path, "size": one.size, "urls": list(one.urls), "made": bool(one.make), "steps": one.steps}
        for one in sources
        if not in_place(one)
    ]


# The samples. ---------------------------------------------------------------------------------------------------------


def _check_samples(
    report: Report, module: ModuleType, spec: DatasetSpec, raw: Path, options: Plain, packing: Packing
) -> dict[Path, int]:
    """Every record, and a look at its media. {media file: the splits whose samples name it, bit i for the i-th}."""
    total = sum(1 for _ in module.records(raw, options))
    report.splits = {split: Split(spec.expected.get(split)) for split in spec.splits}
    report.classes = {name: {split: [0, 0] for split in spec.splits} for name in spec.classes}
    bits = {split: 1 << number for number, split in enumerate(spec.splits)}
    named: dict[Path, int] = {}
    homes: dict[str, int] = {}  # of a group, likewise
    soundless: set[Path | str] = set()

    def look(record: Record) -> Probe | None:
        return None if record.problem or record.left_out else probe(record.media, packing)

    with warnings.catch_warnings(), progress() as bars:
        bar = bars.add_task("doctor: samples", total=total, note="")
        for record, found in _in_threads(look, _marked(report, module.records(raw, options), spec)):
            _count(report, spec, record, found, soundless)
            if found:
                group = record.group or record.key
                homes[group] = homes.get(group, 0) | bits[record.split]
                for path in filter(None, map(_path, record.media.values())):
                    named[path] = named.get(path, 0) | bits[record.split]
            bars.advance(bar)
    report.soundless_files = len(soundless)
    for pair in itertools.combinations(spec.splits, 2):
        both = bits[pair[0]] | bits[pair[1]]
        for group in (group for group, home in homes.items() if home & both == both):
            report.leaks.setdefault(" and ".join(pair), Some()).add(group)
    return named


def _count(report: Report, spec: DatasetSpec, record: Record, found: Probe | None, soundless: set[Path | str]) -> None:
    """Put one sample into the tallies. found: None where it isn't looked at."""
    if record.split not in report.splits:
        raise UserError(f"the split {record.split!r} is not one of the dataset's", spec.name)
    split, example, problem = report.splits[record.split], record.key, record.problem
    if found and found.problem:
        problem = found.problem
        example += f" ({path})" if (path := _path(record.media[found.at])) else ""
    elif found and not record.media.keys() - found.absent.keys():
        problem = "no modality at all"
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
        report.not_looked_into += bool(found.unseen)
        for name in spec.modalities:
            if why := found.absent.get(name, "") if name in record.media else UNLISTED:
                reasons = report.absent.setdefault(name, {})
                reasons.setdefault(why, dict.fromkeys(spec.splits, 0))[record.split] += 1
            if why == SOUNDLESS:
                soundless.add(_path(record.media[name]) or record.key)


def _marked(report: Report, records: Iterable[Record], spec: DatasetSpec) -> Iterator[Record]:
    """The records, with a problem where preprocess refuses to store them."""
    seen: set[bytes] = set()
    for record in records:
        labels = record.label if isinstance(record.label, tuple) else (record.label,)
        key = hashlib.blake2b(record.key.encode(), digest_size=8).digest()
        problem = ""
        if key in seen:
            problem = "duplicate id"
            report.duplicate_ids.add(record.key)
        seen.add(key)
        if not re.fullmatch(r"[\w-]+", record.key, re.ASCII):
            problem = "an id with other characters than letters, digits, '_' and '-'"
        elif isinstance(record.label, tuple) != (spec.task == "multilabel") and record.label is not None:
            problem = f"not the label of a {spec.task} task"
        elif not all(n is not None and 0 <= n < len(spec.classes) for n in labels):
            problem = "label out of range"
        yield replace(record, problem=problem) if problem and not (record.problem or record.left_out) else record


def _path(one: Media) -> Path | None:
    return one.path if isinstance(one, Clip) else one if isinstance(one, Path) else None


def _in_threads(work: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[tuple[Item, Answer]]:
    """Each item with its answer, in order. Few are under way at a time: a list may be longer than memory."""
    under_way: deque[tuple[Item, Future[Answer]]] = deque()
    with ThreadPoolExecutor() as pool:
        try:
            for item in items:
                under_way.append((item, pool.submit(work, item)))
                if len(under_way) > 64:
                    first, future = under_way.popleft()
                    yield first, future.result()
            for first, future in under_way:
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _check_content(report: Report, raw: Path, named: Mapping[Path, int], digests: Mapping[str, str]) -> None:
    """Media files with the same bytes. Only files of the same size are compared; what `digests` has isn't read again."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in named:
        if path.is_file() and (size := path.stat().st_size):
            by_size[size].append(path)
    twins = [path for paths in by_size.values() if len(paths) > 1 for path in paths]
    if not twins:
        return

    def digest(name: str) -> str:
        path = Path(name)
        known = digests.get(path.relative_to(raw).as_posix()) if path.is_relative_to(raw) else None
        return known or _digest(path)

    same: dict[str, list[Path]] = defaultdict(list)
    with progress() as bars:
        bar = bars.add_task("doctor: duplicates", total=len(twins), note="")
        for path, found in zip(twins, fetch.parallel(digest, map(str, twins)), strict=True):
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
            notes.append(f"{name}: {split.listed:,} samples are listed; the official number is {split.expected:,}.")
    if lacking := [name for name, split in report.splits.items() if not split.usable]:
        needs.append(f"No usable sample in {', '.join(lacking)}: preprocess needs some in each split.")
    for name in spec.splits:
        if empty := [
            one for one, splits in report.classes.items() if report.splits[name].usable and not splits[name][1]
        ]:
            notes.append(f"{name}: no usable sample of {', '.join(empty)}.")
    hint = " To leave them out: preprocess.options.leaks: drop" if getattr(options, "leaks", "") == "keep" else ""
    for pair, groups in report.leaks.items():
        notes.append(f"Groups with samples in {pair}: {groups.count:,} ({groups}).{hint}")
    if (same := report.same_content).count:
        shown = report.across_splits if report.across_splits.count else same
        across = f"{report.across_splits.count:,} of them across splits"
        notes.append(f"Sets of media files with the same content: {same.count:,}, {across} ({shown}).")
    if report.soundless_files:
        notes.append(f"Files without sound, where sound was asked for: {report.soundless_files:,}.")
    if report.not_looked_into:
        notes.append(f"Samples with media that only preprocess makes, not looked into: {report.not_looked_into:,}.")
    failed = sum(split.unusable for split in report.splits.values())
    total = failed + sum(split.usable for split in report.splits.values())
    if failed > max_failures * total:
        accept = f", or accept it with preprocess.max_failures: {math.ceil(1000 * failed / total) / 1000:g}"
        needs.append(
            f"{failed:,} of {total:,} samples can't be used, more than preprocess.max_failures: {max_failures:g} allows. "
            f"The reasons are above: mend them{accept if failed < total else ''}."
        )
    if report.duplicate_ids.count:
        needs.append(f"Samples whose id another one has: {report.duplicate_ids.count:,} ({report.duplicate_ids}).")


# For people. ----------------------------------------------------------------------------------------------------------


def show(report: Report, spec: DatasetSpec) -> None:
    """The report on stdout."""
    _say(f"{report.dataset}: {spec.summary}", "bold")
    for name in ("variant", "licence", "citation"):
        if text := getattr(report, name):
            _say(f"  {name:<10}{text}")
    state = "no download.json describes them"
    if report.described:
        state = f"{decimal(report.size)}, {report.missing.count:,} gone, {report.altered.count:,} altered"
        state = state.replace(", 0 gone, 0 altered", ", all as download.json says")
    _say(f"  {'raw files':<10}{report.folder}: {report.files:,} files, {state}")
    _show_to_get(report, spec)
    if report.splits:
        _show_samples(report)
    if report.notes:
        _say("\nWorth knowing", "bold")
        for note in report.notes:
            _say(f"  - {note}")
    if not report.needs:
        _say("\nNothing needs you.", "bold green")
        return
    count = len(report.needs)
    _say("\n1 thing needs you:" if count == 1 else f"\n{count} things need you:", "bold red")
    for number, need in enumerate(report.needs, 1):
        _say(f"  {number}. " + need.replace("\n", "\n     "))


def _show_to_get(report: Report, spec: DatasetSpec) -> None:
    if not report.to_get:
        return
    sizes = f" (in all {decimal(spec.size)} to download, at the most {decimal(spec.disk)} of disk)" if spec.size else ""
    _say(f"\nNot in place{sizes}", "bold")
    for source in report.to_get[: 2 * SHOWN]:
        size = f", {decimal(source['size'])}" if source["size"] else ""
        where = "made by umemma download" if source["made"] else " or ".join(source["urls"]) or "see the steps"
        _say(f"  {source['path']}{size}: {where}")
    if (more := len(report.to_get) - 2 * SHOWN) > 0:
        _say(f"  ... and {more:,} more")
    for steps in dict.fromkeys(source["steps"] for source in report.to_get if source["steps"]):
        _say("\nSteps", "bold")
        _say(textwrap.indent(steps, "  "))


def _show_samples(report: Report) -> None:
    rows = []
    for name, split in report.splits.items():
        expected = "-" if split.expected is None else f"{split.expected:,}"
        rows.append((name, expected, *_counts(split.listed, split.left_out, split.unusable, split.usable)))
    _show_table("Samples", ("split", "expected", "listed", "left out", "unusable", "usable"), rows)
    rows = []
    for name, splits in report.classes.items():
        cells = (
            f"{usable:,}" if usable == listed else f"{usable:,} of {listed:,}" for listed, usable in splits.values()
        )
        rows.append((name, *cells))
    _show_table("Usable samples of each class", ("class", *report.splits), rows)
    rows = [
        (f"{modality}: {why}", *_counts(*splits.values()))
        for modality, reasons in report.absent.items()
        for why, splits in reasons.items()
    ]
    _show_table("Usable samples that lack a modality", ("modality", *report.splits), rows)
    for title, found in (("Unusable samples", report.unusable), ("Left out by the settings", report.left_out)):
        if found:
            _say(f"\n{title}", "bold")
        for reason, some in sorted(found.items(), key=lambda item: -item[1].count):
            _say(f"  {some.count:,} x {reason}")
            _say(f"      {some}", "dim")


def _counts(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{number:,}" for number in numbers)


def _show_table(title: str, headings: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for name, *cells in rows:
        table.add_row(Text(name), *cells)
    _say(f"\n{title}", "bold")
    output.print(table)


def _say(text: str, style: str = "") -> None:
    """Lines as they are: names and ids may hold brackets, which mean something to rich."""
    output.print(Text(text, style=style), soft_wrap=True)

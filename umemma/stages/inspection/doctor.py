"""doctor: which samples a dataset has, what is wrong with them and what to do about it.

The stage reads everything and changes nothing. Media are examined, not decoded (see
umemma/modalities/probe.py): only preprocess finds a clip that is damaged inside.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from umemma import datasets, modalities
from umemma.config import Params, Preprocess
from umemma.data import raw_folder
from umemma.data.shard_plan import count_records, mark_problems
from umemma.errors import UserError
from umemma.modalities.probe import SOUNDLESS, Probe, probe
from umemma.reports.doctor.advice import add_advice
from umemma.reports.doctor.inputs import SampleInputs
from umemma.reports.doctor.raw_files import (
    check_raw_files,
    find_equal_files,
    list_missing_sources,
)
from umemma.reports.doctor.report import DoctorReport, Examples, SplitCounts
from umemma.reports.doctor.terminal import print_report
from umemma.system.log import make_progress
from umemma.types import (
    BrokenPolicy,
    Clip,
    DatasetSpec,
    Media,
    Plain,
    Record,
    Series,
)

UNLISTED = "none listed"


def run(params: Params, as_json: bool) -> int:
    """Print the report. Returns the exit status: 1 where the user has to correct something, else 0.

    Raises UserError for wrong settings.
    """
    report = examine(params)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print_report(report, datasets.get_module(params.dataset).SPEC)
    if report.needs:
        return 1
    return 0


def examine(params: Params) -> DoctorReport:
    """Return the report. Raises UserError for wrong settings; any other error becomes a need."""
    module = datasets.get_module(params.dataset)
    section = params.preprocess
    raw = params.paths.raw
    options = datasets.read_options(module, section.options, params.modalities)
    spec: DatasetSpec = module.SPEC
    report = DoctorReport(spec.name, spec.variant, spec.licence, spec.citation, str(raw))
    command = f"umemma download {params.dataset}"
    digests = check_raw_files(report, raw, command)
    report.to_get = list_missing_sources(module, raw, options)
    if report.to_get and not report.needs:
        report.needs.append(f"Raw files are missing. Run: {command}")
    try:
        spec = module.spec(raw, options)
        report.variant = spec.variant
        report.folds = {fold.split: fold.group for fold in spec.folds}
        inputs = SampleInputs(spec)
        splits_of_files = _examine_samples(report, module, spec, raw, options, section, inputs)
    except UserError as error:
        if error.usage:
            raise
        if not report.to_get:  # otherwise the error follows from the missing files
            report.needs.append(str(error))
        return report
    find_equal_files(report, raw, splits_of_files, digests)
    add_advice(report, spec, section.max_failures, options)
    report.notes.extend(inputs.describe(params))
    return report


# The samples. -------------------------------------------------------------------------------------


def _examine_samples(
    report: DoctorReport,
    module: ModuleType,
    spec: DatasetSpec,
    raw: Path,
    options: Plain,
    section: Preprocess,
    inputs: SampleInputs,
) -> dict[Path, int]:
    """Count every record, examine its media, and add what it has to `inputs`.

    Returns {media file: the splits whose samples name it, bit i for the i-th split}.
    """
    counts, repeated = count_records(module.records(raw, options))
    tally = _SampleTally(report, spec, section.broken)

    def look(record: Record) -> tuple[Record, Probe | None]:
        if record.problem or record.left_out:
            return record, None
        return record, probe(record.media, section.media, spec.kinds)

    records = mark_problems(module.records(raw, options), spec, repeated)
    with warnings.catch_warnings(), make_progress() as bars:
        warnings.simplefilter("ignore")
        bar = bars.add_task("doctor: samples", total=counts.total(), note="")
        for record, media_probe in raw_folder.map_in_threads(look, records):
            tally.add(record, media_probe)
            if media_probe:
                inputs.add(record, media_probe)
            bars.advance(bar)
    report.soundless_files = len(tally.soundless)
    tally.find_leaks()
    return tally.splits_of_files


class _SampleTally:
    """Counts samples into the report. Bit i of a set of splits stands for the i-th split."""

    def __init__(self, report: DoctorReport, spec: DatasetSpec, policy: BrokenPolicy) -> None:
        self.report = report
        self.spec = spec
        self.policy = policy
        self.bits = {split: 1 << number for number, split in enumerate(spec.splits)}
        self.splits_of_files: dict[Path, int] = {}
        self.splits_of_groups: dict[tuple[str, str], int] = {}  # of (grouping, group)
        self.soundless: set[Path | str] = set()
        for split in spec.splits:
            report.splits[split] = SplitCounts(spec.expected.get(split))
        for class_name in spec.classes:
            report.classes[class_name] = {split: [0, 0] for split in spec.splits}

    def add(self, record: Record, media_probe: Probe | None) -> None:
        """Count a sample. media_probe: None where its media were not examined."""
        if record.split not in self.report.splits:
            raise UserError(
                f"the split {record.split!r} is not one of the dataset's", self.spec.name
            )
        if record.problem == "duplicate id":
            self.report.duplicate_ids.add(record.key)
        problem = record.problem
        reason = ""
        if media_probe:
            reason = "; ".join(modalities.format_reasons(media_probe.broken))
            problem = problem or self._find_problem(record, media_probe, reason)
        self._count(record, is_usable=media_probe is not None and not problem)
        split = self.report.splits[record.split]
        example = _describe_sample(record, media_probe)
        if problem:
            split.unusable += 1
            _count_reason(self.report.unusable, problem, example)
        elif media_probe is None:
            split.left_out += 1
            _count_reason(self.report.left_out, record.left_out, example)
        else:
            if reason:
                _count_reason(self.report.broken, reason, example)
            self._add_absent(record, media_probe)
        if media_probe:
            self._add_places(record)

    def _find_problem(self, record: Record, media_probe: Probe, reason: str) -> str:
        """Return why preprocess will fail on the sample, "" where it will not."""
        lacking = media_probe.absent.keys() | media_probe.broken.keys()
        has_modality = bool(record.media.keys() - lacking)
        if has_modality and not (reason and self.policy == "fail"):
            return ""
        return reason or "no modality at all"

    def _count(self, record: Record, is_usable: bool) -> None:
        split = self.report.splits[record.split]
        split.listed += 1
        split.usable += is_usable
        labels: Any = record.label
        if not isinstance(labels, tuple):
            labels = (-1 if labels is None else labels,)
        if self.spec.task == "regression" and record.label is not None:
            labels = tuple(range(len(self.spec.classes)))  # a sample has all targets
        for number in labels:
            if 0 <= number < len(self.spec.classes):
                counts = self.report.classes[self.spec.classes[number]][record.split]
                counts[0] += 1
                counts[1] += is_usable

    def _add_absent(self, record: Record, media_probe: Probe) -> None:
        self.report.not_looked_into += bool(media_probe.unseen)
        lacking = media_probe.absent | media_probe.broken
        for name in self.spec.modalities:
            reason = lacking.get(name, "")
            if name not in record.media:
                reason = UNLISTED
            if not reason:
                continue
            by_split = self.report.absent.setdefault(name, {})
            counts = by_split.setdefault(reason, dict.fromkeys(self.spec.splits, 0))
            counts[record.split] += 1
            if reason == SOUNDLESS:
                self.soundless.add(_path_of(record.media[name]) or record.key)

    def _add_places(self, record: Record) -> None:
        """Note in which split the groups and the files of a sample are."""
        bit = self.bits[record.split]
        groups = record.groups or {"group": record.key}
        for group in groups.items():
            self.splits_of_groups[group] = self.splits_of_groups.get(group, 0) | bit
        for path in _paths_of(record.media.values()):
            self.splits_of_files[path] = self.splits_of_files.get(path, 0) | bit

    def find_leaks(self) -> None:
        """Report the groups that have samples in two splits."""
        for first, second in itertools.combinations(self.spec.splits, 2):
            both = self.bits[first] | self.bits[second]
            for (grouping, group), splits in self.splits_of_groups.items():
                if splits & both != both:
                    continue
                pair = f"{first} and {second}"
                if grouping != "group":
                    pair = f"{pair} ({grouping})"
                _count_reason(self.report.leaks, pair, group)


def _count_reason(counts: dict[str, Examples], reason: str, example: str) -> None:
    counts.setdefault(reason, Examples()).add(example)


def _describe_sample(record: Record, media_probe: Probe | None) -> str:
    """Return the key of a sample, with the files that cannot be read."""
    if not media_probe:
        return record.key
    broken = [record.media[name] for name in media_probe.broken]
    paths = dict.fromkeys(str(path) for path in _paths_of(broken))
    if not paths:
        return record.key
    return f"{record.key} ({', '.join(paths)})"


def _paths_of(media: Iterable[Media]) -> list[Path]:
    paths = [_path_of(medium) for medium in media]
    return [path for path in paths if path]


def _path_of(medium: Media) -> Path | None:
    if isinstance(medium, Clip):
        return medium.path
    if isinstance(medium, Series):
        medium = medium.samples
    if isinstance(medium, Path):
        return medium
    return None

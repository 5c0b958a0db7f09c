"""What follows from a doctor's report: notes, and what the user has to correct."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from umemma.reports.doctor.report import DoctorReport, Examples
from umemma.types import DatasetSpec, Plain

SETS_SHOWN = 3  # sets of files with equal content
PATHS_SHOWN = 4  # files of such a set
LEAKS_HINT = " To leave them out: preprocess.options.leaks: drop"
GROUP_HINT = (
    "Where such files belong to one thing, give their samples a common group "
    "(preprocess.options.group)."
)


def add_advice(
    report: DoctorReport,
    spec: DatasetSpec,
    max_failures: float,
    options: Plain,
) -> None:
    """Add the notes and needs that follow from the samples.

    max_failures: the setting preprocess.max_failures; options: those of the dataset.
    """
    report.notes.extend(_counts_of_samples(report))
    unusable_splits = [name for name, split in report.splits.items() if not split.usable]
    if unusable_splits:
        names = ", ".join(unusable_splits)
        report.needs.append(f"No usable sample in {names}: preprocess needs some in each split.")
    report.notes.extend(_empty_classes(report, spec))
    report.notes.extend(_untrained_classes(report, spec))
    report.notes.extend(_leaks(report, options))
    report.notes.extend(_equal_files(report, options))
    if report.soundless_files:
        report.notes.append(
            f"Files without sound, of samples with audio: {report.soundless_files:,}."
        )
    if report.not_looked_into:
        report.notes.append(
            "Samples with media that preprocess creates, which were not examined: "
            f"{report.not_looked_into:,}."
        )
    report.needs.extend(_failures(report, max_failures))
    if report.duplicate_ids.count:
        report.needs.append(
            f"Samples with the id of another sample: {_list(report.duplicate_ids)}."
        )


def _counts_of_samples(report: DoctorReport) -> Iterator[str]:
    for name, split in report.splits.items():
        if split.expected not in (None, split.listed):
            yield (
                f"{name}: {split.listed:,} samples are listed; "
                f"the official number is {split.expected:,}."
            )


def _empty_classes(report: DoctorReport, spec: DatasetSpec) -> Iterator[str]:
    for split in spec.splits:
        if not report.splits[split].usable:
            continue
        empty = Examples()
        for class_name, splits in report.classes.items():
            _, usable = splits[split]
            if not usable:
                empty.add(class_name)
        if empty.count:
            yield f"{split}: classes without a usable sample: {_list(empty)}."


def _untrained_classes(report: DoctorReport, spec: DatasetSpec) -> Iterator[str]:
    """Yield a note for each fold that tests a class of which no other sample is for training."""
    for tested in spec.folds:
        for_training = []
        for fold in spec.folds:
            if fold.number != tested.number and fold.number not in tested.val:
                for_training.append(fold.split)
        unseen = Examples()
        for class_name, splits in report.classes.items():
            trained = sum(splits[split][1] for split in for_training)
            if splits[tested.split][1] and not trained:
                unseen.add(class_name)
        if unseen.count:
            yield f"{tested.split}: classes that are tested and not trained: {_list(unseen)}."


def _leaks(report: DoctorReport, options: Plain) -> Iterator[str]:
    hint = ""
    if getattr(options, "leaks", "") == "keep":
        hint = LEAKS_HINT
    for pair, groups in report.leaks.items():
        yield f"Groups with samples in {pair}: {_list(groups)}.{hint}"


def _equal_files(report: DoctorReport, options: Plain) -> Iterator[str]:
    sets = report.same_content
    if not sets.count:
        return
    across = report.across_splits.count
    counts = f"{sets.count:,}, {across:,} of them across splits"
    lines = [f"Sets of media files with the same content: {counts}."]
    if across:
        sets = report.across_splits
    for text in sets.examples[:SETS_SHOWN]:
        lines.append(f"  {_shorten_set(text, report.folder)}")
    more = sets.count - SETS_SHOWN
    if more > 0:
        lines.append(f"  and {more:,} more")
    if hasattr(options, "group"):
        lines.append(GROUP_HINT)
    yield "\n".join(lines)


def _shorten_set(text: str, folder: str) -> str:
    """Return the first files of a set "a = b = c", relative to the raw folder."""
    paths = [path.removeprefix(f"{folder}/") for path in text.split(" = ")]
    shown = " = ".join(paths[:PATHS_SHOWN])
    more = len(paths) - PATHS_SHOWN
    if more > 0:
        return f"{shown} and {more:,} more"
    return shown


def _failures(report: DoctorReport, max_failures: float) -> Iterator[str]:
    """Yield the need where more samples fail, or have a broken medium, than the settings allow."""
    failed = sum(split.unusable for split in report.splits.values())
    broken = _total(report.broken)
    total = failed + sum(split.usable for split in report.splits.values())
    if failed + broken <= max_failures * total:
        return
    counts = f"{failed:,} of {total:,} samples cannot be used"
    if broken:
        counts += f", and in {broken:,} more a medium cannot be read"
    cure = "Correct the causes that are listed above"
    if failed < total:
        share = math.ceil(1000 * (failed + broken) / total) / 1000
        cure += f", or accept them with preprocess.max_failures: {share:g}"
    if broken:
        cure += " (the media then count as absent; preprocess.broken: fail drops their samples)"
    yield f"{counts}. preprocess.max_failures: {max_failures:g} does not allow this. {cure}."


def _total(counts: Mapping[str, Examples]) -> int:
    return sum(examples.count for examples in counts.values())


def _list(examples: Examples) -> str:
    return f"{examples.count:,} ({examples})"

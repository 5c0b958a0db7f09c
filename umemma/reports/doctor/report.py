"""What `umemma doctor` finds. --json prints it as it is."""

from __future__ import annotations

from dataclasses import dataclass, field

EXAMPLES = 5  # of each kind


@dataclass
class Examples:
    """A count, and the first few of the things that were counted."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def __str__(self) -> str:
        text = ", ".join(self.examples)
        if self.count > len(self.examples):
            text += ", ..."
        return text


@dataclass
class MissingSource:
    """A source of raw files that are not in the raw folder.

    path: in the raw folder.
    size: bytes, 0 = unknown.
    urls: where it can be downloaded.
    made: download writes it from installed packages.
    steps: what a person has to do.
    """

    path: str
    size: int
    urls: list[str]
    made: bool
    steps: str


@dataclass
class SplitCounts:
    """Samples of a split.

    expected: the number in the official lists, None where they do not say.
    left_out: samples that the settings leave out.
    unusable: samples that will fail in preprocess.
    """

    expected: int | None = None
    listed: int = 0
    left_out: int = 0
    unusable: int = 0
    usable: int = 0


@dataclass
class DoctorReport:
    """What was found.

    folder: the raw folder, with `files` files of `size` bytes.
    described: whether a download.json describes them.
    missing, altered: files that are missing or differ from download.json.
    to_get: sources whose files are missing.
    classes: {class: {split: [samples listed, usable]}}. A sample of several classes counts in each.
    folds: {split that is a fold: the group that it holds out, "" for none}.
    unusable, left_out: {reason: samples}.
    broken: {reason: usable samples with a medium that cannot be read}.
    absent: {modality: {reason: {split: usable samples without it}}}.
    soundless_files: files whose sound a sample uses and that have none.
    not_looked_into: usable samples with media that a function makes.
    leaks: {"train and test": groups in both}; with several groupings {"train and test (voice)":
    ...}.
    same_content: sets of media files with equal bytes.
    across_splits: those whose samples are in different splits.
    notes: facts that the user should know.
    needs: what the user has to correct, in order.
    """

    dataset: str
    variant: str
    licence: str
    citation: str
    folder: str
    described: bool = False
    files: int = 0
    size: int = 0
    missing: Examples = field(default_factory=Examples)
    altered: Examples = field(default_factory=Examples)
    to_get: list[MissingSource] = field(default_factory=list)
    splits: dict[str, SplitCounts] = field(default_factory=dict)
    classes: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    folds: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, Examples] = field(default_factory=dict)
    broken: dict[str, Examples] = field(default_factory=dict)
    left_out: dict[str, Examples] = field(default_factory=dict)
    duplicate_ids: Examples = field(default_factory=Examples)
    absent: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    soundless_files: int = 0
    not_looked_into: int = 0
    leaks: dict[str, Examples] = field(default_factory=dict)
    same_content: Examples = field(default_factory=Examples)
    across_splits: Examples = field(default_factory=Examples)
    notes: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)

"""What doctor finds in the raw folder: files that lack, were altered, or have equal bytes."""

from __future__ import annotations

import functools
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from umemma.data import raw_folder
from umemma.data.raw_folder import RawFile
from umemma.errors import UserError
from umemma.reports.doctor.report import DoctorReport, MissingSource
from umemma.system.archives import find_target
from umemma.system.files import file_size, find_mismatch, sha256
from umemma.system.log import make_progress
from umemma.types import Plain, Source


def check_raw_files(report: DoctorReport, raw: Path, command: str) -> dict[str, str]:
    """Compare the raw files with download.json. Returns {name: sha256} of those that agree."""
    try:
        files = raw_folder.read_raw_files(raw, f"Run: {command}")
    except UserError as error:
        report.files = len(raw_folder.list_files(raw))
        need = f"The raw files are missing or not verified yet. Run: {command}"
        if (raw / "download.json").exists():
            need = str(error)
        report.needs.append(need)
        return {}
    report.described = True
    report.files = len(files)
    report.size = sum(file.size for file in files.values())
    digests = _compare_checksums(report, raw, files)
    if report.missing.count:
        report.needs.append(
            f"Raw files that are missing: {report.missing.count:,} ({report.missing}). "
            f"Run: {command}"
        )
    if report.altered.count:
        report.needs.append(
            f"Raw files that differ from download.json: {report.altered.count:,} "
            f"({report.altered}). Delete the damaged ones, keep those that you changed yourself, "
            f"and run: {command}"
        )
    return digests


def _compare_checksums(
    report: DoctorReport,
    raw: Path,
    files: Mapping[str, RawFile],
) -> dict[str, str]:
    """Compare size and checksum of every file, and return {name: sha256} of those that agree."""
    digests: dict[str, str] = {}

    def compute(name: str) -> str | None:
        """Return the checksum, "" for a file of another size, None for a missing one."""
        size = file_size(raw / name)
        if size is None:
            return None
        if size != files[name].size:
            return ""
        return _try_sha256(raw / name)

    with make_progress() as bars:
        bar = bars.add_task("doctor: checksums", total=len(files), note="")
        checksums = raw_folder.map_in_threads(compute, files)
        for name, checksum in zip(files, checksums, strict=True):
            if checksum is None:
                report.missing.add(name)
            elif checksum != files[name].sha256:
                report.altered.add(name)
            else:
                digests[name] = checksum
            bars.advance(bar)
    return digests


def _try_sha256(path: Path) -> str:
    """Return the checksum, or "" for a file that cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return ""


def list_missing_sources(module: ModuleType, raw: Path, options: Plain) -> list[MissingSource]:
    """Return the sources whose files are not in the raw folder, as far as the dataset knows
    them."""
    sources: list[Source] = []
    try:
        for source in module.sources(raw, options):
            sources.append(source)
    except (UserError, OSError):
        pass  # the next sources depend on a missing file; those before it count
    plain_files = {source.path for source in sources if not source.unpack}
    names = [name for name in raw_folder.list_files(raw) if name not in plain_files]

    @functools.cache  # many archives share one function
    def count_unpacked(unpack: Callable[[str], str | None]) -> int:
        return sum(find_target(unpack, name) == name for name in names)

    def is_in_place(source: Source) -> bool:
        if not source.unpack:
            return not find_mismatch(raw / source.path, source)
        needed = 1
        if not source.media:
            needed = max(source.files, 1)
        return count_unpacked(source.unpack) >= needed

    missing = []
    for source in sources:
        if not is_in_place(source):
            urls = list(source.urls)
            made = bool(source.make)
            missing.append(MissingSource(source.path, source.size, urls, made, source.steps))
    return missing


def find_equal_files(
    report: DoctorReport,
    raw: Path,
    splits_of_files: Mapping[Path, int],
    digests: Mapping[str, str],
) -> None:
    """Report media files with equal bytes.

    Only files of equal size are compared. A file whose checksum is in `digests` is not read again.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in splits_of_files:
        size = file_size(path)
        if size:
            by_size[size].append(path)
    candidates: list[Path] = []
    for paths in by_size.values():
        if len(paths) > 1:
            candidates.extend(paths)
    if not candidates:
        return

    def compute(path: Path) -> str:
        name = ""
        if path.is_relative_to(raw):
            name = path.relative_to(raw).as_posix()
        return digests.get(name) or _try_sha256(path)

    by_digest: dict[str, list[Path]] = defaultdict(list)
    with make_progress() as bars:
        bar = bars.add_task("doctor: duplicates", total=len(candidates), note="")
        checksums = raw_folder.map_in_threads(compute, candidates)
        for path, checksum in zip(candidates, checksums, strict=True):
            by_digest[checksum].append(path)
            bars.advance(bar)
    for checksum, paths in by_digest.items():
        if not checksum or len(paths) < 2:
            continue
        text = " = ".join(str(path) for path in paths)
        report.same_content.add(text)
        splits = functools.reduce(operator.or_, (splits_of_files[path] for path in paths))
        if splits.bit_count() > 1:
            report.across_splits.add(text)

"""A download: every source of a dataset is put into its raw folder, then listed in download.json.

The raw folder is filled in place, since people put files there by hand and archives are large.
Every file appears whole, by a rename, so that the next run resumes one that was killed. Where a
file comes from: `fetcher.py`; archives: `unpacker.py`; what is there already: `raw_folder.py`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loguru import logger
from rich.progress import Progress

from umemma.data import raw_folder
from umemma.data.fetcher import Fetcher, explain_nothing, is_address
from umemma.data.raw_folder import RawFile, RawFolder
from umemma.data.unpacker import Unpacker
from umemma.errors import UserError
from umemma.system import archives
from umemma.system.files import find_mismatch, new_file, write_json
from umemma.system.http import NotServed
from umemma.types import DatasetSpec, Source

SHOWN = 10  # unavailable sources that an error lists
LEFTOVER = re.compile(r"\..+\.(part|part\.json|gdrive.*)")  # of a run that was killed


class Downloader:
    """One run over the sources of a dataset."""

    def __init__(
        self,
        dataset: str,
        spec: DatasetSpec,
        folder: Path,
        origin: str,
        bars: Progress,
    ) -> None:
        self.dataset = dataset
        self.spec = spec
        self.origin = origin
        self.bars = bars
        self.sources: list[Source] = []
        self.unavailable: dict[str, list[str]] = {}  # {path: why each place does not serve it}
        self.folder = RawFolder(folder, dataset, spec)
        self.fetcher = Fetcher(self.folder, origin, bars)
        self.unpacker = Unpacker(self.folder, self.fetcher, self.sources)
        self._unpacked_by_hand: list[Source] = []  # archives of which files were present

    def place_all(self, sources: Iterator[Source]) -> None:
        """Put every source in place, in turn: a later one may follow from the files of an earlier
        one. Raises UserError with all that are unavailable."""
        while True:
            source = self._next_source(sources)
            if source is None:
                break
            if not archives.is_inside(source.path):
                raise UserError(
                    "has to lie in the raw folder",
                    source.path,
                    f"That is {self.folder.path}.",
                    usage=True,
                )
            self.sources.append(source)
            self._place(source)
        # Which of their files are sources themselves is known only now.
        for source in self._unpacked_by_hand:
            if not self.unpacker.list_present_files(source):
                self._place(source)
        for source in self.sources:
            # An archive that came later may have held it.
            if not source.unpack and not find_mismatch(self.folder.path / source.path, source):
                self.unavailable.pop(source.path, None)
        if self.unavailable:
            raise self._make_error()
        self._check_origin()

    def _check_origin(self) -> None:
        """Raise UserError for a folder `origin` that has nothing of this dataset.

        The files that were in place before are not what the user meant.
        """
        folder = Path(self.origin)
        if not self.origin or is_address(self.origin) or not folder.is_dir():
            return
        for source in self.sources:
            if self.fetcher.find_files(folder, source):
                return
            if source.unpack and self.fetcher.find_copies(folder, source):
                return
        what = explain_nothing(folder, "no file of this dataset is there, so nothing was taken")
        hint = "Name the folder that holds its files, or leave out --from to use what is in place."
        raise UserError(what, self.origin, hint, usage=True)

    def _next_source(self, sources: Iterator[Source]) -> Source | None:
        try:
            return next(sources, None)
        except (UserError, OSError):
            if not self.unavailable:
                raise
            return None  # the next source follows from one that is unavailable

    def _place(self, source: Source) -> None:
        place = self._place_file
        if source.unpack:
            place = self._place_archive
        reasons = place(source)
        if reasons is not None:
            self.unavailable[source.path] = reasons or ["no address is known"]

    def _make_error(self) -> UserError:
        lines = [f"  {path}: {'; '.join(reasons)}" for path, reasons in self.unavailable.items()]
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"  and {len(lines) - SHOWN:,} more"]
        steps: list[str] = []
        for source in self.sources:
            if source.path in self.unavailable and source.steps and source.steps not in steps:
                steps.append(source.steps)
        hint = "\n".join([*steps, f"Then run again: umemma download {self.dataset}"])
        what = "\n".join(["these files are unavailable:", *lines])
        return UserError(what, str(self.folder.path), hint)

    # `_place_file` and `_place_archive` return None where the source is in place at the end, else
    # why each place does not serve it.

    def _place_file(self, source: Source) -> list[str] | None:
        target = self.folder.path / source.path
        present = target.is_file()
        mismatch = find_mismatch(target, source)
        changed = not mismatch and not source.checksum
        changed = changed and not self.folder.is_unchanged(source.path)
        if not mismatch and not changed and not self._is_edited_at_origin(source):
            return None
        if source.make:
            with new_file(target) as partial:
                source.make(partial)
            return None
        reasons = []
        if present and mismatch:
            reasons.append(f"the present file {mismatch}")
        for place in self.fetcher.list_places(source):
            try:
                self.fetcher.fetch(place, source, target)
            except NotServed as error:
                reasons.append(f"{place}: {error}")
                continue
            if present:
                logger.info(f"{target} replaced from {place}")
            else:
                logger.debug(f"{target} fetched from {place}")
            return None
        if changed:
            logger.warning(
                f"{target} differs from the last download and is unavailable; it is used as it is"
            )
            return None
        return reasons

    def _is_edited_at_origin(self, source: Source) -> bool:
        """Return whether the file or folder `origin` has other content for a file that is in place
        and that no checksum proves."""
        if source.checksum or source.make or not self.origin or is_address(self.origin):
            return False
        for file in self.fetcher.find_files(Path(self.origin), source):
            if not find_mismatch(file, source):
                return not self.folder.has_content_of(source.path, file)
        return False

    def _place_archive(self, source: Source) -> list[str] | None:
        unpacker = self.unpacker
        # 1. It was unpacked before, and nothing has changed.
        if unpacker.is_current(source):
            return self._check_file_count(source)
        # 2. The archive lies in the raw folder, or --from has it or an unpacked copy.
        reasons: list[str] = []
        archive = self.folder.path / source.path
        if archive.is_file() and unpacker.place_from(str(archive), source, reasons):
            return self._check_file_count(source)
        if self.origin and self._place_from_any(self.fetcher.list_places(source), source, reasons):
            return self._check_file_count(source)
        # 3. A person has unpacked it into the raw folder.
        if not unpacker.has_begun(source):
            unpacker.copy_deeper_files(source)
        present = unpacker.list_present_files(source)
        if present and not unpacker.has_begun(source):
            logger.info(f"{source.path}: {len(present):,} of its files are present, unpacked")
            self._unpacked_by_hand.append(source)
            return self._check_file_count(source)
        # 4. From its own addresses.
        if not self.origin and self._place_from_any(source.urls, source, reasons):
            return self._check_file_count(source)
        # 5. Only a part is there.
        if present and unpacker.was_unpacked(source):
            logger.warning(
                f"{source.path}: files of it are missing or changed and it is unavailable; the "
                "other files are used"
            )
            return self._check_file_count(source)
        if present and unpacker.has_begun(source):
            if source.files and len(present) >= source.files:
                unpacker.remove_mark(source)
                return None
            mark = unpacker.mark_path(source)
            reasons.append(
                f"only a part of it is unpacked; once all its files are present, delete {mark}"
            )
        return reasons

    def _place_from_any(self, places: Sequence[str], source: Source, reasons: list[str]) -> bool:
        return any(self.unpacker.place_from(place, source, reasons) for place in places)

    def _check_file_count(self, source: Source) -> list[str] | None:
        """Return what an archive lacks whose files are in place. Missing media are usual and only
        logged; any other file is needed."""
        if not source.files:
            return None
        count = len(self.unpacker.list_present_files(source))
        if count >= source.files:
            return None
        text = f"{count:,} of {source.files:,} files are present"
        if not source.media:
            return [text]
        logger.warning(
            f"{source.path}: {text}; for the samples that name the other files, these are media "
            "that can't be read"
        )
        return None

    # The list. ------------------------------------------------------------------------------------

    def write_list(self) -> None:
        """Write download.json, the last step of a run, and remove what killed runs have left."""
        media = self._list_used_files()
        task = self.bars.add_task("checksums", total=len(media), note="")
        files = {}
        digests = raw_folder.map_in_threads(self.folder.hash_file, media)
        for name, digest in zip(media, digests, strict=True):
            size = (self.folder.path / name).stat().st_size
            file = RawFile(sha256=digest, size=size, media=media[name])
            files[name] = file.model_dump()
            self.bars.advance(task)
        about: dict[str, Any] = {
            "dataset": self.dataset,
            "licence": self.spec.licence,
            "citation": self.spec.citation,
        }
        if self.spec.variant:
            about["variant"] = self.spec.variant
        about["files"] = files
        path = self.folder.path / "download.json"
        if raw_folder.read_json_or_nothing(path) != about:
            write_json(path, about)
        self._remove_leftovers()

    def _list_used_files(self) -> dict[str, bool]:
        """Return {file: whether it is media} of what belongs to the dataset. Raises UserError where
        there should be media and none is there."""
        by_path = {source.path: source for source in self.sources if not source.unpack}
        packed = [source for source in self.sources if source.unpack]
        packed.sort(key=lambda source: not source.media)
        not_data = {"download.json", *(source.path for source in packed)}
        media: dict[str, bool] = {}
        ignored = 0
        for name in raw_folder.list_files(self.folder.path):
            source = by_path.get(name) or _find_archive_of(name, packed)
            if source is not None:
                media[name] = source.media
            elif name not in not_data:
                ignored += 1
        if any(source.media for source in self.sources) and not any(media.values()):
            reason = "only lists of it are present"
            self.unavailable = {source.path: [reason] for source in packed}
            raise self._make_error()
        if ignored:
            logger.warning(
                f"{self.folder.path}: {ignored:,} files that this dataset does not use are ignored"
            )
        return media

    def _remove_leftovers(self) -> None:
        shutil.rmtree(self.folder.path / ".fetched", ignore_errors=True)
        for where, _, names in os.walk(self.folder.path):
            for name in names:
                if LEFTOVER.fullmatch(name):
                    (Path(where) / name).unlink()


def _find_archive_of(name: str, packed: Sequence[Source]) -> Source | None:
    """Return the first archive whose rule gives a file its present place."""
    for source in packed:
        if source.unpack and archives.find_target(source.unpack, name) == name:
            return source
    return None

"""Archives of a dataset: unpacked into its raw folder, or copied from where they lie unpacked.

`.done/ARCHIVE.json` in the raw folder is the mark of an archive: {} while it is being unpacked,
then what it held and where each file belongs. `.fetched/` holds archives until they are unpacked.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from loguru import logger

from umemma.data import raw_folder
from umemma.data.fetcher import Fetcher, explain_nothing, find_local_path
from umemma.data.raw_folder import RawFolder
from umemma.errors import UserError
from umemma.system import archives
from umemma.system.files import find_mismatch, new_file, write_json
from umemma.system.http import NotServed
from umemma.types import Source

RATIO = 50  # an archive that unpacks to more than this many times its size is hostile, and so
SMALL = 2**26  # bytes: at least this much may come out, and at least the size that the dataset says


class Unpacked(NamedTuple):
    """The mark of an archive that is unpacked. places: {member: target in the raw folder, None for
    a file that is not needed}."""

    checksum: str | None
    places: Mapping[str, str | None]


class Unpacker:
    """Puts the files of archives in place. sources: the sources of this run, those of later
    archives added as they become known."""

    def __init__(self, folder: RawFolder, fetcher: Fetcher, sources: Sequence[Source]) -> None:
        self.folder = folder
        self.fetcher = fetcher
        self.sources = sources
        self._copied: dict[str, Path] = {}  # {target: the file that it is a copy of}
        self._marks: dict[Path, Unpacked | None] = {}  # None = unpacking has begun
        for path in sorted((folder.path / ".done").rglob("*.json")):
            self._marks[path] = _read_mark(path)

    # The marks. -----------------------------------------------------------------------------------

    def mark_path(self, source: Source) -> Path:
        """Return the file that holds the mark of an archive."""
        return self.folder.path / ".done" / f"{source.path}.json"

    def has_begun(self, source: Source) -> bool:
        """Return whether an archive has a mark, whole or not."""
        return self.mark_path(source) in self._marks

    def was_unpacked(self, source: Source) -> bool:
        """Return whether an archive was unpacked to its end once."""
        return self._marks.get(self.mark_path(source)) is not None

    def is_current(self, source: Source) -> bool:
        """Return whether all that is needed of an archive today is unpacked and unchanged."""
        mark = self._marks.get(self.mark_path(source))
        if mark is None or source.unpack is None or mark.checksum != source.checksum:
            return False
        for name, target in mark.places.items():
            if archives.find_target(source.unpack, name) != target:
                return False  # other options need other files
            if not target:
                continue
            if not (self.folder.path / target).is_file() or not self.folder.is_unchanged(target):
                return False
        return True

    def remove_mark(self, source: Source) -> None:
        """Forget an archive: its files count as placed by hand."""
        path = self.mark_path(source)
        self._marks.pop(path, None)
        path.unlink(missing_ok=True)

    def _begin(self, source: Source) -> None:
        path = self.mark_path(source)
        self._marks[path] = None
        write_json(path, {})

    def _finish(self, source: Source, places: Mapping[str, str | None]) -> None:
        path = self.mark_path(source)
        mark = Unpacked(source.checksum, places)
        self._marks[path] = mark
        write_json(path, {"checksum": mark.checksum, "places": mark.places})

    def list_present_files(self, source: Source) -> list[str]:
        """Return the files in the raw folder that can only come from this archive.

        A file that is a source itself, or that another archive is known to have held, is not.
        """
        assert source.unpack
        others: set[str | None] = {other.path for other in self.sources}
        for path, mark in self._marks.items():
            if mark is not None and path != self.mark_path(source):
                others |= set(mark.places.values())
        present = []
        for name in raw_folder.list_files(self.folder.path):
            if name not in others and archives.find_target(source.unpack, name) == name:
                present.append(name)
        return present

    # Unpacking and copying. -----------------------------------------------------------------------

    def place_from(self, place: str, source: Source, reasons: list[str]) -> bool:
        """Put the files of an archive in place from `place`, which has it or an unpacked copy.

        Returns whether it succeeded; where not, the reason is added to `reasons`.
        """
        try:
            local = find_local_path(place)
            if local is None:
                self._fetch_and_unpack(place, source)
            else:
                self._unpack_or_copy(local, source)
        except NotServed as error:
            reasons.append(f"{place}: {error}")
            return False
        return True

    def _fetch_and_unpack(self, place: str, source: Source) -> None:
        archive = self.folder.path / ".fetched" / source.path
        if find_mismatch(archive, source):
            self.fetcher.fetch(place, source, archive)
        self._unpack(archive, source, fetched=True)

    def _unpack_or_copy(self, place: Path, source: Source) -> None:
        nothing = explain_nothing(place, "neither the archive nor a file of it is there")
        try:
            archive = self.fetcher.find_right_file(place, source, nothing)
        except NotServed:
            copies = self.fetcher.find_copies(place, source)
            if not copies:
                raise
            self._copy(copies, source)
            return
        self._unpack(archive, source, fetched=False)

    def _unpack(self, archive: Path, source: Source, fetched: bool) -> None:
        """Unpack an archive. fetched: it is deleted afterwards, also where it is damaged, so that
        the next run fetches it again."""
        assert source.unpack
        size = archive.stat().st_size
        needed = self.folder.count_missing_bytes()
        if not fetched:
            needed -= size
        self.folder.require_space(needed)
        self._begin(source)
        try:
            with self.fetcher.show_progress(source) as advance:
                places = archives.unpack(
                    archive,
                    self.folder.path,
                    source.unpack,
                    bound=max(self.folder.spec.disk, RATIO * size, SMALL),
                    advance=advance,
                )
        except UserError:
            if fetched:
                archive.unlink()
            raise
        targets = {target for target in places.values() if target}
        if not targets and not (fetched and source.media):
            self.remove_mark(source)
            raise NotServed("it holds none of the files that are needed")
        logger.info(f"{source.path}: {len(targets):,} files unpacked")
        self._finish(source, places)
        if fetched:
            archive.unlink()

    def copy_deeper_files(self, source: Source) -> None:
        """Copy what a person has unpacked into a subfolder to where it belongs."""
        missing = {}
        for target, file in self.fetcher.find_copies(self.folder.path, source).items():
            if not (self.folder.path / target).exists():
                missing[target] = file
        if missing:
            self._copy(missing, source)

    def _copy(self, copies: Mapping[str, Path], source: Source) -> None:
        """Copy the files {target: file} that are missing or differ.

        What an archive with the same rule has brought in this run is not compared again.
        """
        new = {target: file for target, file in copies.items() if self._copied.get(target) != file}
        with self.fetcher.show_progress(source) as advance:
            differing = []
            equal = raw_folder.map_in_threads(
                lambda target: self.folder.has_content_of(target, new[target]),
                new,
            )
            for number, (target, is_equal) in enumerate(zip(new, equal, strict=True)):
                advance(number, len(new))
                if not is_equal:
                    differing.append(target)
            self.folder.require_space(sum(new[target].stat().st_size for target in differing))
            if differing:
                self._begin(source)
            replaced = 0
            for number, target in enumerate(differing):
                advance(number, len(differing))
                replaced += (self.folder.path / target).exists()
                with new_file(self.folder.path / target) as partial:
                    shutil.copyfile(new[target], partial)
        self._copied |= new
        self.remove_mark(source)
        if differing:
            text = f"{source.path}: {len(differing):,} files copied"
            if replaced:
                text += f", {replaced:,} of them in place of others"
            logger.info(f"{text}; {len(copies) - len(differing):,} were present")


def _read_mark(path: Path) -> Unpacked | None:
    data = raw_folder.read_json_or_nothing(path)
    if not data:
        return None
    return Unpacked(data.get("checksum"), data.get("places", {}))

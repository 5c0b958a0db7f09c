"""download: the raw files of a dataset -> data/raw/<dataset>/, with their checksums in download.json.

In place, because people put files there by hand and archives are large. Every file comes whole by a rename, so that a run
that was killed is continued by the next. Hidden in the raw folder: `.fetched/`, archives on their way, and `.done/`, for
each archive what it held and where that belongs ({} until all of it is unpacked).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from loguru import logger
from rich.progress import Progress

from umemma.data import archives, raw_folder
from umemma.data.raw_folder import RawFile
from umemma.errors import UserError
from umemma.system import http
from umemma.system.files import find_mismatch, new_file, read_json, sha256, write_json
from umemma.system.http import Advance, NotServed, Unreachable
from umemma.types import DatasetSpec, Source

SHOWN = 10  # of a long list, in an error
LEFTOVER = re.compile(r"\..+\.(part|part\.json|gdrive.*)")  # of a run that was killed


class Downloader:
    """One run over the sources of a dataset."""

    def __init__(
        self, dataset: str, spec: DatasetSpec, folder: Path, origin: str, bars: Progress
    ) -> None:
        self.dataset, self.spec, self.folder, self.origin, self.bars = (
            dataset,
            spec,
            folder,
            origin,
            bars,
        )
        self.sources: list[Source] = []
        self.lacking: dict[
            str, list[str]
        ] = {}  # {path of a source: why each place didn't serve it}
        self.as_trees: list[
            Source
        ] = []  # archives that count as unpacked because files of theirs are there
        self.marks = {path: _read(path) for path in sorted((folder / ".done").rglob("*.json"))}
        self.digests: dict[tuple[str, int, int], str] = {}
        self.trees: dict[Path, list[str]] = {}
        self.copies: dict[tuple[Path, int], dict[str, Path]] = {}
        self.copied: dict[str, Path] = {}  # {place: the file that it is a copy of}
        self.announced = False
        self.unreachable: set[str] = set()  # hosts
        try:
            self.before = raw_folder.raw_files(folder, "")
        except UserError:
            self.before = {}

    def place_all(self, sources: Iterator[Source]) -> None:
        """Every source in turn: a later one may follow from the files of an earlier one. UserError for those that lack."""
        while True:
            try:
                source = next(sources, None)
            except (UserError, OSError):
                if not self.lacking:
                    raise
                source = None  # it needs one of those to go on
            if source is None:
                break
            if not archives.inside(source.path):
                raise UserError(
                    "has to lie in the raw folder",
                    source.path,
                    f"That is {self.folder}.",
                    usage=True,
                )
            self.sources.append(source)
            self._note(source, self._archive(source) if source.unpack else self._file(source))
        for (
            source
        ) in self.as_trees:  # by now it is known which of those files are sources of their own
            if not self._found(source):
                self._note(source, self._archive(source))
        for source in self.sources:
            if not source.unpack and not find_mismatch(self.folder / source.path, source):
                self.lacking.pop(source.path, None)  # an archive that came later held it
        if self.lacking:
            raise self._error()

    def _note(self, source: Source, tried: list[str] | None) -> None:
        if tried is not None:
            self.lacking[source.path] = tried or ["no address is known"]

    def _error(self) -> UserError:
        lines = [f"  {path}: {'; '.join(tried)}" for path, tried in self.lacking.items()]
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"  and {len(lines) - SHOWN:,} more"]
        steps = dict.fromkeys(
            source.steps for source in self.sources if source.path in self.lacking and source.steps
        )
        hint = "\n".join([*steps, f"Then run again: umemma download {self.dataset}"])
        return UserError("\n".join(["these can't be had:", *lines]), str(self.folder), hint)

    # A file, and an archive: None where it is in place at the end, else why each place didn't serve it. -----------------

    def _file(self, source: Source) -> list[str] | None:
        target = self.folder / source.path
        there = target.is_file()
        wrong = find_mismatch(target, source)
        changed = not wrong and not source.checksum and not self._as_before(source.path)
        if not wrong and not changed and not self._edited(source):
            return None
        if source.make:
            with new_file(target) as aside:
                source.make(aside)
            return None
        tried = [f"the one that is there {wrong}"] if there and wrong else []
        for place in self._places(source):
            try:
                self._get(place, source, target)
            except NotServed as error:
                tried.append(f"{place}: {error}")
            else:
                logger.log(
                    "INFO" if there else "DEBUG",
                    f"{target} {'replaced' if there else 'fetched'} from {place}",
                )
                return None
        if changed:
            logger.warning(
                f"{target} differs from the last download and can't be had again; it is used as it is"
            )
            return None
        return tried

    def _edited(self, source: Source) -> bool:
        """Whether the file or folder `origin` has other content for a file that is in place and that no checksum proves."""
        if source.checksum or source.make or not self.origin or is_address(self.origin):
            return False
        found = (
            file
            for file in self._named(Path(self.origin), source)
            if not find_mismatch(file, source)
        )
        return (first := next(found, None)) is not None and not self._same(source.path, first)

    def _archive(self, source: Source) -> list[str] | None:
        mark = self._mark(source)
        if self._is_whole(source):
            return self._count(source)
        own = self.folder / source.path
        tried: list[str] = []
        if own.is_file() and self._fill(str(own), source, tried):
            return self._count(source)
        if self.origin and any(self._fill(place, source, tried) for place in self._places(source)):
            return self._count(source)
        if mark not in self.marks:  # what a person has unpacked a folder too deep
            copies = self._copies(self.folder, source).items()
            if deeper := {
                target: file for target, file in copies if not (self.folder / target).exists()
            }:
                self._copy(deeper, source)
        found = self._found(source)
        if found and mark not in self.marks:
            logger.info(f"{source.path}: {len(found):,} of its files are there, unpacked")
            self.as_trees.append(source)
            return self._count(source)
        if not self.origin and any(self._fill(place, source, tried) for place in source.urls):
            return self._count(source)
        if found and self.marks.get(mark):
            logger.warning(
                f"{source.path}: files of it are gone or changed and can't be had again; the others are used"
            )
            return self._count(source)
        if found and mark in self.marks:
            if source.files and len(found) >= source.files:
                self._unmark(source)
                return None
            tried.append(
                f"only a part of it is unpacked; once all its files are there, delete {mark}"
            )
        return tried

    def _count(self, source: Source) -> list[str] | None:
        """What lacks of an archive whose files are in place: lost clips are usual, anything else is needed."""
        if not source.files or (count := len(self._found(source))) >= source.files:
            return None
        text = f"{count:,} of {source.files:,} files are there"
        if not source.media:
            return [text]
        logger.warning(
            f"{source.path}: {text}; to the samples that name the others these are media that can't be read"
        )
        return None

    def _places(self, source: Source) -> list[str]:
        """Where to ask, in order."""
        if not self.origin:
            return list(source.urls)
        names = dict.fromkeys([source.path, _name(source)]) if is_address(self.origin) else []
        return [f"{self.origin.rstrip('/')}/{quote(name)}" for name in names] or [self.origin]

    def _get(self, place: str, source: Source, target: Path) -> None:
        """Bring one file from one place to `target`. NotServed where the place hasn't got it."""
        if local := _local(place):
            reasons = []
            for found in self._named(local, source):
                if not (reason := find_mismatch(found, source)):
                    self._room(found.stat().st_size)
                    with new_file(target) as aside:
                        shutil.copyfile(found, aside)
                    return
                reasons.append(f"{found} {reason}")
            raise NotServed("; ".join(reasons) or "it isn't there")
        nothing_yet = not raw_folder.tree(self.folder)
        self._room(max(source.size, self._still()) if source.unpack or nothing_yet else source.size)
        with self._bar(source) as bar:
            if place.startswith("gdrive:"):
                http.gdrive(place.removeprefix("gdrive:"), target, source, bar)
                return
            host = urlsplit(place).netloc
            try:
                http.http(place, target, source, bar, retries=0 if host in self.unreachable else 5)
            except Unreachable:
                self.unreachable.add(host)
                raise

    def _fill(self, place: str, source: Source, tried: list[str]) -> bool:
        """Put the files of an archive in place, from the archive or from an unpacked copy; adds to `tried` why not."""
        try:
            local = _local(place)
            if local is None:
                archive = self.folder / ".fetched" / source.path
                if find_mismatch(archive, source):
                    self._get(place, source, archive)
                self._unpack(archive, source, ours=True)
                return True
            reasons = []
            for found in self._named(local, source):
                if not (reason := find_mismatch(found, source)):
                    self._unpack(found, source, ours=False)
                    return True
                reasons.append(f"{found} {reason}")
            if copies := self._copies(local, source):
                self._copy(copies, source)
                return True
            raise NotServed("; ".join(reasons) or "neither it nor a file of it is there")
        except NotServed as error:
            tried.append(f"{place}: {error}")
            return False

    def _unpack(self, archive: Path, source: Source, ours: bool) -> None:
        assert source.unpack
        size = archive.stat().st_size
        self._room(self._still() - (0 if ours else size))
        self._write_mark(source, {})
        bound = max(self.spec.disk, 50 * size, 2**26)
        try:
            with self._bar(source) as bar:
                places = archives.unpack(
                    archive, self.folder, source.unpack, bound=bound, advance=bar
                )
        except UserError:
            if ours:
                archive.unlink()  # the next run fetches it anew
            raise
        targets = {target for target in places.values() if target}
        if not targets and not (ours and source.media):
            self._unmark(source)
            raise NotServed("it holds none of the files that are needed")
        logger.info(f"{source.path}: {len(targets):,} files unpacked")
        self._write_mark(source, {"checksum": source.checksum, "places": places})
        if ours:
            archive.unlink()

    def _named(self, place: Path, source: Source) -> list[Path]:
        """The files in a folder that a source may be, by their name, one at its very path first; a file itself likewise.

        Of archives that lie in folders, only the very path tells them apart: train/part_0.tar, test/part_0.tar.
        """
        names = [""] if place.is_file() else self._tree(place)
        paths = [place / name for name in names if (place / name).name == _name(source)]
        exact = [path for path in paths if path.as_posix().endswith(f"/{source.path}")]
        if not source.unpack:
            return [*exact, *(path for path in paths if path not in exact)]
        if exact or "/" in source.path:
            return exact
        return [place] if place.is_file() and archives.is_archive(place) else paths

    def _copies(self, folder: Path, source: Source) -> dict[str, Path]:
        """{place: file} of what an unpacked copy, as deep in `folder` as it may be, has of an archive."""
        assert source.unpack
        key = (folder, id(source.unpack))  # one rule may serve hundreds of archives
        if key in self.copies:
            return self.copies[key]
        copies: dict[str, Path] = {}
        for name in self._tree(folder) if folder.is_dir() else []:
            parts = [folder.name, *name.split("/")]
            tails = ("/".join(parts[start:]) for start in (1, 0, *range(2, len(parts))))
            target = next(
                (target for tail in tails if (target := archives.wanted(source.unpack, tail))), ""
            )
            if archives.inside(target):
                copies.setdefault(target, folder / name)
        if folder != self.folder:
            self.copies[key] = copies
        return copies

    def _tree(self, folder: Path) -> list[str]:
        """As rawfiles.tree; of a folder that isn't ours once, the least deep first, and without ours if that is in it."""
        if folder == self.folder:
            return raw_folder.tree(folder)
        if folder not in self.trees:
            whole, own = folder.resolve(), self.folder.resolve()
            ours = f"{own.relative_to(whole).as_posix()}/" if whole in own.parents else "/"
            names = (name for name in raw_folder.tree(folder) if not name.startswith(ours))
            self.trees[folder] = sorted(names, key=lambda name: name.count("/"))
        return self.trees[folder]

    def _copy(self, copies: Mapping[str, Path], source: Source) -> None:
        """Those that ours lack or differ from; what an archive with the same rule has brought isn't compared again."""
        wanted = {
            target: found for target, found in copies.items() if self.copied.get(target) != found
        }
        with self._bar(source) as bar:
            lacking = []
            same = raw_folder.parallel(lambda target: self._same(target, wanted[target]), wanted)
            for number, (target, is_same) in enumerate(zip(wanted, same, strict=True)):
                bar(number, len(wanted))
                lacking += [] if is_same else [target]
            self._room(sum(wanted[target].stat().st_size for target in lacking))
            if lacking:
                self._write_mark(source, {})
            replaced = 0
            for number, target in enumerate(lacking):
                bar(number, len(lacking))
                replaced += (self.folder / target).exists()
                with new_file(self.folder / target) as aside:
                    shutil.copyfile(wanted[target], aside)
        self.copied |= wanted
        self._unmark(source)
        if lacking:
            others = f", {replaced:,} of them in place of others" if replaced else ""
            there = f"{len(copies) - len(lacking):,} were there"
            logger.info(f"{source.path}: {len(lacking):,} files copied{others}; {there}")

    # What is known of the raw folder. -----------------------------------------------------------------------------------

    def _found(self, source: Source) -> list[str]:
        """The files that can only be this archive's: no source of their own, no other archive known to have held them."""
        assert source.unpack
        mark = self._mark(source)
        others = {other.path for other in self.sources}
        for path, held in self.marks.items():
            others |= set(held.get("places", {}).values()) if path != mark else set()
        names = (name for name in raw_folder.tree(self.folder) if name not in others)
        return [name for name in names if archives.wanted(source.unpack, name) == name]

    def _mark(self, source: Source) -> Path:
        return self.folder / ".done" / f"{source.path}.json"

    def _write_mark(self, source: Source, held: dict[str, Any]) -> None:
        self.marks[self._mark(source)] = held
        write_json(self._mark(source), held)

    def _unmark(self, source: Source) -> None:
        self.marks.pop(self._mark(source), None)
        self._mark(source).unlink(missing_ok=True)

    def _is_whole(self, source: Source) -> bool:
        """Whether all that is needed of an archive today has been unpacked, and still is as it was."""
        held = self.marks.get(self._mark(source))
        if not held or not source.unpack or held.get("checksum") != source.checksum:
            return False
        for name, target in held.get("places", {}).items():
            if archives.wanted(source.unpack, name) != target:
                return False  # other options need other files
            if target and not ((self.folder / target).is_file() and self._as_before(target)):
                return False
        return True

    def _as_before(self, name: str) -> bool:
        """Whether a file is as the last download left it, as far as that is known."""
        known = self.before.get(name)
        if known is None:
            return True
        return _size(self.folder / name) == known.size and (
            known.media or self._sha256(name) == known.sha256
        )

    def _same(self, name: str, other: Path) -> bool:
        """Whether a file of ours is there with the content of `other`."""
        return _size(self.folder / name) == other.stat().st_size and self._sha256(name) == sha256(
            other
        )

    def _sha256(self, name: str) -> str:
        path = self.folder / name
        key = (name, path.stat().st_size, path.stat().st_mtime_ns)
        if key not in self.digests:
            self.digests[key] = sha256(path)
        return self.digests[key]

    def _still(self) -> int:
        """Bytes that the disk has to hold yet, at the most."""
        there = sum(
            _size(Path(where) / name) for where, _, names in os.walk(self.folder) for name in names
        )
        return max(0, self.spec.disk - there)

    def _room(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if self.spec.disk and not self.announced:
            self.announced = True
            sizes = f"{_human(self.spec.size)} to download, {_human(self.spec.disk)} on the disk at the most"
            logger.info(
                f"{self.dataset}: {sizes}; {_human(free)} are free. Licence: {self.spec.licence}"
            )
        if needed > free:
            hint = "Free some, or make this folder a link to one on a larger disk, and run the command again."
            raise UserError(
                f"{_human(needed)} of disk are needed, {_human(free)} are free",
                str(self.folder),
                hint,
            )

    @contextlib.contextmanager
    def _bar(self, source: Source) -> Iterator[Advance]:
        task = self.bars.add_task(_name(source)[:20], total=None, note="")
        try:
            yield lambda done, total: self.bars.update(task, completed=done, total=total or None)
        finally:
            self.bars.remove_task(task)

    def describe(self) -> None:
        """Write download.json, the last thing of a run."""
        own = {source.path: source.media for source in self.sources if not source.unpack}
        packed = sorted(
            (source for source in self.sources if source.unpack),
            key=lambda source: not source.media,
        )
        others = {"download.json", *(source.path for source in packed)}
        media: dict[str, bool] = {}
        ignored = 0
        for name in raw_folder.tree(self.folder):
            if name in own:
                media[name] = own[name]
                continue
            claims = (
                s.media for s in packed if s.unpack and archives.wanted(s.unpack, name) == name
            )
            if (claim := next(claims, None)) is not None:
                media[name] = claim
            elif name not in others:
                ignored += 1
        if any(source.media for source in self.sources) and not any(media.values()):
            self.lacking = {source.path: ["nothing but lists of it is there"] for source in packed}
            raise self._error()
        if ignored:
            logger.warning(
                f"{self.folder}: {ignored:,} files that this data set has no use for are ignored"
            )
        task = self.bars.add_task("checksums", total=len(media), note="")
        files = {}
        for name, digest in zip(media, raw_folder.parallel(self._sha256, media), strict=True):
            files[name] = RawFile(
                sha256=digest, size=_size(self.folder / name), media=media[name]
            ).model_dump()
            self.bars.advance(task)
        about: dict[str, Any] = {
            "dataset": self.dataset,
            "licence": self.spec.licence,
            "citation": self.spec.citation,
        }
        about |= {"variant": self.spec.variant} if self.spec.variant else {}
        about |= {"files": files}
        if _read(self.folder / "download.json") != about:
            write_json(self.folder / "download.json", about)
        shutil.rmtree(self.folder / ".fetched", ignore_errors=True)
        for where, _, names in os.walk(self.folder):
            for name in filter(LEFTOVER.fullmatch, names):
                (Path(where) / name).unlink()


def is_address(place: str) -> bool:
    return place.startswith(("https://", "http://"))


def _local(place: str) -> Path | None:
    """The file or folder that a place is on this machine; None where it has to be fetched. NotServed by Kaggle."""
    if place.startswith("kaggle:"):
        return http.kaggle(place.removeprefix("kaggle:"))
    return None if place.startswith("gdrive:") or is_address(place) else Path(place)


def _name(source: Source) -> str:
    return source.path.rpartition("/")[2]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _human(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "")
    except UserError:
        return {}

"""Where raw files come from: a folder or a file on this machine, HTTP, Google Drive, Kaggle.

A *place* is written as a person or a `Source` writes it: a path, `https://...`, `gdrive:ID` or
`kaggle:OWNER/NAME`. The protocols themselves are in `umemma/system/http.py`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from loguru import logger
from rich.progress import Progress

from umemma.data import raw_folder
from umemma.data.raw_folder import RawFolder
from umemma.system import archives, http
from umemma.system.files import find_mismatch, new_file
from umemma.system.http import Advance, NotServed, Unreachable
from umemma.types import Source

RETRIES = 5  # of a request, where the host has answered before or has not been tried
GDRIVE = "gdrive:"
KAGGLE = "kaggle:"


class Fetcher:
    """Finds a source in folders, and brings it from any place. origin: what the user names with
    --from, the only place then; "" = the addresses of each source."""

    def __init__(self, folder: RawFolder, origin: str, bars: Progress) -> None:
        self.folder = folder
        self.origin = origin
        self.bars = bars
        self._unreachable_hosts: set[str] = set()
        self._listings: dict[Path, list[str]] = {}
        self._copies: dict[tuple[Path, int], dict[str, Path]] = {}

    def list_places(self, source: Source) -> list[str]:
        """Return the places to try for a source, in order."""
        if not self.origin:
            return list(source.urls)
        if not is_address(self.origin):
            return [self.origin]
        base = self.origin.rstrip("/")
        names = dict.fromkeys([source.path, file_name(source)])
        return [f"{base}/{quote(name)}" for name in names]

    def fetch(self, place: str, source: Source, target: Path) -> None:
        """Bring a file from one place to `target`, whole. Raises NotServed where the place does
        not have it."""
        local = find_local_path(place)
        if local is not None:
            file = self.find_right_file(local, source, "it does not exist there")
            self.folder.require_space(file.stat().st_size)
            with new_file(target) as partial:
                shutil.copyfile(file, partial)
            return
        self.folder.require_space(self._estimate_bytes(source))
        with self.show_progress(source) as advance:
            if place.startswith(GDRIVE):
                http.fetch_gdrive(place.removeprefix(GDRIVE), target, source, advance)
            else:
                self._fetch_http(place, source, target, advance)

    def _fetch_http(self, url: str, source: Source, target: Path, advance: Advance) -> None:
        host = urlsplit(url).netloc
        retries = RETRIES
        if host in self._unreachable_hosts:
            retries = 0
        try:
            http.fetch_http(url, target, source, advance, retries=retries)
        except Unreachable:
            self._unreachable_hosts.add(host)
            raise

    def _estimate_bytes(self, source: Source) -> int:
        """Return the disk space to ask for: for an archive, or for the first file, that of all."""
        if source.unpack or not raw_folder.list_files(self.folder.path):
            return max(source.size, self.folder.count_missing_bytes())
        return source.size

    def find_right_file(self, place: Path, source: Source, nothing: str) -> Path:
        """Return the first file in a folder that is the source. Raises NotServed with what is
        wrong with each candidate, or with the reason `nothing` where there is none."""
        reasons = []
        for file in self.find_files(place, source):
            mismatch = find_mismatch(file, source)
            if not mismatch:
                return file
            reasons.append(f"{file} {mismatch}")
        raise NotServed("; ".join(reasons) or nothing)

    def find_files(self, place: Path, source: Source) -> list[Path]:
        """Return the files in a folder that have the name of a source, one at its very path first.

        `place` may be a file itself. Archives that lie in folders are told apart by the very path
        only: train/part_0.tar, test/part_0.tar.
        """
        candidates = [place]
        if not place.is_file():
            candidates = [place / name for name in self._list_files(place)]
        paths = [path for path in candidates if path.name == file_name(source)]
        exact = [path for path in paths if path.as_posix().endswith(f"/{source.path}")]
        if not source.unpack:
            return [*exact, *(path for path in paths if path not in exact)]
        if exact or "/" in source.path:
            return exact
        if place.is_file() and archives.is_archive(place):
            return [place]
        return paths

    def find_copies(self, folder: Path, source: Source) -> dict[str, Path]:
        """Return {target: file}: what an unpacked copy of an archive has, at any depth of
        `folder`."""
        assert source.unpack
        key = (folder, id(source.unpack))  # one rule may serve hundreds of archives
        if key in self._copies:
            return self._copies[key]
        names: list[str] = []
        if folder.is_dir():
            names = self._list_files(folder)
        copies: dict[str, Path] = {}
        for name in names:
            target = _match_tail(source.unpack, [folder.name, *name.split("/")])
            if archives.is_inside(target):
                copies.setdefault(target, folder / name)
        if folder != self.folder.path:
            self._copies[key] = copies
        return copies

    def _list_files(self, folder: Path) -> list[str]:
        """Return the files below a folder.

        A folder other than the raw folder is listed once, the least deep file first, and without
        the raw folder where that lies inside.
        """
        if folder == self.folder.path:
            return raw_folder.list_files(folder)
        if folder not in self._listings:
            outer = folder.resolve()
            names = _leave_out_links(folder, outer, raw_folder.list_files(folder))
            inner = self.folder.path.resolve()
            if outer in inner.parents:
                prefix = f"{inner.relative_to(outer).as_posix()}/"
                names = [name for name in names if not name.startswith(prefix)]
            self._listings[folder] = sorted(names, key=lambda name: name.count("/"))
        return self._listings[folder]

    @contextlib.contextmanager
    def show_progress(self, source: Source) -> Iterator[Advance]:
        """Show a progress bar inside the block; yields a function of (done, total)."""
        task = self.bars.add_task(file_name(source)[:20], total=None, note="")

        def advance(done: int, total: int) -> None:
            self.bars.update(task, completed=done, total=total or None)

        try:
            yield advance
        finally:
            self.bars.remove_task(task)


def _leave_out_links(folder: Path, real: Path, names: list[str]) -> list[str]:
    """Return the regular files, but no link that leads out of the folder.

    A stranger's could lead to any file of this machine. real: the folder, its own links resolved.
    """
    kept = []
    for name in names:
        path = folder / name
        if not path.is_file():
            logger.warning(f"{path} is left out: a link to nothing, or not a regular file")
        elif path.is_symlink() and real not in path.resolve().parents:
            logger.warning(
                f"{path} is left out: a link that leads out of the folder. Put the file itself "
                "there, or name the folder that it is in."
            )
        else:
            kept.append(name)
    return kept


def explain_nothing(place: Path, nothing: str) -> str:
    """Return `nothing`, with the links to folders in `place`, which nobody follows."""
    if not place.is_dir():
        return nothing
    links = [path.name for path in sorted(place.iterdir()) if path.is_symlink() and path.is_dir()]
    if not links:
        return nothing
    return (
        f"{nothing}; {', '.join(links[:3])}: a symbolic link to a folder, which isn't followed. "
        "Copy the folder itself there, or leave the media where they are: preprocess.options.root"
    )


def _match_tail(unpack: archives.Place, parts: list[str]) -> str:
    """Return the target of a file of an unpacked copy, "" where no tail of its path is wanted.

    parts: the name of the folder, then the path below it. The path itself is tried first, then
    with the folder, then shorter and shorter tails.
    """
    for start in (1, 0, *range(2, len(parts))):
        target = archives.find_target(unpack, "/".join(parts[start:]))
        if target:
            return target
    return ""


def is_address(place: str) -> bool:
    """Return whether a place is an http(s) address."""
    return place.startswith(("https://", "http://"))


def find_local_path(place: str) -> Path | None:
    """Return the file or folder that a place is on this machine, None where it has to be fetched.

    A Kaggle dataset is downloaded by kagglehub into its own cache. Raises NotServed where Kaggle
    refuses.
    """
    if place.startswith(KAGGLE):
        return http.fetch_kaggle(place.removeprefix(KAGGLE))
    if place.startswith(GDRIVE) or is_address(place):
        return None
    return Path(place)


def file_name(source: Source) -> str:
    """Return the last part of the path of a source."""
    return source.path.rpartition("/")[2]

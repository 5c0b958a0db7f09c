"""The raw folder of a dataset: its files, their list download.json, and whether they are right."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

from loguru import logger
from pydantic import Field, TypeAdapter, ValidationError

from umemma.errors import UserError
from umemma.system.files import file_size, read_json, sha256
from umemma.types import DatasetSpec, Plain

Item = TypeVar("Item")
Answer = TypeVar("Answer")

RUNNING = 64  # items of map_in_threads that are in progress at a time


class RawFile(Plain):
    """A file of download.json. size: bytes; media: named by records one by one, so only its size is
    checked."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]
    media: bool = False


class RawFolder:
    """The raw folder of a dataset during a download: checksums, earlier state, disk space."""

    def __init__(self, path: Path, dataset: str, spec: DatasetSpec) -> None:
        self.path = path
        self.dataset = dataset
        self.spec = spec
        self._digests: dict[tuple[str, int, int], str] = {}
        self._announced = False
        try:
            self._last_download = read_raw_files(path, "")
        except UserError:
            self._last_download = {}

    def hash_file(self, name: str) -> str:
        """Return the sha256 of a file, computed once for each state of the file."""
        path = self.path / name
        status = path.stat()
        key = (name, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = sha256(path)
        return self._digests[key]

    def is_unchanged(self, name: str) -> bool:
        """Return whether a file is as the last download left it, as far as that is known."""
        known = self._last_download.get(name)
        if known is None:
            return True
        if file_size(self.path / name) != known.size:
            return False
        return known.media or self.hash_file(name) == known.sha256

    def has_content_of(self, name: str, other: Path) -> bool:
        """Return whether the file `name` exists and has the content of `other`."""
        if file_size(self.path / name) != other.stat().st_size:
            return False
        return self.hash_file(name) == sha256(other)

    def count_missing_bytes(self) -> int:
        """Return how many bytes the disk still has to hold, at most."""
        present = 0
        for where, _, names in os.walk(self.path):
            for name in names:
                present += file_size(Path(where) / name) or 0
        return max(0, self.spec.disk - present)

    def require_space(self, needed: int) -> None:
        """Raise UserError where the disk has less than `needed` bytes free.

        The first call also logs the size and the licence of the dataset.
        """
        free = shutil.disk_usage(self.path).free
        if self.spec.disk and not self._announced:
            self._announced = True
            logger.info(
                f"{self.dataset}: {format_bytes(self.spec.size)} to download, "
                f"{format_bytes(self.spec.disk)} on the disk at most; {format_bytes(free)} are "
                f"free. Licence: {self.spec.licence}"
            )
        if needed > free:
            raise UserError(
                f"{format_bytes(needed)} of disk space are needed, {format_bytes(free)} are free",
                str(self.path),
                "Free some space, or make this folder a link to one on a larger disk, and run the "
                "command again.",
            )


def list_files(folder: Path) -> list[str]:
    """Return every file below `folder` as a relative posix path, sorted, without hidden ones."""
    names: list[str] = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = ""
        if where != str(folder):
            prefix = f"{Path(where).relative_to(folder).as_posix()}/"
        for name in files:
            if not name.startswith("."):
                names.append(prefix + name)
    return sorted(names)


def read_raw_files(folder: Path, hint: str) -> dict[str, RawFile]:
    """Return the files that download.json lists, by relative posix path.

    Raises UserError with `hint` where there is no list or it is damaged.
    """
    path = folder / "download.json"
    data = read_json(path, hint)
    try:
        return TypeAdapter(dict[str, RawFile]).validate_python(data.get("files"))
    except ValidationError:
        raise UserError("damaged: lists no files", str(path), hint) from None


def check_raw_files(folder: Path, files: Mapping[str, RawFile], hint: str) -> None:
    """Raise UserError for a file that is missing or differs: by sha256, media by size."""

    def is_right(name: str) -> bool:
        path = folder / name
        file = files[name]
        if file_size(path) != file.size:
            return False
        return file.media or sha256(path) == file.sha256

    for name, right in zip(files, map_in_threads(is_right, files), strict=True):
        if not right:
            raise UserError(
                "raw file is missing or differs from download.json",
                str(folder / name),
                hint,
            )


def map_in_threads(work: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
    """Yield `work(item)` for each item, in order, computed by threads.

    Reading files and hashlib release the interpreter lock. At most 65 items are in progress at a
    time, since `items` may be longer than memory.
    """
    in_progress: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor() as pool:
        try:
            for item in items:
                in_progress.append(pool.submit(work, item))
                if len(in_progress) > RUNNING:
                    yield in_progress.popleft().result()
            while in_progress:
                yield in_progress.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def format_bytes(size: float) -> str:
    """Return a size as a person reads it: "17 kB"."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def read_json_or_nothing(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where the file is missing or damaged."""
    try:
        return read_json(path, "")
    except UserError:
        return {}

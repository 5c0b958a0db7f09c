"""Where shards are stored: a folder on a disk, Amazon S3 (s3://), Google Cloud Storage (gs://).

Any other URL that fsspec knows works, too: memory://, and http(s):// to read from. All stages read
and write shards through `Store`, so no other module knows what kind of place it is.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from umemma.errors import UserError
from umemma.system.files import new_file, remove_leftovers

CHUNK = 2**20  # bytes copied at a time
HTTP = ("http://", "https://")
FAILURES = {  # modules and exceptions that file systems let through
    "http": [("aiohttp", "ClientError")],
    "https": [("aiohttp", "ClientError")],
    "s3": [("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError")],
    "gs": [("aiohttp", "ClientError"), ("gcsfs.retry", "HttpError")],
}
RETRY_PAUSES = (0.2, 1.0, 5.0)  # s before bytes are asked for again


class Store:
    """The files of one folder or bucket prefix, by name.

    A new file appears whole or not at all. Raises UserError where the place cannot be reached or
    written. A Store can be pickled: fsspec's file system is made on first use.
    """

    def __init__(self, url: str) -> None:
        self.url = url.removeprefix("file://").rstrip("/")
        self.remote = "://" in self.url
        self._file_system: Any = None

    def at(self, name: str) -> str:
        """Return the path or URL of a file."""
        return f"{self.url}/{name}"

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None where there is none."""
        with self._explain_failures(name):
            try:
                if self.remote:
                    return int(self.file_system.info(self.at(name))["size"])
                return Path(self.at(name)).stat().st_size
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, None where there is none."""
        with self._explain_failures(name):
            try:
                if self.remote:
                    return bytes(self.file_system.cat_file(self.at(name)))
                return Path(self.at(name)).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Return the bytes of each (name, offset, size), from a bucket all at once.

        They are fewer where a file ends before. What a connection cuts off is asked for again.
        Raises UserError for a file that is missing, and for a server that sends whole files.
        """
        if not self.remote:
            return [self._read_local_range(*wanted) for wanted in ranges]
        for pause in RETRY_PAUSES:
            try:
                return self._read_remote_ranges(ranges)
            except UserError as error:
                cause = error.__cause__
                if cause is None or isinstance(cause, (FileNotFoundError, PermissionError)):
                    raise
                time.sleep(pause)
        return self._read_remote_ranges(ranges)

    def _read_local_range(self, name: str, offset: int, size: int) -> bytes:
        with self._explain_failures(name), open(self.at(name), "rb") as file:
            file.seek(offset)
            return file.read(size)

    def _read_remote_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        if not ranges:
            return []
        names, starts, sizes = zip(*ranges, strict=True)
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        paths = [self.at(name) for name in names]
        with self._explain_failures(""):
            found = self.file_system.cat_ranges(paths, list(starts), ends, on_error="return")
        for name, size, data in zip(names, sizes, found, strict=True):
            with self._explain_failures(name):
                if isinstance(data, Exception):
                    raise data
            if len(data) > size:
                what = "the server sends whole files, not the bytes that are asked for"
                hint = "Use a server that answers ranges of bytes, or copy the shards to a folder."
                raise UserError(what, self.at(name), hint)
        return list(found)

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path | None]:
        """Give the path of a file on this machine's disk, None where there is no such file.

        A remote file is copied to a temporary folder, which is removed at the end of the block.
        """
        path = Path(self.at(name))
        if not self.remote:
            if path.is_file():
                yield path
            else:
                yield None
            return
        with tempfile.TemporaryDirectory(prefix="umemma-") as folder:
            path = Path(folder) / name
            if self._copy(name, path):
                yield path
            else:
                yield None

    def _copy(self, name: str, path: Path) -> bool:
        """Copy a remote file to `path`; returns whether there is such a file."""
        with self._explain_failures(name):
            try:
                with self.file_system.open(self.at(name), "rb") as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy, CHUNK)
            except FileNotFoundError:
                return False
        return True

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """Give a path on this machine's disk to write to; it becomes `name` at the end of the block
        unless that raises."""
        with self._explain_failures(name), contextlib.ExitStack() as stack:
            if not self.remote:
                yield stack.enter_context(new_file(Path(self.at(name))))
                return
            if self.url.startswith(HTTP):  # fsspec would try to post it
                raise NotImplementedError
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="umemma-"))
            path = Path(folder) / name
            yield path
            self.file_system.makedirs(self.url, exist_ok=True)
            self.file_system.put_file(str(path), self.at(name))

    def list_names(self) -> list[str]:
        """Return the names of the files, sorted, without hidden ones."""
        with self._explain_failures(""):
            try:
                names = self._list_all_names()
            except FileNotFoundError:
                return []
        return sorted(name for name in names if not name.startswith("."))

    def _list_all_names(self) -> list[str]:
        if not self.remote:
            return [path.name for path in Path(self.url).iterdir() if path.is_file()]
        paths = self.file_system.ls(self.url, detail=False)
        return [str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths]

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        with self._explain_failures(name), contextlib.suppress(FileNotFoundError):
            if self.remote:
                self.file_system.rm_file(self.at(name))
            else:
                Path(self.at(name)).unlink()

    def remove_leftovers(self) -> None:
        """Remove what processes of this machine left half-written when they were killed."""
        if not self.remote:
            remove_leftovers(Path(self.url))

    @property
    def file_system(self) -> Any:
        """The fsspec file system of the URL."""
        if self._file_system is None:
            self._file_system = self._make_file_system()
        return self._file_system

    def _make_file_system(self) -> Any:
        import fsspec

        protocol = self.url.split("://")[0]
        try:
            return fsspec.url_to_fs(self.url)[0]
        except (ImportError, ValueError) as error:
            hint = f"Install what fsspec needs for {protocol}://."
            if protocol in ("s3", "gs"):
                hint = f"Run: pip install 'umemma[{protocol}]'"
            raise UserError(f"can't be opened: {error}", self.url, hint) from None

    @contextlib.contextmanager
    def _explain_failures(self, name: str) -> Iterator[None]:
        """Turn what a disk or a server reports inside the block into a UserError."""
        try:
            yield
        except NotImplementedError:
            raise UserError(
                "can only be read",
                self.at(name),
                "Write shards to a folder or a bucket.",
            ) from None
        except _list_failures(self.url) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UserError(
                f"can't be read or written: {reason}",
                self.at(name),
                "Check the place and its disk.",
            ) from error


def _list_failures(url: str) -> tuple[type[Exception], ...]:
    """Return what a file system raises where its disk or server fails, such as no credentials."""
    failures: list[type[Exception]] = [OSError]
    for module, name in FAILURES.get(url.split("://")[0], []):
        with contextlib.suppress(ImportError):  # so there is no such file system either
            failures.append(getattr(importlib.import_module(module), name))
    return tuple(failures)

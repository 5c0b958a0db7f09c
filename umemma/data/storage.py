"""A folder of shards: on a disk, or behind any URL that fsspec knows (s3://, gs://, memory://, http:// to read)."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from umemma.errors import UserError
from umemma.system.files import new_file, sweep


class Store:
    """Files by name. A new one appears whole or not at all. UserError where the place can't be reached or written."""

    def __init__(self, url: str) -> None:
        self.url = url.removeprefix("file://").rstrip("/")
        self.remote = "://" in self.url
        self._fs: Any = None

    def at(self, name: str) -> str:
        """How a file is named to the user, and to fsspec."""
        return f"{self.url}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes, None where there is no such file."""
        with self._reaching(name):
            try:
                return (
                    int(self.fs.info(self.at(name))["size"])
                    if self.remote
                    else Path(self.at(name)).stat().st_size
                )
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes | None:
        """A small file whole, None where there is none."""
        with self._reaching(name):
            try:
                return (
                    bytes(self.fs.cat_file(self.at(name)))
                    if self.remote
                    else Path(self.at(name)).read_bytes()
                )
            except (FileNotFoundError, NotADirectoryError):
                return None

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path | None]:
        """The file on this machine's disk, for as long as the block lasts; None where there is none."""
        path = Path(self.at(name))
        if not self.remote:
            yield path if path.is_file() else None
            return
        with tempfile.TemporaryDirectory(prefix="umemma-") as folder:
            path = Path(folder) / name
            with self._reaching(name):
                try:
                    with self.fs.open(self.at(name), "rb") as source, path.open("wb") as copy:
                        shutil.copyfileobj(source, copy, 2**20)
                except FileNotFoundError:
                    path = Path(folder) / "none"
            yield path if path.is_file() else None

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """A path on this machine's disk to write to; it becomes `name` when the block ends well."""
        with self._reaching(name), contextlib.ExitStack() as stack:
            if not self.remote:
                yield stack.enter_context(new_file(Path(self.at(name))))
                return
            if self.url.startswith(("http://", "https://")):  # fsspec would try to post it
                raise NotImplementedError
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="umemma-"))) / name
            yield path
            self.fs.makedirs(self.url, exist_ok=True)
            self.fs.put_file(str(path), self.at(name))

    def names(self) -> list[str]:
        """The files in the folder, sorted; hidden ones not."""
        with self._reaching(""):
            try:
                if self.remote:
                    found = [
                        str(path).rstrip("/").rsplit("/", 1)[-1]
                        for path in self.fs.ls(self.url, detail=False)
                    ]
                else:
                    found = [path.name for path in Path(self.url).iterdir() if path.is_file()]
            except FileNotFoundError:
                return []
        return sorted(name for name in found if not name.startswith("."))

    def remove(self, name: str) -> None:
        """Nothing happens where there is no such file."""
        with self._reaching(name), contextlib.suppress(FileNotFoundError):
            if self.remote:
                self.fs.rm_file(self.at(name))
            else:
                Path(self.at(name)).unlink()

    def sweep(self) -> None:
        """Remove what processes of this machine left half-written when they were killed."""
        if not self.remote:
            sweep(Path(self.url))

    @property
    def fs(self) -> Any:
        """fsspec's file system, made on first use: a Store itself is only its URL, and so can go to another process."""
        if self._fs is None:
            import fsspec

            protocol = self.url.split("://")[0]
            try:
                self._fs = fsspec.url_to_fs(self.url)[0]
            except (ImportError, ValueError) as error:
                extra = (
                    f"pip install 'umemma[{protocol}]'"
                    if protocol in ("s3", "gs")
                    else f"what it needs for {protocol}://"
                )
                hint = f"Install {extra}."
                raise UserError(f"can't be opened: {error}", self.url, hint) from None
        return self._fs

    @contextlib.contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        failures: tuple[type[Exception], ...] = (OSError,)
        if self.url.startswith(("http://", "https://")):
            from aiohttp import ClientError

            failures = (*failures, ClientError)
        try:
            yield
        except NotImplementedError:
            raise UserError(
                "can only be read", self.at(name), "Write shards to a folder or a bucket."
            ) from None
        except failures as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UserError(
                f"can't be read or written: {reason}",
                self.at(name),
                "Check the place and its disk.",
            ) from error

"""What is in a raw folder, and whether it is right."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from umemma.errors import UserError
from umemma.system.files import file_size, read_json, sha256
from umemma.types import Plain

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class RawFile(Plain):
    """A file of download.json. size: bytes; media: named by records one by one, so checked by size only."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]
    media: bool = False


def tree(folder: Path) -> list[str]:
    """Every file below `folder` as a relative posix path, sorted; what is hidden is left out."""
    names = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        above = "" if where == str(folder) else f"{Path(where).relative_to(folder).as_posix()}/"
        names += [above + name for name in files if not name.startswith(".")]
    return sorted(names)


def raw_files(folder: Path, again: str) -> dict[str, RawFile]:
    """The files that download.json lists, by relative posix path. UserError with the hint `again` for a damaged list."""
    path = folder / "download.json"
    data = read_json(path, again)
    try:
        return TypeAdapter(dict[str, RawFile]).validate_python(data.get("files"))
    except ValidationError:
        raise UserError("damaged: lists no files", str(path), again) from None


def parallel(work: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
    """`work` on each item in threads, the answers in order: reading, and hashlib, let go of the interpreter lock.

    Few are under way at a time: a list may be longer than memory.
    """
    under_way: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor() as pool:
        try:
            for item in items:
                under_way.append(pool.submit(work, item))
                if len(under_way) > 64:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def check(folder: Path, files: Mapping[str, RawFile], again: str) -> None:
    """UserError for a file that is missing or differs: by sha256, media by size."""

    def right(name: str) -> bool:
        path, file = folder / name, files[name]
        return file_size(path) == file.size and (file.media or sha256(path) == file.sha256)

    for name, is_right in zip(files, parallel(right, files), strict=True):
        if not is_right:
            raise UserError(
                "raw file is missing or differs from download.json", str(folder / name), again
            )

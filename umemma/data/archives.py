"""Archives of strangers, unpacked without trust: tar (plain, gz, bz2, xz) and zip, read front to back, once."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Self

from umemma.errors import UserError
from umemma.system.files import new_file

Advance = Callable[[int, int], None]  # (bytes done, bytes in all), for a bar
Place = Callable[[str], str | None]  # Source.unpack

COMPRESSIONS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


class _Member(NamedTuple):
    name: str
    regular: bool  # a plain file, not encrypted
    size: int  # bytes, unpacked
    position: int  # bytes of the archive up to here, about
    open: Callable[[], IO[bytes] | None]


def wanted(place: Place, name: str) -> str | None:
    """Where a member, or a file of an unpacked copy, belongs. None if nowhere: nothing hidden is ever wanted."""
    target = place(name)
    hidden = target is not None and any(re.match(r"\.(?!\.?$)", part) for part in target.split("/"))
    return None if hidden else target


def inside(path: str) -> bool:
    """Whether a posix path names something below the folder that it starts from, on any system."""
    return (
        bool(path.strip("./"))
        and not re.match(r"/|[A-Za-z]:", path)
        and ".." not in path.split("/")
    )


def is_archive(path: Path) -> bool:
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(
    archive: Path,
    folder: Path,
    place: Place,
    *,
    bound: int,
    advance: Advance = lambda done, total: None,
) -> dict[str, str | None]:
    """Put the wanted members of a tar (plain, gz, bz2, xz) or zip into `folder`; where each of all its files belongs.

    Only files are made, each whole or not at all, with no owner, mode or time of the archive. UserError for an archive
    that is damaged, unpacks to more than `bound` bytes, or has a wanted member that is no plain file, is encrypted or
    would leave the folder.
    """
    with archive.open("rb") as file:
        members = _zip if file.read(2) == b"PK" else _tar
    places: dict[str, str | None] = {}
    total = 0
    try:
        with contextlib.closing(members(archive)) as listing:
            for member in listing:
                advance(member.position, archive.stat().st_size)
                name = str(PurePosixPath(member.name.replace("\\", "/")))
                target = wanted(place, name)
                if target is None:
                    if member.regular:
                        places[name] = None
                    continue
                places[name] = target
                if not inside(name) or not inside(target):
                    raise UserError(
                        f"hostile: its member {name!r} would leave the folder", str(archive)
                    )
                if not member.regular:
                    raise UserError(
                        f"hostile: its member {name!r} is a link, a device or encrypted",
                        str(archive),
                    )
                total += member.size
                if total > bound:
                    raise UserError(
                        f"hostile: it unpacks to more than {bound:,} bytes", str(archive)
                    )
                _write(member, folder / target)
    except (
        EOFError,
        zlib.error,
        lzma.LZMAError,
        tarfile.TarError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        raise _damaged(archive, error) from None
    except OSError as error:
        if (
            error.errno is None
        ):  # as bz2 and gzip complain of their data; a disk's complaint has a number
            raise _damaged(archive, error) from None
        raise
    return places


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(
        f"damaged archive: {error}", str(archive), "Run the command again with a whole one."
    )


def _write(member: _Member, target: Path) -> None:
    try:
        with new_file(target) as aside, aside.open("wb") as file:
            data = member.open()
            if data is not None:
                with data:
                    shutil.copyfileobj(data, file, 2**20)
            if file.tell() != member.size:
                raise EOFError(f"{member.name!r} ends early")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise UserError(
            "one name for a file and a folder", str(target), "Remove it and run the command again."
        ) from None


def _zip(archive: Path) -> Generator[_Member]:
    position = 0
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            regular = kind in (0, stat.S_IFREG) and not info.flag_bits & 1
            if not info.is_dir():
                yield _Member(
                    info.filename,
                    regular,
                    info.file_size,
                    position,
                    functools.partial(file.open, info),
                )
            position += info.compress_size


class _Header(tarfile.TarInfo):
    """tarfile takes a damaged header for the end of the archive; here only its end mark is."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _tar(archive: Path) -> Generator[_Member]:
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(archive.open("rb"))
        magic = raw.read(6)
        raw.seek(0)
        opener = next(
            (opener for start, opener in COMPRESSIONS.items() if magic.startswith(start)), None
        )
        stream = stack.enter_context(opener(raw)) if opener else raw
        tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header))
        for info in tar:
            if not info.isdir():
                yield _Member(
                    info.name,
                    info.isreg(),
                    info.size,
                    raw.tell(),
                    functools.partial(tar.extractfile, info),
                )
        while stream.read(2**20):  # on to the end, where the compression's own checksum stands
            pass

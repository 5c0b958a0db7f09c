"""Archives from strangers, unpacked without trust.

A tar (plain, gz, bz2, xz) or zip is read once, from front to back.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import functools
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Self

from umemma.errors import UserError
from umemma.system.files import new_file

Advance = Callable[[int, int], None]  # (bytes done, bytes in all), for a progress bar
Place = Callable[[str], str | None]  # Source.unpack

COMPRESSIONS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
DAMAGE = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    RecursionError,  # header upon header
    UnicodeDecodeError,  # a name of a zip that says it is UTF-8
    NotImplementedError,
)
CHUNK = 2**20  # bytes read at a time
# The headers of a tar that hold a long name, or the fields of pax, for the member after them.
LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
MAX_HEADER = 2**20  # bytes
MAX_READS_AT_END = 8


class Member(NamedTuple):
    """A member of an archive. regular: a plain file that is not encrypted; size: bytes, unpacked;
    position: bytes of the archive up to here, about."""

    name: str
    regular: bool
    size: int
    position: int
    open: Callable[[], IO[bytes] | None]


def find_target(place: Place, name: str) -> str | None:
    """Return where a member, or a file of an unpacked copy, belongs; None where nowhere.

    A hidden file is never wanted.
    """
    target = place(name)
    if target is None:
        return None
    for part in target.split("/"):
        if re.match(r"\.(?!\.?$)", part):
            return None
    return target


def is_inside(path: str) -> bool:
    """Return whether a posix path, on any system, names something below the folder that it starts
    from."""
    if not path.strip("./"):
        return False
    if re.match(r"/|[A-Za-z]:", path):
        return False
    return ".." not in path.split("/")


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or a tar."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(
    archive: Path,
    folder: Path,
    place: Place,
    *,
    bound: int,
    advance: Advance = lambda done, total: None,
) -> dict[str, str | None]:
    """Put the wanted members of a tar (plain, gz, bz2, xz) or zip into `folder`.

    Returns where each file of the archive belongs, None for one that is not wanted. Only files are
    made, each whole or not at all, without an owner, mode or time of the archive. Raises UserError
    for an archive that is damaged, unpacks to more than `bound` bytes, or has a wanted member that
    is not a plain file, is encrypted or would leave the folder.
    """
    places: dict[str, str | None] = {}
    total = 0
    with refuse_damage(archive), contextlib.closing(list_members(archive)) as members:
        for member in members:
            advance(member.position, archive.stat().st_size)
            name = str(PurePosixPath(member.name.replace("\\", "/")))
            target = find_target(place, name)
            if target is None:
                if member.regular:
                    places[name] = None
                continue
            places[name] = target
            check_member(archive, member, name, target)
            total += member.size
            if total > bound:
                raise UserError(
                    f"hostile: it unpacks to more than {bound:,} bytes",
                    str(archive),
                )
            _write(member, folder / target)
    return places


@contextlib.contextmanager
def refuse_damage(archive: Path) -> Iterator[None]:
    """Raise UserError where reading an archive inside the block finds it damaged."""
    try:
        yield
    except DAMAGE as error:
        raise _damaged(archive, error) from None
    except OSError as error:
        # bz2 and gzip report bad data without a number; a zip may name a place before its start.
        if error.errno in (None, errno.EINVAL):
            raise _damaged(archive, error) from None
        if error.errno == errno.ENAMETOOLONG:
            raise UserError("hostile: a name that is too long", str(archive)) from None
        raise


def list_members(archive: Path) -> Generator[Member]:
    """Yield the members of an archive that are no folders, from front to back."""
    with archive.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        return _list_zip(archive)
    return _list_tar(archive)


def check_member(archive: Path, member: Member, name: str, target: str) -> None:
    """Raise UserError for a wanted member that would leave the folder or is not a plain file."""
    if not is_inside(name) or not is_inside(target):
        raise UserError(f"hostile: its member {name!r} would leave the folder", str(archive))
    if not member.regular:
        raise UserError(
            f"hostile: its member {name!r} is a link, a device or encrypted",
            str(archive),
        )


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(
        f"damaged archive: {error}",
        str(archive),
        "Run the command again with a whole one.",
    )


def _write(member: Member, target: Path) -> None:
    try:
        with new_file(target) as partial, partial.open("wb") as file:
            data = member.open()
            if data is not None:
                with data:
                    shutil.copyfileobj(data, file, CHUNK)
            if file.tell() != member.size:
                raise EOFError(f"{member.name!r} ends early")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise UserError(
            "one name for a file and a folder",
            str(target),
            "Remove it and run the command again.",
        ) from None


def _list_zip(archive: Path) -> Generator[Member]:
    position = 0
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if not info.filename:
                raise zipfile.BadZipFile("a member without a name")
            kind = stat.S_IFMT(info.external_attr >> 16)
            encrypted = info.flag_bits & 1
            if not info.is_dir():
                yield Member(
                    info.filename,
                    kind in (0, stat.S_IFREG) and not encrypted,
                    info.file_size,
                    position,
                    functools.partial(file.open, info),
                )
            position += info.compress_size


class _Header(tarfile.TarInfo):
    """A tar header that is an error where it is damaged, or holds a name without end.

    tarfile takes a damaged header for the end of the archive; here only the end mark is. And it
    reads a long name, or the fields of pax, into memory whatever their size.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None

    def _proc_member(self, tarfile_: tarfile.TarFile) -> Self:
        if self.type in LONG_HEADERS and not 0 <= self.size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tarfile_)  # type: ignore[misc]


class _Stream:
    """The plain bytes of a tar, for tarfile, which skips a member by reading on, to any size that
    its header tells: for centuries, where the file has ended long before."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.reads_at_end = 0

    def read(self, size: int) -> bytes:
        data: bytes = self.stream.read(size)
        if not data:
            self.reads_at_end += 1
            if self.reads_at_end > MAX_READS_AT_END:
                raise EOFError("it ends early")
        return data


def _list_tar(archive: Path) -> Generator[Member]:
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(archive.open("rb"))
        stream = stack.enter_context(_decompress(raw))
        source: Any = _Stream(stream)
        tar = stack.enter_context(tarfile.open(fileobj=source, mode="r|", tarinfo=_Header))
        for info in tar:
            if not info.isdir():
                yield Member(
                    info.name,
                    info.isreg(),
                    info.size,
                    raw.tell(),
                    functools.partial(tar.extractfile, info),
                )
        while stream.read(CHUNK):  # to the end, where the checksum of the compression stands
            pass


def _decompress(raw: IO[bytes]) -> Any:
    """Return a stream of the plain bytes of a file that may be compressed, as its start says."""
    start = raw.read(6)
    raw.seek(0)
    for magic, opener in COMPRESSIONS.items():
        if start.startswith(magic):
            return opener(raw)
    return contextlib.nullcontext(raw)

"""Raw files: fetched so that a cut costs nothing, unpacked without trust, and checked against what is known of them.

HTTP ranges: RFC 9110, sections 13.1.5 (If-Range), 14 (Range) and 15.5.17 (416). Archives are read front to back, once.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from umemma.contracts import Plain, Source
from umemma.errors import UserError
from umemma.files import new_file, read_json, sha256

Advance = Callable[[int, int], None]  # (bytes done, bytes in all or 0), for a bar
Answer = TypeVar("Answer")
Place = Callable[[str], str | None]  # Source.unpack

TIMEOUT = (10.0, 60.0)  # s to connect, s between two bytes
UNSIZED = 2**30  # bytes that a server may send without saying how many
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that are worth another try
COMPRESSIONS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


class NotServed(Exception):
    """This place doesn't give the file, and why. Another place may."""


class Unreachable(NotServed):
    """The host itself isn't there, so that none of its files is."""


class _Passing(Exception):
    """What may be over at the next try."""


def _silent(done: int, total: int) -> None:
    pass


# What is in the raw folder, and whether it is right. ------------------------------------------------------------------


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


def matches(path: Path, source: Source) -> str:
    """What is wrong with a source's file, "" if nothing: its checksum where one is known, else its size."""
    if not path.is_file():
        return "is missing"
    if not (size := path.stat().st_size):
        return "is empty"
    kind, _, expected = source.checksum.rpartition(":")
    if not kind:
        return f"has {size:,} bytes, not {source.size:,}" if source.size and size != source.size else ""
    try:
        with gzip.open(path) if kind.startswith("gunzip-") else path.open("rb") as file:
            actual = hashlib.file_digest(file, kind.removeprefix("gunzip-")).hexdigest()
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "is a damaged .gz file"
    return "" if actual == expected.lower() else f"has the {kind} {actual}, not {expected.lower()}"


def raw_files(folder: Path, again: str) -> dict[str, RawFile]:
    """The files that download.json lists, by relative posix path. UserError with the hint `again` for a damaged list."""
    path = folder / "download.json"
    data = read_json(path, again)
    try:
        return TypeAdapter(dict[str, RawFile]).validate_python(data.get("files"))
    except ValidationError:
        raise UserError("damaged: lists no files", str(path), again) from None


def parallel(work: Callable[[str], Answer], names: Iterable[str]) -> Iterator[Answer]:
    """`work` on each name in threads, the answers in order: hashlib lets go of the interpreter lock."""
    with ThreadPoolExecutor() as pool:
        try:
            yield from pool.map(work, names)
        finally:
            pool.shutdown(cancel_futures=True)


def check(folder: Path, files: Mapping[str, RawFile], again: str) -> None:
    """UserError for a file that is missing or differs: by sha256, media by size."""

    def right(name: str) -> bool:
        path, file = folder / name, files[name]
        there = path.is_file() and path.stat().st_size == file.size
        return there and (file.media or sha256(path) == file.sha256)

    for name, is_right in zip(files, parallel(right, files), strict=True):
        if not is_right:
            raise UserError("raw file is missing or differs from download.json", str(folder / name), again)


# From the network. ----------------------------------------------------------------------------------------------------


def http(
    url: str, target: Path, source: Source, advance: Advance = _silent, *, retries: int = 5, pause: float = 1.0
) -> None:
    """Fetch `url` to `target`, which appears whole and right or not at all.

    What came before a cut is kept beside it and continued, now or in a later run. After each failure there is a pause of
    `pause` s, 2, 4, ... times that; a try that brought a megabyte sets the count of failures back.
    NotServed where the server doesn't have it, has something else, or fails more than `retries` times; Unreachable, soon,
    where there is no server.
    """
    import requests
    import urllib3

    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target, url)
    failures, reached = 0, False
    with requests.Session() as session:
        while True:
            before = part.size
            try:
                resumed = _answer(session, part, source, advance)
                reason = matches(part.path, source)
                if not reason:
                    break
                part.drop()
                if not resumed:
                    raise NotServed(f"what it serves {reason}")
            except _Passing as error:
                reached, reason = True, str(error)
            except requests.ConnectionError:
                reason = "can't be reached"
            except (requests.Timeout, urllib3.exceptions.HTTPError) as error:
                reached, reason = True, f"the connection was cut or stood still ({type(error).__name__})"
            except requests.RequestException as error:
                raise NotServed(str(error)) from None
            failures = 1 if part.size - before >= 2**20 else failures + 1
            if not reached and failures > min(retries, 2):
                raise Unreachable(reason)
            if failures > retries:
                raise NotServed(reason)
            time.sleep(pause * 2 ** (failures - 1))
    os.replace(part.path, target)
    part.drop()


class _Part:
    """The part of a file that is there already, and a note of what it is a part of. It is dropped if that is not `url`."""

    def __init__(self, target: Path, url: str) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self.note = target.with_name(f".{target.name}.part.json")
        self.url, self.total, self.validator = url, 0, ""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            there, self.total, self.validator = note["url"], int(note["total"]), str(note["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            there = ""
        if there != url:
            self.drop()

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def describe(self, total: int, headers: Mapping[str, str]) -> None:
        """Note what the server sends. A weak ETag ("W/...") promises no equal bytes."""
        etag = headers.get("ETag", "")
        self.total, self.validator = total, etag if etag.startswith('"') else headers.get("Last-Modified", "")
        note = {"url": self.url, "total": self.total, "validator": self.validator}
        self.note.write_text(json.dumps(note), encoding="utf-8")


def _answer(session: Any, part: _Part, source: Source, advance: Advance) -> bool:
    """Bring what `part` lacks; whether something was there before. _Passing or NotServed where it isn't whole then."""
    size = 0 if source.checksum.startswith("gunzip-") else source.size  # mirrors compress differently
    have = part.size
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if have and part.validator:
        headers["If-Range"] = part.validator
    with session.get(part.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("Content-Range", ""))
        whole = int(span[2]) if span and span[2] != "*" else 0
        if answer.status_code == 416 and have:
            if have == (whole or size):
                return True
            part.drop()
            raise _Passing("it has no more than what was there")
        if answer.status_code in PASSING:
            raise _Passing(f"{answer.status_code} {answer.reason}")
        if answer.status_code == 206 and have:
            start = int(span[1]) if span and span[1] else -1
            if start != have or (part.total and whole and whole != part.total):
                part.drop()
                raise _Passing("the file has changed since it was begun")
        elif answer.status_code == 200:
            have = 0  # from the start: it doesn't do ranges, or has another version by now
        else:
            raise NotServed(f"{answer.status_code} {answer.reason}")
        if "text/html" in answer.headers.get("Content-Type", "") and not part.url.endswith((".html", ".htm")):
            raise NotServed("it answers with a web page instead of the file")
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else whole
        if size and total and total != size:
            raise NotServed(f"what it serves has {total:,} bytes, not {size:,}")
        bound = size or total or UNSIZED
        with part.path.open("ab" if have else "wb") as file:
            if not have:  # only now that nothing of another version is there
                part.describe(total, answer.headers)
            advance(have, total or size)
            for chunk in answer.raw.stream(2**15, decode_content=False):  # a .gz stays one
                have += len(chunk)
                if have > bound:
                    file.close()
                    part.drop()
                    raise NotServed(f"it sends more than {bound:,} bytes")
                file.write(chunk)
                file.flush()  # what came is there, whatever comes next
                advance(have, total or size)
    if total and have < total:  # urllib3 before 2.0 takes a cut for the end
        raise _Passing(f"the connection was cut after {have:,} of {total:,} bytes")
    return "Range" in headers and answer.status_code == 206


def gdrive(identifier: str, target: Path, source: Source, advance: Advance = _silent) -> None:
    """Fetch a file of Google Drive to `target`, by gdown (>= 6.5), which continues its own parts. NotServed as `http`."""
    try:
        import gdown
    except ImportError:
        raise NotServed("needs gdown: pip install 'umemma[gdrive]'") from None
    import requests

    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.gdrive")
    try:
        gdown.download(
            id=identifier,
            output=str(aside),
            quiet=True,
            resume=True,
            retries=5,
            timeout=TIMEOUT,
            progress=lambda done, total: advance(done, total or source.size),
        )
    except (gdown.DownloadError, requests.RequestException) as error:
        raise NotServed(" ".join(str(error).split())) from None
    if reason := matches(aside, source):
        aside.unlink(missing_ok=True)
        raise NotServed(f"what it serves {reason}")
    os.replace(aside, target)


def kaggle(handle: str) -> Path:
    """The folder of a Kaggle data set, "owner/name", which kagglehub keeps in its own cache. NotServed as `http`."""
    try:
        import kagglehub
    except ImportError:
        raise NotServed("needs kagglehub: pip install 'umemma[kaggle]'") from None
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # noqa: BLE001  its errors have no base in common; all end up in the message
        raise NotServed(" ".join(str(error).split()) or type(error).__name__) from None


# Archives. ------------------------------------------------------------------------------------------------------------


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
    return bool(path.strip("./")) and not re.match(r"/|[A-Za-z]:", path) and ".." not in path.split("/")


def is_archive(path: Path) -> bool:
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(
    archive: Path, folder: Path, place: Place, *, bound: int, advance: Advance = _silent
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
                    raise UserError(f"hostile: its member {name!r} would leave the folder", str(archive))
                if not member.regular:
                    raise UserError(f"hostile: its member {name!r} is a link, a device or encrypted", str(archive))
                total += member.size
                if total > bound:
                    raise UserError(f"hostile: it unpacks to more than {bound:,} bytes", str(archive))
                _write(member, folder / target)
    except (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _damaged(archive, error) from None
    except OSError as error:
        if error.errno is None:  # as bz2 and gzip complain of their data; a disk's complaint has a number
            raise _damaged(archive, error) from None
        raise
    return places


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(f"damaged archive: {error}", str(archive), "Run the command again with a whole one.")


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
                yield _Member(info.filename, regular, info.file_size, position, functools.partial(file.open, info))
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
        opener = next((opener for start, opener in COMPRESSIONS.items() if magic.startswith(start)), None)
        stream = stack.enter_context(opener(raw)) if opener else raw
        tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header))
        for info in tar:
            if not info.isdir():
                yield _Member(info.name, info.isreg(), info.size, raw.tell(), functools.partial(tar.extractfile, info))
        while stream.read(2**20):  # on to the end, where the compression's own checksum stands
            pass

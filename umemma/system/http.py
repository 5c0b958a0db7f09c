"""Download raw files by HTTP, from Google Drive and from Kaggle.

A download by HTTP that was interrupted resumes where it stopped. HTTP ranges: RFC 9110, sections
13.1.5 (If-Range), 14 (Range) and 15.5.17 (416).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from umemma.system.files import find_mismatch
from umemma.types import Source

Advance = Callable[[int, int], None]  # (bytes received, bytes in all or 0), for a progress bar

TIMEOUT = (10.0, 60.0)  # s to connect, s between two bytes
UNSIZED = 2**30  # bytes accepted from a server that does not say how many it sends
MEBIBYTE = 2**20
CHUNK = 2**15  # bytes
RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
UNREACHED_RETRIES = 2  # of a host that has not answered once


class NotServed(Exception):
    """An address does not serve the file; the text says why. Another address may."""


class Unreachable(NotServed):
    """The host does not answer, so it serves no file at all."""


class _Retryable(Exception):
    """A failure that another attempt may not have."""


def _ignore_progress(done: int, total: int) -> None:
    pass


# HTTP. --------------------------------------------------------------------------------------------


def fetch_http(
    url: str,
    target: Path,
    source: Source,
    advance: Advance = _ignore_progress,
    *,
    retries: int = 5,
    pause: float = 1.0,
) -> None:
    """Download `url` to `target`, which appears complete and correct, or not at all.

    What was received before an interruption is kept beside `target`, and this run or a later one
    continues from there. After each failure there is a pause of `pause` s, then 2, 4, ... times as
    much. An attempt that received a mebibyte resets the count of failures.

    Raises NotServed where the server does not have the file, has a different one, or fails more
    than `retries` times, and Unreachable, after fewer attempts, where the host does not answer.
    """
    import requests

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _PartialFile(target, url)
    failures = 0
    reached = False
    with requests.Session() as session:
        while True:
            size_before = partial.size
            attempt = _try_download(session, partial, source, advance)
            if not attempt.failure:
                break
            reached = reached or attempt.answered
            failures += 1
            if partial.size - size_before >= MEBIBYTE:
                failures = 1
            if not reached and failures > min(retries, UNREACHED_RETRIES):
                raise Unreachable(attempt.failure)
            if failures > retries:
                raise NotServed(attempt.failure)
            time.sleep(pause * 2 ** (failures - 1))
    os.replace(partial.path, target)
    partial.drop()


class _Attempt(NamedTuple):
    """The result of one attempt to complete a file.

    failure: why the file is not complete, "" where it is.
    answered: whether the host responded.
    """

    failure: str
    answered: bool


def _try_download(
    session: Any,
    partial: _PartialFile,
    source: Source,
    advance: Advance,
) -> _Attempt:
    """Make one attempt. Raises NotServed where another one would be useless."""
    import requests
    import urllib3

    try:
        resumed = _download(session, partial, source, advance)
    except _Retryable as error:
        return _Attempt(str(error), True)
    except requests.ConnectionError:
        return _Attempt("can't be reached", False)
    except (requests.Timeout, urllib3.exceptions.HTTPError) as error:
        reason = type(error).__name__
        return _Attempt(f"the connection was cut or timed out ({reason})", True)
    except requests.RequestException as error:
        raise NotServed(str(error)) from None
    mismatch = find_mismatch(partial.path, source)
    if mismatch:
        partial.drop()
        if not resumed:
            raise NotServed(f"the served file {mismatch}")
    return _Attempt(mismatch, True)


class _PartialFile:
    """The received part of a file, and a note that says what it is a part of.

    A part of another address than `url` is removed. The note has the hash of the address, which may
    hold a password.
    """

    def __init__(self, target: Path, url: str) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self.note = target.with_name(f".{target.name}.part.json")
        self.url = url
        self.total = 0
        self.validator = ""
        self.address = hashlib.sha256(url.encode()).hexdigest()
        noted = ""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            noted = note["address"]
            self.total = int(note["total"])
            self.validator = str(note["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            noted = ""
        if noted != self.address:
            self.drop()

    @property
    def size(self) -> int:
        if self.path.is_file():
            return self.path.stat().st_size
        return 0

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def describe(self, total: int, headers: Mapping[str, str]) -> None:
        """Note what the server sends. A weak ETag ("W/...") does not promise equal bytes."""
        self.total = total
        self.validator = headers.get("ETag", "")
        if not self.validator.startswith('"'):
            self.validator = headers.get("Last-Modified", "")
        note = {"address": self.address, "total": self.total, "validator": self.validator}
        self.note.write_text(json.dumps(note), encoding="utf-8")

    def request_headers(self) -> dict[str, str]:
        """Return the headers that request what is not here yet."""
        headers = {"Accept-Encoding": "identity"}
        if self.size:
            headers["Range"] = f"bytes={self.size}-"
            if self.validator:
                headers["If-Range"] = self.validator
        return headers


class _ContentRange(NamedTuple):
    """What the header Content-Range says.

    start: the first byte of the body, -1 = unknown.
    total: bytes of the whole file, 0 = unknown.
    """

    start: int = -1
    total: int = 0


def _parse_content_range(headers: Mapping[str, str]) -> _ContentRange:
    text = headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", text)
    if match is None:
        return _ContentRange()
    start, total = match.groups()
    if total == "*":
        total = "0"
    return _ContentRange(int(start or -1), int(total))


def _download(session: Any, partial: _PartialFile, source: Source, advance: Advance) -> bool:
    """Receive what `partial` lacks. Returns whether this continued an earlier part.

    Raises _Retryable or NotServed where the file is not complete afterwards.
    """
    size = source.size
    if source.checksum.startswith("gunzip-"):
        size = 0  # mirrors compress differently
    have = partial.size
    headers = partial.request_headers()
    with session.get(partial.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if partial.url.startswith("https:") and not response.url.startswith("https:"):
            raise NotServed("it leads from https to http, where anybody may alter the file")
        content_range = _parse_content_range(response.headers)
        if response.status_code == 416 and have:
            if have == (content_range.total or size):
                return True
            partial.drop()
            raise _Retryable("the server has no more bytes than the earlier part")
        resumed = _check_status(response, partial, content_range)
        if not resumed:
            have = 0
        _refuse_web_page(response, partial.url)
        total = content_range.total
        length = response.headers.get("Content-Length", "")
        if length.isdecimal():
            total = have + int(length)
        if size and total and total != size:
            raise NotServed(f"the served file has {total:,} bytes, not {size:,}")
        if not resumed:
            partial.drop()  # a part of another version
            partial.describe(total, response.headers)
        bound = size or total or UNSIZED
        have = _write_body(response, partial, bound, total or size, advance)
    if total and have < total:  # urllib3 before 2.0 treats a cut as the end
        raise _Retryable(f"the connection was cut after {have:,} of {total:,} bytes")
    return resumed


def _check_status(response: Any, partial: _PartialFile, content_range: _ContentRange) -> bool:
    """Return whether the body continues `partial`; otherwise it begins at the first byte."""
    status = response.status_code
    if status in RETRY_STATUSES:
        raise _Retryable(f"{status} {response.reason}")
    if status == 206 and partial.size:
        other_total = partial.total and content_range.total not in (0, partial.total)
        if content_range.start != partial.size or other_total:
            partial.drop()
            raise _Retryable("the file has changed since the download began")
        return True
    if status == 200:  # the server does not support ranges, or has another version now
        return False
    raise NotServed(f"{status} {response.reason}")


def _refuse_web_page(response: Any, url: str) -> None:
    is_page = "text/html" in response.headers.get("Content-Type", "")
    if is_page and not url.endswith((".html", ".htm")):
        raise NotServed("it answers with a web page instead of the file")


def _write_body(
    response: Any,
    partial: _PartialFile,
    bound: int,
    total: int,
    advance: Advance,
) -> int:
    """Append the body to `partial`, at most to `bound` bytes. Returns its size."""
    have = partial.size
    with partial.path.open("ab") as file:
        advance(have, total)
        for chunk in response.raw.stream(CHUNK, decode_content=False):  # a .gz file stays one
            have += len(chunk)
            if have > bound:
                file.close()
                partial.drop()
                raise NotServed(f"it sends more than {bound:,} bytes")
            file.write(chunk)
            file.flush()  # so that a killed process keeps what it received
            advance(have, total)
    return have


# Google Drive and Kaggle. -------------------------------------------------------------------------


def fetch_gdrive(
    identifier: str,
    target: Path,
    source: Source,
    advance: Advance = _ignore_progress,
) -> None:
    """Download a file of Google Drive to `target` with gdown (>= 6.5), which resumes by itself.

    Raises NotServed as `fetch_http` does.
    """
    try:
        import gdown
    except ImportError:
        raise NotServed("needs gdown: pip install 'umemma[gdrive]'") from None
    import requests

    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.gdrive")
    try:
        gdown.download(
            id=identifier,
            output=str(temporary),
            quiet=True,
            resume=True,
            retries=5,
            timeout=TIMEOUT,
            progress=lambda done, total: advance(done, total or source.size),
        )
    except (gdown.DownloadError, requests.RequestException) as error:
        raise NotServed(" ".join(str(error).split())) from None
    mismatch = find_mismatch(temporary, source)
    if mismatch:
        temporary.unlink(missing_ok=True)
        raise NotServed(f"the served file {mismatch}")
    os.replace(temporary, target)


def fetch_kaggle(handle: str) -> Path:
    """Return the folder of the Kaggle dataset "owner/name" in the cache of kagglehub.

    Raises NotServed as `fetch_http` does.
    """
    try:
        import kagglehub
    except ImportError:
        raise NotServed("needs kagglehub: pip install 'umemma[kaggle]'") from None
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # noqa: BLE001  its errors have no common base class
        raise NotServed(" ".join(str(error).split()) or type(error).__name__) from None

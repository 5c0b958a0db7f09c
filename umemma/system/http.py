"""Raw files from the network: by HTTP, so that a cut costs nothing, from Google Drive and from Kaggle.

HTTP ranges: RFC 9110, sections 13.1.5 (If-Range), 14 (Range) and 15.5.17 (416).
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from umemma.system.files import find_mismatch
from umemma.types import Source

Advance = Callable[[int, int], None]  # (bytes done, bytes in all or 0), for a bar

TIMEOUT = (10.0, 60.0)  # s to connect, s between two bytes
UNSIZED = 2**30  # bytes that a server may send without saying how many
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that are worth another try


class NotServed(Exception):
    """This place doesn't give the file, and why. Another place may."""


class Unreachable(NotServed):
    """The host itself isn't there, so that none of its files is."""


class _Passing(Exception):
    """What may be over at the next try."""


def http(
    url: str,
    target: Path,
    source: Source,
    advance: Advance = lambda done, total: None,
    *,
    retries: int = 5,
    pause: float = 1.0,
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
                reason = find_mismatch(part.path, source)
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
                reached, reason = (
                    True,
                    f"the connection was cut or stood still ({type(error).__name__})",
                )
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
            there, self.total, self.validator = (
                note["url"],
                int(note["total"]),
                str(note["validator"]),
            )
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
        self.total, self.validator = (
            total,
            etag if etag.startswith('"') else headers.get("Last-Modified", ""),
        )
        note = {"url": self.url, "total": self.total, "validator": self.validator}
        self.note.write_text(json.dumps(note), encoding="utf-8")


def _answer(session: Any, part: _Part, source: Source, advance: Advance) -> bool:
    """Bring what `part` lacks; whether something was there before. _Passing or NotServed where it isn't whole then."""
    size = (
        0 if source.checksum.startswith("gunzip-") else source.size
    )  # mirrors compress differently
    have = part.size
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if have and part.validator:
        headers["If-Range"] = part.validator
    with session.get(part.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        span = re.fullmatch(
            r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("Content-Range", "")
        )
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
        if "text/html" in answer.headers.get("Content-Type", "") and not part.url.endswith(
            (".html", ".htm")
        ):
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


def gdrive(
    identifier: str, target: Path, source: Source, advance: Advance = lambda done, total: None
) -> None:
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
    if reason := find_mismatch(aside, source):
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

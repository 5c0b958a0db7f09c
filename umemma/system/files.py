"""Atomic writes: a file is written beside its place and renamed, so it is complete or absent."""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import hashlib
import json
import math
import os
import platform
import re
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from umemma.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from umemma.types import Source


# Atomic writes. -----------------------------------------------------------------------------------


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to `path` when the block ends.

    Where the block raises, the temporary file is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _hidden_path(path, "part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill. It replaces the folder `path` when the block ends.

    Where the block raises, or the replacement fails, the previous folder stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary = _hidden_path(path, "part")
    previous = _hidden_path(path, "old")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    finally:
        if previous.exists() and not path.exists():
            os.replace(previous, path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


@contextlib.contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill. When the block ends, its files replace those of `folder`.

    The other files of `folder` stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    temporary = _hidden_path(folder, "part")
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Clean up after killed processes of this machine.

    Incomplete files are removed, and a folder that was about to be replaced is moved back.
    """
    for path in [*folder.glob(".*.part"), *folder.glob(".*.old")]:
        match = re.fullmatch(r"\.(.+)\.([^.]*)-(\d+)\.(part|old)", path.name)
        if match is None:
            continue
        name, host, process, kind = match.groups()
        if host != _host() or psutil.pid_exists(int(process)):
            continue
        if kind == "old" and not (folder / name).exists():
            os.replace(path, folder / name)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _hidden_path(path: Path, kind: str) -> Path:
    """Return a hidden path beside `path` that names the process, as others may share the disk."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}.{kind}")


def _host() -> str:
    return platform.node().replace(".", "-")


# Formats. -----------------------------------------------------------------------------------------


def save_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a .safetensors file with the file mode that any new file gets here.

    safetensors itself lets only the owner read.

    about: metadata of the file.
    """
    from safetensors.torch import save_file  # imports torch, which --help does without

    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)  # as the umask or the folder's access list decides
    metadata = None
    if about is not None:
        metadata = dict(about)
    save_file(dict(tensors), path, metadata)
    path.chmod(mode)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file with sorted keys."""
    text = json.dumps(data, indent=2, sort_keys=True) + "\n"
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace_nan(data: Any) -> Any:
    """Return the data with null in place of NaN and infinity, which JSON lacks."""
    if isinstance(data, Mapping):
        return {key: replace_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [replace_nan(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def write_csv(
    path: Path, headings: Sequence[str], rows: Iterable[Sequence[Any]], nan: str = ""
) -> None:
    """Write a table; a number that is no integer has 6 digits. nan: what stands for NaN."""

    def format_value(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        if math.isnan(value):
            return nan
        return f"{value:.6f}"

    with new_file(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headings)
        for row in rows:
            writer.writerow([format_value(value) for value in row])


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises UserError where the file is missing or damaged; `hint` says how to make it.
    """
    try:
        check_regular(path)
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("not there yet", str(path), hint) from None
    except (ValueError, RecursionError):
        raise UserError("damaged: not JSON", str(path), hint) from None
    if not isinstance(data, dict):
        raise UserError("damaged: not a JSON object", str(path), hint)
    return data


def check_regular(path: Path) -> None:
    """Raise OSError for a pipe or a device, which one may wait for or read for ever."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


# Sizes and checksums. -----------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """Return the SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_size(path: Path) -> int | None:
    """Return the bytes of a file, or None where there is no such file.

    A list of files may contain names that no file system allows. There is no such file either.
    """
    try:
        if path.is_file():
            return path.stat().st_size
    except (OSError, ValueError):
        pass
    return None


def find_mismatch(path: Path, source: Source) -> str:
    """Return what is wrong with the file of a source, or "" where it is right.

    The checksum is compared where one is known, otherwise the size.
    """
    size = file_size(path)
    if size is None:
        return "is missing"
    if size == 0:
        return "is empty"
    kind, _, expected = source.checksum.rpartition(":")
    expected = expected.lower()
    if not kind:
        if source.size and size != source.size:
            return f"has {size:,} bytes, not {source.size:,}"
        return ""
    try:
        actual = _checksum(path, kind)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "is a damaged .gz file"
    if actual != expected:
        return f"has the {kind} {actual}, not {expected}"
    return ""


def _checksum(path: Path, kind: str) -> str:
    """Return a checksum in hexadecimal. kind: "md5", or "gunzip-md5" of the content of a .gz."""
    if kind.startswith("gunzip-"):
        with gzip.open(path) as content:
            return hashlib.file_digest(content, kind.removeprefix("gunzip-")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()

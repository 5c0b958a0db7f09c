"""Files that are whole or not there: written aside, then renamed."""

from __future__ import annotations

import contextlib
import csv
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


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends well, and is removed when it doesn't."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _beside(path, "part")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `path` when the block ends well. Until then the old one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    aside, old = _beside(path, "part"), _beside(path, "old")
    aside.mkdir()
    try:
        yield aside
        if path.exists():
            os.replace(path, old)
        os.replace(aside, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; when the block ends well its files replace those of `folder`, whose others stay."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = _beside(folder, "part")
    aside.mkdir()
    try:
        yield aside
        for file in sorted(aside.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Tidy up after processes of this machine that were killed: what was half-written goes, what was moved aside returns."""
    for path in [*folder.glob(".*.part"), *folder.glob(".*.old")]:
        match = re.fullmatch(r"\.(.+)\.([^.]*)-(\d+)\.(part|old)", path.name)
        if match is None or match[2] != _host() or psutil.pid_exists(int(match[3])):
            continue
        name, kind = match[1], match[4]
        if kind == "old" and not (folder / name).exists():
            os.replace(path, folder / name)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _beside(path: Path, kind: str) -> Path:
    """A hidden path that says whose it is, so that others who share the disk leave it alone."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}.{kind}")


def _host() -> str:
    return platform.node().replace(".", "-")


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str] | None = None
) -> None:
    """Write a .safetensors file with the mode that any new file has here; safetensors itself lets only the owner read."""
    from safetensors.torch import save_file  # imports torch, which --help does without

    path.touch()
    mode = stat.S_IMODE(
        path.stat().st_mode
    )  # what the umask, or the folder's access list, makes of it
    save_file(dict(tensors), path, None if about is None else dict(about))
    path.chmod(mode)


def write_json(path: Path, data: Any) -> None:
    with new_file(path) as aside:
        aside.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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
    """A JSON object. UserError with `hint` (how to make the file) where there is none or it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("not there yet", str(path), hint) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError("damaged: not JSON", str(path), hint) from None
    if not isinstance(data, dict):
        raise UserError("damaged: not a JSON object", str(path), hint)
    return data


def file_size(path: Path) -> int | None:
    """Bytes of a file that is there, None for none: nor for a name that no disk can hold, which a list may well have."""
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None


def find_mismatch(path: Path, source: Source) -> str:
    """What is wrong with a source's file, "" if nothing: its checksum where one is known, else its size."""
    if (found := file_size(path)) is None:
        return "is missing"
    if not found:
        return "is empty"
    kind, _, expected = source.checksum.rpartition(":")
    if not kind:
        return (
            f"has {found:,} bytes, not {source.size:,}"
            if source.size and found != source.size
            else ""
        )
    try:
        with gzip.open(path) if kind.startswith("gunzip-") else path.open("rb") as file:
            actual = hashlib.file_digest(file, kind.removeprefix("gunzip-")).hexdigest()
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "is a damaged .gz file"
    return "" if actual == expected.lower() else f"has the {kind} {actual}, not {expected.lower()}"

"""Hugging Face Parquet files and WebDataset shards -> a table in JSON lines, media in `files/`.

They are read from front to back, once. Whatever happens, the raw folder has the table and the media
of before, or of now: both are made in a hidden folder, and download.json, without which no stage
uses a raw folder, is removed before they take their places.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from loguru import logger
from rich.progress import Progress

from umemma.data import raw_folder
from umemma.data.conversion import parquet_rows, shard_rows
from umemma.data.conversion.media_writer import Budget, MediaWriter
from umemma.datasets._manifest.options import SPLITS
from umemma.errors import UserError
from umemma.system.files import file_size, new_folder, sha256, write_json

FILES = "files"  # the folder of the media, beside the table
MARK = ".sources.json"  # in FILES: what they were made from
TABLE = "table.jsonl"
SUFFIXES = (".jsonl", ".ndjson")
SHARD = re.compile(r".+\.(tar|tar\.gz|tgz)", re.IGNORECASE)
FORMAT = 1  # of what is written; another one writes it again


def find_sources(origin: Path, table: str, raw: Path) -> dict[str, Path]:
    """Return {name: file} of the Parquet files or shards in a folder, or `origin` itself.

    There are none where `table`, which needs no conversion, is there. raw: the raw folder, in which
    nothing is looked for. Raises UserError for a folder of both kinds.
    """
    if origin.is_file():
        files = {origin.name: origin}
    else:
        names = raw_folder.list_files(origin)
        files = {name: origin / name for name in names if _may_be_read(origin / name, origin, raw)}
    if any(file.name == table for file in files.values()):
        return {}
    shards = {name: file for name, file in files.items() if SHARD.fullmatch(file.name)}
    tables = {name: file for name, file in files.items() if file.suffix.lower() == ".parquet"}
    if not shards or not tables:
        return shards or tables
    # Beside a shard may lie a table of what was downloaded.
    if any(map(parquet_rows.find_media_columns, tables.values())):
        what = "holds shards and Parquet files with media"
        raise UserError(what, str(origin), "Name a folder that holds one of them.", usage=True)
    return shards


def _may_be_read(file: Path, folder: Path, raw: Path) -> bool:
    """Return whether a file is a regular one of this folder.

    A link may lead to where the cache of Hugging Face keeps the files of its snapshots.
    """
    real = file.resolve()
    outer = folder.resolve()
    if raw.resolve() in real.parents or not file.is_file():
        return False
    snapshots = [place for place in (outer, *outer.parents) if place.name == "snapshots"]
    allowed = {outer, *(place.parent / "blobs" for place in snapshots)}
    return bool(allowed & set(real.parents))


def place(origin: Path, raw: Path, table: str, bars: Progress) -> bool:
    """Put the table and the media of `origin` into the raw folder.

    Returns False where there is nothing to convert. Raises UserError for sources that are damaged
    or hostile, and for a table that would not be JSON lines.
    """
    sources = find_sources(origin, table, raw)
    if not sources:
        return False
    if Path(table).suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{origin} has no {table}, and of Parquet files or shards a table is written in JSON "
            "lines",
            "preprocess.options.table",
            f"Set it to {TABLE}, or start with: umemma init {origin}",
            usage=True,
        )
    mark: dict[str, Any] = {"format": FORMAT, "name": table}
    mark["sources"] = {name: sha256(file) for name, file in sources.items()}
    if _is_current(raw, table, mark):
        logger.info(f"{raw / FILES}: written out before, from the same files")
        return True
    if (raw / FILES).exists() and not (raw / FILES / MARK).exists():
        raise UserError(
            "there already, and not made by umemma",
            str(raw / FILES),
            "Move this folder away: the media are written to a folder of this name.",
        )
    with new_folder(raw / FILES) as folder:
        write_out(sources, folder, folder / TABLE, bars)
        mark["table"] = sha256(folder / TABLE)
        write_json(folder / MARK, mark)
        (raw / "download.json").unlink(missing_ok=True)
        os.replace(folder / TABLE, raw / table)
    return True


def _is_current(raw: Path, table: str, mark: Mapping[str, Any]) -> bool:
    """Return whether the table and the media in the raw folder were made from the same files."""
    present = raw_folder.read_json_or_nothing(raw / FILES / MARK)
    if not (raw / table).is_file() or present != {**mark, "table": sha256(raw / table)}:
        return False
    try:
        files = raw_folder.read_raw_files(raw, "")
    except UserError:  # the download ended after the conversion
        return True
    return all(file_size(raw / name) == file.size for name, file in files.items())


def write_out(
    sources: Mapping[str, Path], folder: Path, table: Path, bars: Progress, most: int = 0
) -> None:
    """Write the media of sources to a folder, and the table that names them in FILES.

    most: media to write of each column, 0 = all; then the rows after them name these again.
    """
    media = MediaWriter(folder, FILES, most)
    left_out = Counter[str]()
    splits = {name: find_split(name) for name in sources}
    has_splits = len(set(splits.values())) > 1
    task = bars.add_task("converting", total=len(sources), note="")
    rows = 0
    with table.open("x", encoding="utf-8") as file:
        for name, source in sorted(sources.items()):
            budget = Budget(source)
            for row in _read_rows(source, media, budget, left_out):
                if has_splits and isinstance(row, dict):
                    row = {"split": splits[name], **row}
                line = json.dumps(row, default=_describe) + "\n"
                budget.spend(len(line))
                file.write(line)
                rows += 1
            bars.advance(task)
    for reason, count in sorted(left_out.items()):
        logger.warning(f"left out {count:,} times: {reason}")
    logger.info(f"{rows:,} rows converted, of {len(sources):,} files")


def _read_rows(
    source: Path, media: MediaWriter, budget: Budget, left_out: Counter[str]
) -> Iterator[dict[str, Any] | str]:
    if source.suffix.lower() == ".parquet":
        return parquet_rows.read_rows(source, media, budget, left_out)
    return shard_rows.read_rows(source, media, budget, left_out)


def find_split(name: str) -> str:
    """Return the split that the path of a file says, such as `data/train-00000-of-00002.parquet`,
    "" for none. What stands nearest to the end decides."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), "")


def _describe(value: Any) -> Any:
    """Return a cell that JSON does not know, as the tables of a manifest have it."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    return str(value)

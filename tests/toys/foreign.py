"""Small Parquet files as the library `datasets` writes them, and WebDataset shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PNG = b"\x89PNG\r\n\x1a\n"
CLASSES = ("cat", "dog")


def write_parquet(path: Path, columns: Mapping[str, list[Any]], **features: Any) -> None:
    """Write a table whose `label` is a ClassLabel of cat and dog. features: of further columns."""
    names = {"_type": "ClassLabel", "names": list(CLASSES)}
    about = {"info": {"features": {"label": names, **features}}}
    table = pa.table(dict(columns)).replace_schema_metadata({"huggingface": json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def medium(content: bytes | None, path: str | None = None) -> dict[str, Any]:
    """Return a cell that holds a file."""
    return {"bytes": content, "path": path}


def write_shard(path: Path, members: Mapping[str, bytes], mode: str = "w") -> None:
    """Write a tar of files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

"""Tables of a user, in every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from umemma.datasets import manifest
from umemma.types import Record, Unreadable
from umemma.validation import validate

CELLS = "unreadable row: wrong number of cells"
QUOTES = "unreadable row: quotes don't match or a cell is too long"
FORMATS = ["csv", "tsv", "parquet", "jsonl", "ndjson"]
# A row per kind of sample. 1: pictures, sound, text. 2: text only. 3: an event. 4: no split said.
ROWS = [
    {
        "id": "one",
        "file": "v/a.mp4",
        "said": 'two, "dogs"\nand a cät',
        "label": "dog",
        "side": "train",
    },
    {"id": "two", "said": "nobody", "label": "cat", "side": "Validation", "pack": "g"},
    {
        "id": "three",
        "file": "v/b.mp4",
        "label": "dog",
        "side": "test",
        "from": 0.5,
        "to": 2,
        "pack": "g",
    },
    {"id": "four", "file": "./v/c.mp4", "said": " ", "label": "cat", "pack": "h"},
]  # fmt: skip
FIELDS = ["id", "file", "said", "label", "side", "pack", "from", "to"]
ALL = {
    "columns": {"audio": "file", "video": "file", "text": "said"},
    "key": "id",
    "split": "side",
    "group": "pack",
    "start": "from",
    "end": "to",
}


def options(**changes) -> manifest.Options:
    return validate(
        manifest.Options, {"columns": {"image": "file"}} | changes, "settings", "preprocess.options"
    )


def write(folder: Path, rows: list[dict], suffix: str = "csv") -> str:
    """Write a table and give its name. Its columns are those of the rows."""
    path = folder / f"table.{suffix}"
    fields = list(dict.fromkeys(name for row in rows for name in row))
    if suffix == "parquet":
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in fields}), path)
    elif suffix in ("jsonl", "ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, fields, delimiter="\t" if suffix == "tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return path.name


def read(folder: Path, **changes) -> dict[str, Record]:
    found = list(manifest.records(folder, options(**changes)))
    by_key = {record.key: record for record in found}
    assert len(by_key) == len(found)
    return by_key


def problems(folder: Path, **changes) -> list[str]:
    """What is wrong with each row, in the order of the table.

    A problem comes without a label and without media.
    """
    found = read(folder, **changes)
    splits = manifest.spec(folder, options(**changes)).splits
    for record in found.values():
        assert record.split in splits
        assert not record.problem or (record.label is None and not record.media)
    return [found[key].problem for key in sorted(found)]


def unreadable(folder: Path, modality: str, **changes) -> list[str]:
    """Why the medium of each row, in the order of the table, can't be read; such a row keeps its
    label, and is no problem.
    """
    found = read(folder, **changes)
    media = [found[key].media[modality] for key in sorted(found)]
    assert all(record.label is not None and not record.problem for record in found.values())
    return [one.reason if isinstance(one, Unreadable) else "" for one in media]


def clips(*names: str) -> list[dict]:
    return [{"file": f"{name}.mp4", "label": "ab"[n % 2]} for n, name in enumerate(names)]

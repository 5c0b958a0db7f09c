"""Columns of numbers in a manifest: vectors, series and rows of a table, in every format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toys.tables import FORMATS, options, read, unreadable, write

from umemma.datasets import manifest
from umemma.errors import UserError
from umemma.types import Record, Series

ALL = {
    "columns": {
        "scan": "scan",
        "parts": ["p", "q"],
        "wrist": "wrist",
        "foot": ["x", "y"],
        "chart": ["age", "zip", "ward"],
    },
    "kinds": {
        "scan": "vector",
        "parts": "vector",
        "wrist": "series",
        "foot": "series",
        "chart": "table",
    },
    "rates": {"wrist": 50.0, "foot": "hz"},
    "categories": ["zip"],
}
ROWS = [
    {"scan": [1.5, 2], "p": 1, "q": 2.5, "wrist": [[1, 2], [3, 4], [5, 6]], "x": [1, 2, 3],
     "y": [4, 5, 6], "hz": 100, "age": 40, "zip": "02134", "ward": "north", "label": "a"},
    {"scan": "s/b.npy", "p": 1, "wrist": "w/b.csv", "y": [4, 5], "zip": "85255", "label": "b"},
    {"q": 3, "label": "a"},
]  # fmt: skip


def write_rows(folder: Path, rows: list[dict], suffix: str) -> str:
    """Write a table; where a format holds no lists beside paths, lists are JSON."""
    if suffix in ("csv", "tsv", "parquet"):
        rows = [
            {
                name: json.dumps(cell) if isinstance(cell, list) else cell
                for name, cell in row.items()
            }
            for row in rows
        ]
    return write(folder, rows, suffix)


def simple(record: Record) -> dict:
    media = {}
    for name, medium in record.media.items():
        rate = None
        if isinstance(medium, Series):
            rate, medium = medium.rate, medium.samples
        if isinstance(medium, np.ndarray):
            medium = np.nan_to_num(medium, nan=-1).tolist()
        media[name] = (medium, rate) if rate is not None else medium
    return media


@pytest.mark.parametrize("suffix", FORMATS)
def test_numbers_are_the_same_in_every_format(tmp_path, suffix):
    records = read(tmp_path, **ALL, table=write_rows(tmp_path, ROWS, suffix))
    whole, files, part = (simple(records[f"row-{n:06}"]) for n in (1, 2, 3))
    assert whole == {
        "scan": [1.5, 2],
        "parts": [1, 2.5],
        "wrist": ([[1, 2], [3, 4], [5, 6]], 50),
        "foot": ([[1, 4], [2, 5], [3, 6]], 100),
        "chart": {"age": 40, "zip": "02134", "ward": "north"},
    }
    assert files == {
        "scan": tmp_path / "s/b.npy",
        "parts": [1, -1],
        "wrist": (tmp_path / "w/b.csv", 50),
        "foot": [[-1, 4], [-1, 5]],  # its rate is unknown
        "chart": {"age": None, "zip": "85255", "ward": None},
    }
    assert part == {"parts": [-1, 3]}


def test_lists_of_parquet_and_its_missing_numbers(tmp_path):
    rows = [{"scan": [1.0, None], "label": "a"}, {"scan": None, "label": "b"}]
    rows.append({"scan": [], "label": "b"})
    columns = {"columns": {"scan": "scan"}, "kinds": {"scan": "vector"}}
    records = read(tmp_path, **columns, table=write(tmp_path, rows, "parquet"))
    assert simple(records["row-000001"]) == {"scan": [1, -1]}
    assert records["row-000002"].problem == "no modality at all"
    assert records["row-000003"].media["scan"].size == 0  # packing finds that nothing is in it


@pytest.mark.parametrize(
    ("modality", "cells", "reason"),
    [
        ("scan", {"scan": "[1, 2"}, "column 'scan' is not a list of numbers"),
        ("scan", {"scan": '["a"]'}, "column 'scan' is not a list of numbers"),
        ("scan", {"scan": "../x.npy"}, "path outside of root"),
        ("parts", {"p": "1", "q": "two"}, "column 'q' is not a number"),
        ("wrist", {"wrist": "[[1, 2], [3]]"}, "column 'wrist' is not a list of numbers"),
        ("foot", {"x": "[1, 2]", "y": "5"}, "column 'y' is not a list of numbers"),
        ("foot", {"x": "[1, 2]", "y": "[1]"}, "channels of different lengths"),
        ("foot", {"x": "[1, 2]", "hz": "fast"}, "sampling rate unreadable"),
        ("foot", {"x": "[1, 2]", "hz": "0"}, "sampling rate unreadable"),
    ],
)
def test_what_is_no_number_is_a_medium_that_cannot_be_read(tmp_path, modality, cells, reason):
    names = ["scan", "p", "q", "wrist", "x", "y", "hz", "age", "zip", "ward"]
    row = {name: cells.get(name, "") for name in names} | {"age": "3", "label": "a"}
    table = write(tmp_path, [row])
    assert unreadable(tmp_path, modality, **ALL, table=table) == [reason]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {"image": ["a", "b"]}}, "'image' is of kind 'image', which has one column"),
        ({"categories": ["zap"]}, "'zap' is not a column of a table"),
        ({"rates": {"scan": 5.0}}, "'scan' is not a series"),
        ({"rates": {"wrist": 0.0}}, "rates.wrist"),
        ({"columns": {"scan": []}}, "columns.scan"),
    ],
)
def test_options_that_make_no_sense(changes, message):
    settings = ALL | changes
    if "columns" in changes:
        settings = {"columns": changes["columns"], "kinds": {"scan": "vector"}}
    with pytest.raises(UserError, match=message):
        options(**settings)


def test_a_missing_column_of_several_is_named_with_its_option(tmp_path):
    table = write(tmp_path, [{"p": 1, "r": 2, "label": "a"}])
    settings = {"columns": {"parts": ["p", "q"]}, "kinds": {"parts": "vector"}, "table": table}
    with pytest.raises(UserError, match="unknown column 'q'") as error:
        read(tmp_path, **settings)
    assert error.value.where == "preprocess.options.columns.parts"


def test_files_of_vectors_and_series_are_downloaded_and_group_their_rows(tmp_path):
    rows = [
        {"scan": "s/a.npy", "label": "a"},
        {"scan": "[1, 2]", "label": "b"},
        {"scan": "s/a.npy", "label": "b"},
        {"scan": "[1, 2]", "label": "a"},
    ]
    chosen = options(
        columns={"scan": "scan"}, kinds={"scan": "vector"}, table=write(tmp_path, rows)
    )
    _, media = manifest.sources(tmp_path, chosen)
    assert media.files == 1
    assert media.unpack("s/a.npy") == "s/a.npy"
    groups = {record.key: record.group for record in manifest.records(tmp_path, chosen)}
    assert [groups[key] for key in sorted(groups)] == ["s/a.npy", "", "s/a.npy", ""]

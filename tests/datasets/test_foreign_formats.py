"""Data of other formats: the scripts of docs/own-data.md that write their files out."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys import documents

from umemma import datasets
from umemma.datasets import manifest
from umemma.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current directory, with a folder for what was downloaded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "downloaded").mkdir()
    return tmp_path


def run_script(test: str) -> list[dict[str, str]]:
    """Run the script of the document that this test is named for, and return the table's rows."""
    (script,) = (block for block in documents.blocks("docs/own-data.md") if block.reason == test)
    exec(compile(script.text, test, "exec"), {})
    return [json.loads(line) for line in Path("my-table/table.jsonl").read_text().splitlines()]


def write_parquet(path: str, rows: int = 3) -> None:
    """Write rows as Hugging Face does; the third lacks its picture."""
    cells = [{"bytes": b"1", "path": "../../x.png"}, {"bytes": b"2", "path": None}, None]
    pq.write_table(pa.table({"image": cells, "label": ["a", "b", "a"]}).slice(0, rows), path)


def test_files_in_parquet_cells_become_a_table():
    write_parquet("downloaded/0.parquet")
    rows = run_script("test_files_in_parquet_cells_become_a_table")
    assert rows == [
        {"image": "image/00000000.png", "label": "a"},
        {"image": "image/00000001.jpg", "label": "b"},
        {"image": "", "label": "a"},
    ]
    assert Path("my-table/image/00000001.jpg").read_bytes() == b"2"


def test_files_in_parquet_cells_are_named_where_a_manifest_meets_them(folder):
    write_parquet("downloaded/0.parquet", rows=2)
    settings = {"table": "0.parquet", "columns": {"image": "image"}}
    options = datasets.read_options(manifest, settings, {"image": "image"})
    with pytest.raises(UserError, match=r"a cell holds a file itself \(bytes and path") as refused:
        [*manifest.sources(folder / "downloaded", options)]
        manifest.spec(folder / "downloaded", options)
    assert "docs/own-data.md" in refused.value.what


def test_files_in_shards_become_a_table():
    members = {
        "a/0.jpg": b"1",
        "a/0.txt": b"two dogs",
        "a/0.cls": b"dog",
        "b/0.flac": b"2",
        "b/0.cls": b"cat",
        "../../c.png": b"3",
        "../../c.cls": b"cat",
    }
    with tarfile.open("downloaded/0.tar", "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    rows = run_script("test_files_in_shards_become_a_table")
    assert rows == [
        {"image": "image/00000000.jpg", "text": "two dogs", "label": "dog"},
        {"audio": "audio/00000001.flac", "label": "cat"},
        {"image": "image/00000002.png", "label": "cat"},
    ]
    assert Path("my-table/image/00000002.png").read_bytes() == b"3"
    assert not Path("../../c.png").exists()

"""Hugging Face Parquet files and WebDataset shards as the input of a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from toys.archives import files
from toys.foreign import PNG, medium, write_parquet, write_shard

from umemma import datasets
from umemma.data.conversion import converter, media_writer
from umemma.datasets import manifest
from umemma.errors import UserError
from umemma.stages import download

RAW = Path("data/raw/mine")
ORIGIN = Path("downloaded")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def take(origin: Path = ORIGIN, table: str = "table.jsonl") -> list[dict[str, object]]:
    """Download a manifest from `origin`, and return the rows of its table."""
    options = {"table": table, "columns": {"image": "image"}}
    download.run("manifest", options, str(origin), {"image": "image"}, "mine")
    return [json.loads(line) for line in (RAW / table).read_text().splitlines()]


def path_of(content: bytes, suffix: str, column: str = "image") -> str:
    """Return where a medium belongs, which follows from its content."""
    name = hashlib.sha256(content).hexdigest()[:32]
    return f"files/{column}/{name[:2]}/{name}{suffix}"


def two_files() -> None:
    """Write a data set of two training files and one for the test."""
    cells = [medium(b"1", "../../x.jpg"), medium(PNG, None), None]
    write_parquet(
        ORIGIN / "data/train-00000-of-00002.parquet", {"image": cells, "label": [0, 1, 0]}
    )
    cells = [medium(PNG, "a.PNG")]
    write_parquet(ORIGIN / "data/train-00001-of-00002.parquet", {"image": cells, "label": [-1]})
    cells = [medium(None, "/home/maker/b.png")]
    write_parquet(ORIGIN / "data/test-00000-of-00001.parquet", {"image": cells, "label": [7]})


# Parquet files. -----------------------------------------------------------------------------------


def test_parquet_files_with_media_become_a_table_and_files():
    two_files()
    known = {"split": "train", "label": "cat"}
    assert take() == [
        {"split": "test", "label": None, "image": "/home/maker/b.png"},
        {**known, "image": path_of(b"1", ".jpg")},
        {**known, "label": "dog", "image": path_of(PNG, ".png")},
        {**known, "image": None},
        {**known, "label": None, "image": path_of(PNG, ".png")},
    ]
    assert (RAW / path_of(b"1", ".jpg")).read_bytes() == b"1"
    listed = json.loads((RAW / "download.json").read_text())["files"]
    media = {name for name, file in listed.items() if file["media"]}
    assert media == {path_of(b"1", ".jpg"), path_of(PNG, ".png")}
    assert set(listed) - media == {"table.jsonl"}


def test_records_of_one_medium_are_a_group():
    cells = [medium(PNG), medium(PNG), medium(b"2")]
    write_parquet(ORIGIN / "a.parquet", {"image": cells, "label": [0, 1, 0]})
    take()
    settings = {"table": "table.jsonl", "columns": {"image": "image"}}
    options = datasets.read_options(manifest, settings, {"image": "image"})
    groups = [record.group for record in manifest.records(RAW, options)]
    assert sorted(map(groups.count, set(groups))) == [1, 2]


def test_lists_of_classes_and_other_cells_are_those_of_a_table():
    tags = {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["a", "b"]}}
    columns = {
        "image": [medium(PNG)],
        "label": [1],
        "tags": [[1, 0]],
        "raw": [b"text"],
        "many": [[medium(b"1")]],
    }
    write_parquet(ORIGIN / "a.parquet", columns, tags=tags)
    (row,) = take()
    assert row == {
        "image": path_of(PNG, ".png"),
        "label": "dog",
        "tags": ["b", "a"],
        "raw": "text",
    }


def test_the_same_files_are_converted_once_and_a_changed_one_again(monkeypatch):
    two_files()
    take()
    first = files(RAW)
    with monkeypatch.context() as patch:
        patch.setattr(converter, "write_out", None)
        take()
    assert files(RAW) == first
    (RAW / path_of(b"1", ".jpg")).unlink()
    take()
    assert files(RAW) == first
    cells = {"image": [medium(b"3", "c.png")], "label": [0]}
    write_parquet(ORIGIN / "data/test-00000-of-00001.parquet", cells)
    assert take()[0]["image"] == path_of(b"3", ".png")


def test_nothing_is_half_converted():
    two_files()
    take()
    first = files(RAW)
    write_shard(ORIGIN / "data/x.parquet", {"not a": b"Parquet file"})
    with pytest.raises(UserError, match="can't be read"):
        take()
    assert files(RAW) == first


def test_the_cache_of_the_hub_is_read_through_its_links_and_no_other_link_is(tmp_path):
    cache = tmp_path / "datasets--x/snapshots/0123"
    write_parquet(tmp_path / "datasets--x/blobs/0", {"image": [medium(PNG)], "label": [0]})
    write_parquet(tmp_path / "elsewhere.parquet", {"image": [medium(b"secret")], "label": [1]})
    cache.mkdir(parents=True)
    (cache / "train.parquet").symlink_to("../../blobs/0")
    (cache / "other.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    (row,) = take(cache)
    assert row["image"] == path_of(PNG, ".png")


def test_files_in_parquet_cells_are_named_where_a_manifest_meets_them(folder):
    write_parquet(ORIGIN / "0.parquet", {"image": [medium(PNG)] * 2, "label": [0, 1]})
    settings = {"table": "0.parquet", "columns": {"image": "image"}}
    options = datasets.read_options(manifest, settings, {"image": "image"})
    with pytest.raises(UserError, match=r"a cell holds a file itself \(bytes and path") as refused:
        [*manifest.sources(folder / ORIGIN, options)]
        manifest.spec(folder / ORIGIN, options)
    assert "docs/own-data.md" in refused.value.what


# Shards. ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mode"), [("0.tar", "w"), ("0.tar.gz", "w:gz")])
def test_shards_become_a_table_and_files(name, mode):
    members = {
        "./a/0.jpg": b"1",
        "a/0.seg.png": b"2",
        "a/0.txt": "zwei Hüte".encode(),
        "a/0.cls": b"3",
        "b/0.flac": b"4",
        "b/0.json": json.dumps({"label": "dog", "tags": ["x"], "key": "no"}).encode(),
        "b/0.meta.pyd": b"pickled",
        "b/._0.jpg": b"hidden",
        "b/1.json": b"[",
    }
    write_shard(ORIGIN / f"train-{name}", members, mode)
    write_shard(ORIGIN / "val.tar", {"0.JPEG": b"5", "0.id": b"7"})
    assert take() == [
        {
            "split": "train",
            "image": path_of(b"1", ".jpg"),
            "seg": path_of(b"2", ".png", "seg"),
            "text": "zwei Hüte",
            "label": "3",
            "key": "a/0",
        },
        {
            "split": "train",
            "audio": path_of(b"4", ".flac", "audio"),
            "label": "dog",
            "tags": ["x"],
            "key": "b/0",
        },
        {"split": "val", "image": path_of(b"5", ".jpeg"), "id": "7", "key": "0"},
    ]


def test_tables_beside_shards_are_not_the_data():
    write_shard(ORIGIN / "0.tar", {"0.jpg": b"1", "0.cls": b"a"})
    write_parquet(ORIGIN / "0.parquet", {"url": ["x"], "label": [0]})
    assert [row["label"] for row in take()] == ["a"]
    write_parquet(ORIGIN / "0.parquet", {"image": [medium(PNG)], "label": [0]})
    with pytest.raises(UserError, match="holds shards and Parquet files with media"):
        take()


# What can be wrong. -------------------------------------------------------------------------------


def name_of_a_parent(path: Path) -> None:
    write_shard(path, {"../../0.jpg": b"1"})


def link(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("0.jpg")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)


def endless_member(path: Path) -> None:
    member = tarfile.TarInfo("0.jpg")
    member.size = 2**40
    path.write_bytes(member.tobuf())


def no_tar(path: Path) -> None:
    path.write_bytes(b"no tar" * 200)


def truncated_shard(path: Path) -> None:
    write_shard(path, {"0.jpg": b"1" * 5000})
    path.write_bytes(path.read_bytes()[:2000])


def nothing_inside(path: Path) -> None:
    write_shard(path, {"README": b"1", "0.pyd": b"1"})


def bomb(path: Path) -> None:
    write_parquet(path, {"image": [medium(bytes(2**20 + 1))], "label": [0]})


def bomb_of_rows(path: Path) -> None:
    write_parquet(path, {"image": [medium(bytes(2**14))] * 65, "label": [0] * 65})


def damaged_page(path: Path) -> None:
    write_parquet(path, {"image": [medium(os.urandom(2**14))], "label": [0]})
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("0.tar", name_of_a_parent, "its member '../../0.jpg' would leave the folder"),
        ("0.tar", link, "its member '0.jpg' is a link, a device"),
        ("0.tar", endless_member, "unpacks to more than 1,048,576 bytes"),
        ("0.tar", no_tar, "damaged archive"),
        ("0.tar", truncated_shard, "damaged archive"),
        ("0.tar", nothing_inside, "holds no sample"),
        ("0.parquet", no_tar, "can't be read"),
        ("0.parquet", bomb, "unpacks to more than 1,048,576 bytes"),
        ("0.parquet", bomb_of_rows, "unpacks to more than 1,048,576 bytes"),
        ("0.parquet", damaged_page, "can't be read"),
    ],
)
def test_what_is_hostile_or_damaged_is_one_error_and_leaves_nothing(
    monkeypatch, name, damage, message
):
    monkeypatch.setattr(media_writer, "SMALL", 2**20)  # bytes that any source may unpack to
    ORIGIN.mkdir()
    damage(ORIGIN / name)
    with pytest.raises(UserError, match=message) as refused:
        take()
    assert refused.value.where == str(Path.cwd() / ORIGIN / name)
    assert files(RAW) == {}
    assert not Path("../../0.jpg").exists()


def test_a_table_of_another_format_is_refused_with_the_way_out():
    two_files()
    with pytest.raises(UserError) as refused:
        take(table="table.csv")
    assert refused.value.where == "preprocess.options.table"
    assert "Set it to table.jsonl" in refused.value.hint


def test_a_folder_of_the_same_name_is_not_replaced():
    two_files()
    (RAW / "files").mkdir(parents=True)
    (RAW / "files/mine.png").write_bytes(b"1")
    with pytest.raises(UserError, match="there already"):
        take()
    assert (RAW / "files/mine.png").read_bytes() == b"1"


def test_a_medium_without_a_known_name_gets_its_suffix_from_its_content():
    starts = {
        b"RIFF....WAVE": ".wav",
        b"RIFF....WEBP": ".webp",
        b"....ftypisom": ".mp4",
        b"\xff\xd8\xff\xe0": ".jpg",
        b"fLaC": ".flac",
        b"?": ".bin",
    }
    cells = [medium(start, "x.exe") for start in starts]
    write_parquet(ORIGIN / "a.parquet", {"image": cells, "label": [0] * len(cells)})
    assert [Path(str(row["image"])).suffix for row in take()] == list(starts.values())

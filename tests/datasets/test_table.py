"""What a table says is the same in every format."""

from __future__ import annotations

import datetime
import pickle
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.tables import ALL, FORMATS, ROWS, options, problems, read, write

from umemma.datasets import _table, manifest
from umemma.errors import UserError
from umemma.types import Clip, Record


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_records(suffix, tmp_path):
    name = write(tmp_path, ROWS, suffix)
    found = read(tmp_path, table=name, **ALL)
    a, b, c = (
        Clip(tmp_path / "v/a.mp4"),
        Clip(tmp_path / "v/b.mp4", 0.5, 2.0),
        Clip(tmp_path / "v/c.mp4"),
    )
    said = 'two, "dogs"\nand a cät'
    assert found["one"] == Record(
        "one", "train", 1, {"audio": a, "text": said, "video": a}, "v/a.mp4"
    )
    assert found["two"] == Record("two", "val", 0, {"text": "nobody"}, "g")
    assert found["three"] == Record("three", "test", 1, {"audio": b, "video": b}, "g")
    assert found["four"].media == {"audio": c, "video": c}
    assert found["four"].group == "h"
    assert pickle.loads(pickle.dumps(found["one"])) == found["one"]  # noqa: S301
    spec = manifest.spec(tmp_path, options(table=name, **ALL))
    assert (spec.name, spec.variant, spec.task, spec.classes) == (
        "manifest",
        "",
        "multiclass",
        ("cat", "dog"),
    )
    assert spec.modalities == ("audio", "text", "video")


def test_a_table_is_read_once_for_all_who_ask_and_anew_when_it_changed(tmp_path, monkeypatch):
    times = []
    read_rows = _table.rows
    monkeypatch.setattr(_table, "rows", lambda *how: times.append(how) or read_rows(*how))
    name = write(tmp_path, ROWS)
    asked = options(table=name, **ALL)
    spec = manifest.spec(tmp_path, asked)
    first = list(manifest.records(tmp_path, asked))
    assert list(manifest.records(tmp_path, asked)) == first
    assert (spec.classes, len(first), len(times)) == (("cat", "dog"), 4, 1)
    manifest.spec(tmp_path, options(table=name))
    assert len(times) == 2  # other options
    write(tmp_path, [*ROWS, ROWS[0] | {"id": "five", "label": "emu"}])
    assert manifest.spec(tmp_path, asked).classes == ("cat", "dog", "emu")
    assert len(times) == 3


def test_lists_of_labels_in_every_format(tmp_path):
    rows = [
        {"file": "1.png", "label": ["b", "a"]},
        {"file": "2.png", "label": ["c"]},
        {"file": "3.png", "label": []},
    ]
    joined = [row | {"label": "|".join(row["label"])} for row in rows]
    tables = [
        write(tmp_path, rows, "jsonl"),
        write(tmp_path, rows, "parquet"),
        write(tmp_path, joined, "csv"),
    ]
    for table in tables:
        found = read(tmp_path, table=table, multilabel=True)
        assert [found[f"row-00000{n}"].label for n in (1, 2, 3)] == [(0, 1), (2,), None]
        assert problems(tmp_path, table=table, multilabel=True) == ["", "", "no label"]
        assert manifest.spec(tmp_path, options(table=table, multilabel=True)).task == "multilabel"
        phrase = "a list of labels in a single-label task"
        assert problems(tmp_path, table=table) == [phrase, "", "no label"]
        assert manifest.spec(tmp_path, options(table=table)).classes == ("c",)


def test_separator_and_classes_can_be_given(tmp_path):
    write(tmp_path, [{"file": "1.png", "label": "b; a;;b"}, {"file": "2.png", "label": "a;d"}])
    settings = {"multilabel": True, "separator": ";", "classes": ["b", "c", "a"]}
    assert read(tmp_path, **settings)["row-000001"].label == (0, 2)
    assert problems(tmp_path, **settings) == ["", "unknown label"]
    assert manifest.spec(tmp_path, options(**settings)).classes == ("b", "c", "a")


def test_numbers_are_labels_too(tmp_path):
    rows = [{"file": "1.png", "label": 7}, {"file": "2.png", "label": None}]
    for suffix in FORMATS:
        table = write(tmp_path, rows, suffix)
        assert manifest.spec(tmp_path, options(table=table)).classes == ("7",)
        assert problems(tmp_path, table=table) == ["", "no label"]
    write(
        tmp_path,
        [{"file": "1.png", "label": float("nan")}, {"file": "2.png", "label": 1.5}],
        "parquet",
    )
    assert problems(tmp_path, table="table.parquet") == ["no label", ""]


def test_a_value_is_the_same_class_in_every_format(tmp_path):
    for values, classes in [
        ([1, 2], ("1", "2")),
        ([1.0, 2], ("1", "2")),
        ([-0.0, 0.5], ("0", "0.5")),
        ([True, False], ("false", "true")),
        ([Decimal("1.00"), Decimal("2.50")], ("1", "2.5")),
        ([1e300, float("inf")], ("1e+300", "inf")),
    ]:
        pq.write_table(
            pa.table({"file": ["1.png", "2.png"], "label": values}), tmp_path / "table.parquet"
        )
        rows = [{"file": f"{n}.png", "label": value} for n, value in enumerate(values)]
        texts = [row | {"label": text} for row, text in zip(rows, classes, strict=True)]
        tables = ["table.parquet", write(tmp_path, texts, "csv")]
        if not isinstance(values[0], Decimal):
            tables.append(write(tmp_path, rows, "jsonl"))
        for table in tables:
            assert manifest.spec(tmp_path, options(table=table)).classes == classes
    write(tmp_path, [{"file": "1.png", "label": "1.0"}, {"file": "2.png", "label": "True"}])
    assert manifest.spec(tmp_path, options()).classes == (
        "1.0",
        "True",
    )  # text is left as it is written
    write(tmp_path, [{"file": "1.png", "label": [1.0, True]}], "jsonl")
    assert manifest.spec(tmp_path, options(table="table.jsonl", multilabel=True)).classes == (
        "1",
        "true",
    )


def test_dates_bytes_and_decimals_of_parquet(tmp_path):
    noon = datetime.datetime(2024, 1, 2, 12, 30)
    row = {
        "id": Decimal("7.00"),
        "file": b"1.png",
        "day": noon.date(),
        "label": noon,
        "side": b"val",
        "at": noon.time(),
    }
    table = pa.table({name: [value, None] for name, value in row.items()})
    pq.write_table(table, tmp_path / "table.parquet")
    settings = {
        "table": "table.parquet",
        "columns": {"image": "file", "text": "at"},
        "key": "id",
        "split": "side",
    }
    found = read(tmp_path, group="day", **settings)
    media = {"image": tmp_path / "1.png", "text": "12:30:00"}
    assert found["7"] == Record("7", "val", 0, media, "2024-01-02")
    assert found["row-000002"].problem == "no modality at all"
    assert manifest.spec(tmp_path, options(**settings)).classes == ("2024-01-02T12:30:00",)
    labels = pa.array([b"\xff", b"a"])
    pq.write_table(
        pa.table({"file": ["1.png", "2.png"], "label": labels}), tmp_path / "table.parquet"
    )
    assert problems(tmp_path, table="table.parquet") == ["unreadable row: not UTF-8", ""]
    late = pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32())  # far after the year 9999
    pq.write_table(
        pa.table({"file": ["1.png", "2.png"], "label": late}), tmp_path / "table.parquet"
    )
    assert problems(tmp_path, table="table.parquet") == [
        "unreadable row: a cell is neither text nor number",
        "",
    ]


def test_what_a_modality_becomes(tmp_path):
    write(tmp_path, [{"s": "a.wav", "i": "b.png", "t": "c.txt", "label": "x"}])
    columns = {"audio": "s", "image": "i", "text": "t"}
    media = read(tmp_path, columns=columns)["row-000001"].media
    assert media == {
        "audio": Clip(tmp_path / "a.wav"),
        "image": tmp_path / "b.png",
        "text": "c.txt",
    }
    media = read(tmp_path, columns=columns, text_files=True)["row-000001"].media
    assert media["text"] == tmp_path / "c.txt"


def test_keys_are_made_safe_and_stay_unique(tmp_path):
    names = ["plain_1-A", "a.b", "a/b", "ä b", ""]
    write(tmp_path, [{"file": "x.png", "label": "l", "id": name} for name in names])
    found = list(read(tmp_path, key="id"))
    assert {"plain_1-A", "row-000005"} < set(found)
    cleaned = sorted(key for key in found if key.startswith("a-b-"))
    assert len(cleaned) == 2
    assert all(len(key) == len("a-b-") + 8 and int(key[4:], 16) >= 0 for key in cleaned)
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyzA0123456789_-") for key in found)
    assert set(found) == set(read(tmp_path, key="id"))


def test_the_order_is_mixed_and_the_same_every_time(tmp_path):
    rows = [{"file": f"{n}.png", "label": "a" if n < 50 else "b"} for n in range(100)]
    write(tmp_path, rows)
    keys = [record.key for record in manifest.records(tmp_path, options())]
    assert keys == [record.key for record in manifest.records(tmp_path, options())]
    assert sorted(keys) != keys
    assert 15 <= sum(key <= "row-000050" for key in keys[:50]) <= 35


def test_a_column_weighs_the_samples(tmp_path):
    rows = [
        {"file": "1.png", "label": "a", "count": 2.5},
        {"file": "2.png", "label": "b", "count": 0},
        {"file": "3.png", "label": "b", "count": -1},
        {"file": "4.png", "label": "b", "count": "many"},
        {"file": "5.png", "label": "b", "count": None},
    ]
    for suffix in ("csv", "jsonl"):
        table = write(tmp_path, rows, suffix)
        found = read(tmp_path, table=table, weight="count")
        weights = [found[f"row-00000{n}"].weight for n in (1, 2, 3, 4, 5)]
        assert weights == [2.5, 0.0, None, None, None]
        assert problems(tmp_path, table=table, weight="count") == [
            "",
            "",
            "a weight below 0, or one that is not finite",
            "no weight, or one that is no number",
            "no weight, or one that is no number",
        ]
        assert read(tmp_path, table=table)["row-000001"].weight is None
    with pytest.raises(UserError, match="cuont"):
        read(tmp_path, table=table, weight="cuont")

"""Your own table: every line of its description, and the same records from all formats."""

from __future__ import annotations

import csv
import datetime
import json
import pickle
import time
import tracemalloc
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.project import ROOT

from umemma import config
from umemma.datasets import manifest
from umemma.errors import UserError
from umemma.types import AudioInput, Clip, Record, Unreadable, VideoInput
from umemma.validation import checked

FIGHTS = ROOT.parent / "shared" / "mirror" / "fight_av"
CELLS = "unreadable row: wrong number of cells"
QUOTES = "unreadable row: quotes don't match or a cell is too long"
FORMATS = ["csv", "tsv", "parquet", "jsonl", "ndjson"]
# A row per kind of sample. 1: pictures, sound, text. 2: text only. 3: an event. 4: no split said.
ROWS = [
    {"id": "one", "file": "v/a.mp4", "said": "two, \"dogs\"\nand a cät", "label": "dog", "side": "train"},
    {"id": "two", "said": "nobody", "label": "cat", "side": "Validation", "pack": "g"},
    {"id": "three", "file": "v/b.mp4", "label": "dog", "side": "test", "from": 0.5, "to": 2, "pack": "g"},
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
    return checked(
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
    """What is wrong with each row, in the order of the table. A problem comes without a label and without media."""
    found = read(folder, **changes)
    splits = manifest.spec(folder, options(**changes)).splits
    for record in found.values():
        assert record.split in splits
        assert not record.problem or (record.label is None and not record.media)
    return [found[key].problem for key in sorted(found)]


def unreadable(folder: Path, modality: str, **changes) -> list[str]:
    """Why the medium of each row, in the order of the table, can't be read; such a row keeps its label, and is no problem."""
    found = read(folder, **changes)
    media = [found[key].media[modality] for key in sorted(found)]
    assert all(record.label is not None and not record.problem for record in found.values())
    return [one.reason if isinstance(one, Unreadable) else "" for one in media]


def clips(*names: str) -> list[dict]:
    return [{"file": f"{name}.mp4", "label": "ab"[n % 2]} for n, name in enumerate(names)]


# What a table says. ---------------------------------------------------------------------------------------------------


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


# Rows and tables that are wrong. --------------------------------------------------------------------------------------


def test_csv_rows_that_cannot_be_read_are_counted(tmp_path):
    lines = [
        b"\xef\xbb\xbffile, label",
        b"1.png,a",
        b"2.png",
        b"",
        b'"3".png,b',
        b"4.png,b,c",
        b"\xff.png,b",
        b"6.png,b",
    ]
    (tmp_path / "table.csv").write_bytes(b"\r\n".join([*lines, b'"7.png,b']))
    expected = ["", CELLS, QUOTES, CELLS, "unreadable row: not UTF-8", "", QUOTES]
    assert problems(tmp_path) == expected
    assert read(tmp_path)["row-000006"].label == 1


@pytest.mark.parametrize("rest", [20_000, 999, 3, 0])
def test_a_quote_that_never_closes_costs_its_own_line_only(rest, tmp_path):
    lines = "".join(f"{n:05d}.png,a\n" for n in range(rest))
    (tmp_path / "table.csv").write_text(f'file,label\n0.png,a\n"1.png,a\n{lines}')
    found = problems(tmp_path)
    assert found == ["", QUOTES, *[""] * rest]
    if rest:
        assert read(tmp_path)["row-000003"].media["image"] == tmp_path / "00000.png"


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_quote_that_a_later_row_closes_costs_its_own_line_only(delimiter, tmp_path):
    def found(*lines: str) -> list[str]:
        path = tmp_path / ("table.csv" if delimiter == "," else "table.tsv")
        path.write_text(
            "\r\n".join(["file,said,label", *lines]).replace(",", delimiter), newline=""
        )
        return problems(tmp_path, table=path.name, columns={"image": "file", "text": "said"})

    assert found('"1.png,x,a', "2.png,x,a", '"3.png",x,b', "4.png,x,a") == [QUOTES, "", "", ""]
    assert found('1.png,"x,a', "2.png,x,a", '3.png,"x",b', "", '4.png,"",a') == [QUOTES, "", "", ""]
    assert found('1.png,"x,a', "2.png,x,a", '3.png,",x",b', "4.png,x,a") == [CELLS, "", "", ""]
    assert found('1.png,"x,a', "2.png,x,a", '3.png,"y\r\nz, w",b', '4.png,"x,a', "5.png,x,a") == [
        *[QUOTES, "", "", QUOTES, ""],
    ]
    # What closes it is the end of a cell that never began. That line must not become a row with a class of its own.
    assert found('"1.png,x,a', "2.png,x,a", '3.png,x,b"', "4.png,x,a") == [CELLS, "", QUOTES, ""]
    assert found('1.png,"two', 'lines",x,b', "3.png,x,a") == [CELLS, QUOTES, ""]


def test_a_cell_of_many_lines_is_one_row(tmp_path):
    said = "\n".join(f'line, {n}\r\n"x"' for n in range(400))
    write(
        tmp_path,
        [
            {"file": "1.png", "said": said, "label": "a"},
            {"file": "2.png", "said": "x", "label": "a"},
        ]
        * 2,
    )
    found = read(tmp_path, columns={"image": "file", "text": "said"})
    assert [found[f"row-00000{n}"].media["text"] for n in (1, 2, 3, 4)] == [said, "x"] * 2


def test_many_quotes_that_never_close_take_no_long_time(tmp_path):
    block = '"1.png,a\n' + "2.png,a\n" * 99
    (tmp_path / "table.csv").write_text("file,label\n" + block * 200)
    start = time.process_time()
    assert Counter(problems(tmp_path)) == {QUOTES: 200, "": 19_800}
    assert time.process_time() - start < 30


def test_the_header_is_the_first_line_that_is_not_empty(tmp_path):
    empty = "\n" * 2000
    for start in ("\n", "\r\n\r\n", "  \n,\n", empty, "\ufeff\n"):
        (tmp_path / "table.csv").write_text(
            f"{start}file,label\n1.png,a\n", encoding="utf-8", newline=""
        )
        assert problems(tmp_path) == [""]
    (tmp_path / "table.csv").write_text(empty)
    with pytest.raises(UserError, match="no rows"):
        read(tmp_path)


def test_json_lines_that_cannot_be_read_are_counted(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"file": "1.png", "label": "a"}',
        b'{"file": "2.png", "la',
        b"",
        b"[1]",
        b"[" * 100_000,
    ]
    lines += [
        b'{"file": "\xff", "label": "a"}',
        b'{"file": "\\ud800", "label": "a"}',
        b'{"file": ["5"], "label": "a"}',
    ]
    (tmp_path / "table.jsonl").write_bytes(b"\n".join(lines))
    broken, strange = (
        "unreadable row: not a JSON object",
        "unreadable row: a cell is neither text nor number",
    )
    expected = ["", broken, broken, broken, *["unreadable row: not UTF-8"] * 2, strange]
    assert problems(tmp_path, table="table.jsonl") == expected


def test_parquet_rows_that_cannot_be_read_are_counted(tmp_path):
    buffers = pa.array([b"1.png", b"\xff.png", b"3.png"]).buffers()
    files = pa.Array.from_buffers(pa.string(), 3, buffers)  # says it is UTF-8 and isn't
    pq.write_table(pa.table({"file": files, "label": ["a", "a", "b"]}), tmp_path / "table.parquet")
    assert problems(tmp_path, table="table.parquet") == ["", "unreadable row: not UTF-8", ""]
    pq.write_table(pa.table({"file": [{"bytes": b""}], "label": ["a"]}), tmp_path / "table.parquet")
    assert problems(tmp_path, table="table.parquet", classes=["a"]) == [
        "unreadable row: a cell is neither text nor number"
    ]


def test_what_is_wrong_with_a_row(tmp_path):
    rows = [
        {"file": "1.png", "label": "a"},
        {"label": "a"},
        {"file": "3.png"},
        {"file": "4.png", "label": "b"},
        {"file": "5.png", "label": "a", "side": "somewhere"},
    ]
    write(tmp_path, rows)
    expected = ["", "no modality at all", "no label", "unknown label", "unknown split"]
    assert problems(tmp_path, classes=["a"], split="side") == expected


def test_event_times(tmp_path):
    times = [("1", "2"), ("", "2"), ("1", ""), ("2", "2"), ("3", "2"), ("", "0")]
    wrong = [
        ("x", "2"),
        ("-1", "2"),
        ("1", "-2"),
        ("nan", ""),
        ("1", "inf"),
        ("inf", ""),
        ("0:01", "0:02"),
    ]
    write(
        tmp_path,
        [{"file": "a.mp4", "label": "l", "s": start, "e": end} for start, end in times + wrong],
    )
    settings = {"columns": {"video": "file"}, "start": "s", "end": "e"}
    expected = [""] * 3 + ["zero-length event"] * 3 + ["event times unreadable"] * len(wrong)
    assert unreadable(tmp_path, "video", **settings) == expected
    found = read(tmp_path, **settings)
    events = [found[f"row-00000{n}"].media["video"] for n in (1, 2, 3)]
    assert [(clip.start, clip.end) for clip in events] == [(1, 2), (0, 2), (1, None)]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_column_that_is_not_there(suffix, tmp_path):
    table = write(tmp_path, clips("one"), suffix)
    with pytest.raises(UserError, match="Did you mean 'file'") as error:
        list(manifest.records(tmp_path, options(table=table, columns={"image": "flie"})))
    assert (error.value.where, error.value.exit_status) == ("preprocess.options.columns.image", 2)
    with pytest.raises(UserError, match="unknown column 'scene'") as error:
        manifest.spec(tmp_path, options(table=table, group="scene"))
    assert error.value.where == "preprocess.options.group"


def test_a_table_that_is_wrong_as_a_whole(tmp_path):
    path = tmp_path / "table.csv"

    def refused(words: str, table: str = "table.csv", **changes) -> UserError:
        with pytest.raises(UserError, match=words) as error:
            list(manifest.records(tmp_path, options(table=table, **changes)))
        return error.value

    assert "umemma download manifest --from" in refused("no such file").hint
    path.write_text("")
    refused("no rows")
    path.write_text("file,label\n")
    refused("no rows")
    path.write_text("file,label\n1.png,\n")
    refused(r"no label in any row \(1 of 1: no label\)")
    path.write_text("file,label\n1.png\n2.png,a,b\n3.png,\n")
    refused(r"no label in any row \(2 of 3: unreadable row: wrong number of cells\)")
    path.write_text("file,label\n1.png,a|b\n")
    refused(r"no label in any row \(1 of 1: a list of labels in a single-label task\)")
    path.write_text("file,file,label\n1.png,2.png,a\n")
    refused("stands there twice")
    path.write_text("file,label\n1.png,a\n", encoding="utf-16")
    refused("header line unreadable")
    (tmp_path / "table.parquet").write_bytes(b"PAR1 and no more")
    refused("can't be read: ", "table.parquet")
    write(tmp_path, [{"file": f"{n}.png", "label": "a"} for n in range(1000)], "parquet")
    data = (tmp_path / "table.parquet").read_bytes()
    (tmp_path / "table.parquet").write_bytes(data[:4] + bytes(2000) + data[2004:])
    refused("can't be read: ", "table.parquet")
    (tmp_path / "table.jsonl").write_text("\n")
    refused("no rows", "table.jsonl")
    assert refused("names no column", columns={}).exit_status == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": {"vidoe": "file"}}, "vidoe"),
        ({"table": "table.txt"}, "a file name that ends in"),
        ({"table": "../table.csv"}, "a file name that ends in"),
        ({"shares": {"train": 0.5}}, "add up to 1"),
        ({"shares": {"train": 0.0, "val": 0.5, "test": 0.5}}, "add up to 1"),
        ({"classes": ["a", "a"]}, "each class once"),
        ({"classes": []}, "each class once"),
        ({"separator": ""}, "separator"),
        ({"lable": "x"}, "Did you mean 'label'|unknown key"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(UserError, match=words) as error:
        options(**settings)
    assert error.value.exit_status == 2


def test_one_medium_that_is_wrong_leaves_the_others(tmp_path):
    write(
        tmp_path,
        [
            {
                "file": "../1.png",
                "film": "a.mp4",
                "said": "two dogs",
                "label": "a",
                "s": "2",
                "e": "1",
            }
        ],
    )
    columns = {"image": "file", "video": "film", "text": "said"}
    assert read(tmp_path, columns=columns, start="s", end="e")["row-000001"].media == {
        "image": Unreadable("path outside of root"),
        "text": "two dogs",
        "video": Unreadable("zero-length event"),
    }


# Where files may lie. -------------------------------------------------------------------------------------------------


def test_paths_stay_beside_the_table(tmp_path):
    write(tmp_path, clips("inside/x", "../x", "inside/../x", str(tmp_path / "x"), "nul\0x"))
    outside = "path outside of root"
    found = unreadable(tmp_path, "video", columns={"video": "file"})
    assert found == ["", outside, outside, outside, outside]


def test_paths_stay_in_root(tmp_path):
    raw, root = tmp_path / "raw", tmp_path / "clips"
    (root / "deep").mkdir(parents=True)
    (tmp_path / "clips-other").mkdir()
    raw.mkdir()
    (root / "link").symlink_to(tmp_path / "clips-other")
    (root / "round").symlink_to(root / "deep")
    inside = ["x", "deep/../x", str(root / "x"), "round/y"]
    outside = ["../x", "link/x", "../clips-other/x", "/x", "nul\0x"]
    write(raw, clips(*inside, *outside))
    settings = {"columns": {"video": "file"}, "root": str(root)}
    assert unreadable(raw, "video", **settings) == [""] * 4 + ["path outside of root"] * 5
    found = read(raw, **settings)
    paths = [found[f"row-00000{n}"].media["video"].path for n in (1, 2, 3, 4)]
    assert paths == [root / "x.mp4", root / "x.mp4", root / "x.mp4", root / "deep/y.mp4"]
    with pytest.raises(UserError, match="no such folder"):
        read(raw, root=str(tmp_path / "nowhere"))


def test_sources_are_the_table_and_what_it_names(tmp_path):
    rows = [
        {"file": "v/1.mp4", "other": "./p/1.png"},
        {"file": "../2.mp4"},
        {"other": "/3.png"},
        {"file": "v/1.mp4"},
    ]
    write(tmp_path, [row | {"label": "a", "said": "v/words"} for row in rows])
    settings = {"columns": {"video": "file", "image": "other", "text": "said"}}
    table, media = manifest.sources(tmp_path, options(**settings))
    assert (table.path, table.urls, table.media) == ("table.csv", (), False)
    assert (media.path, media.urls, media.media, media.files) == ("media", (), True, 2)
    assert "table.csv" in table.steps
    assert "--from" in media.steps
    assert media.unpack is not None
    names = [
        "v/1.mp4",
        "p/1.png",
        "./p/1.png",
        "v/words",
        "table.csv",
        "../2.mp4",
        "2.mp4",
        "/3.png",
    ]
    assert [media.unpack(name) for name in names] == ["v/1.mp4", "p/1.png", *[None] * 6]
    _, media = manifest.sources(tmp_path, options(text_files=True, **settings))
    assert media.unpack is not None
    assert media.unpack("v/words") == "v/words"


def test_sources_without_media(tmp_path):
    write(tmp_path, [{"file": "a.png", "said": "a word", "label": "x"}])
    assert len(list(manifest.sources(tmp_path, options(root=str(tmp_path))))) == 1
    assert len(list(manifest.sources(tmp_path, options(columns={"text": "said"})))) == 1
    assert len(list(manifest.sources(tmp_path, options()))) == 2
    write(tmp_path, [{"file": "../a.png", "label": "x"}])
    assert len(list(manifest.sources(tmp_path, options()))) == 1


def test_the_table_comes_before_it_is_read(tmp_path):
    (tmp_path / "from").mkdir()
    write(tmp_path / "from", clips("one"))
    raw = tmp_path / "raw"
    raw.mkdir()
    found = manifest.sources(raw, options())
    table = next(found)
    (tmp_path / "from" / table.path).rename(raw / table.path)
    assert next(found).path == "media"


# Splits. --------------------------------------------------------------------------------------------------------------


def sides(records: dict[str, Record]) -> dict[str, set[str]]:
    found = defaultdict(set)
    for record in records.values():
        found[record.group].add(record.split)
    return found


def test_splits_are_drawn_by_group(tmp_path):
    write(tmp_path, [{"file": f"{n}.png", "label": "a", "pack": f"g{n // 3}"} for n in range(1500)])
    found = read(tmp_path, group="pack", shares={"train": 0.5, "val": 0.3, "test": 0.2})
    assert len(sides(found)) == 500
    assert all(len(splits) == 1 for splits in sides(found).values())
    counts = Counter(record.split for record in found.values())
    assert [counts[split] / 1500 for split in ("train", "val", "test")] == pytest.approx(
        [0.5, 0.3, 0.2], abs=0.06
    )
    assert manifest.spec(
        tmp_path, options(shares={"train": 0.5, "val": 0.5, "test": 0.0})
    ).splits == ("train", "val")
    assert manifest.spec(
        tmp_path, options(shares={"train": 1.0, "val": 0.0, "test": 0.0})
    ).splits == ("train",)


def test_a_row_may_be_in_several_groups(tmp_path):
    """Splits are drawn by the first column, as a row of each pair of groups would tie all of them together."""
    rows = [
        {"file": f"{n}.png", "label": "a", "pack": f"g{n // 3}", "voice": f"v{n % 7}"}
        for n in range(600)
    ]
    write(tmp_path, [*rows, {"file": "x.png", "label": "a", "pack": "", "voice": ""}])
    found = read(tmp_path, group=["pack", "voice"])
    one = found["row-000009"]
    assert one.group == {"pack": "g2", "voice": "v1"}
    assert found["row-000601"].group == {
        "pack": "x.png",
        "voice": "",
    }  # the file, as where no group is given
    packs = defaultdict(set)
    for record in found.values():
        packs[record.groups["pack"]].add(record.split)
    assert all(len(splits) == 1 for splits in packs.values())
    by_one = read(tmp_path, group="pack")
    assert {key: record.split for key, record in found.items()} == {
        key: record.split for key, record in by_one.items()
    }
    assert by_one["row-000009"].group == "g2"
    with pytest.raises(UserError, match="unknown column 'speaker'") as error:
        read(tmp_path, group=["pack", "speaker"])
    assert (error.value.where, error.value.exit_status) == ("preprocess.options.group", 2)
    for wrong, message in (["pack", "pack"], "each column once"), ([], "at least 1"):
        with pytest.raises(UserError, match=message):
            read(tmp_path, group=wrong)


def test_rows_that_share_a_file_are_a_group(tmp_path):
    write(
        tmp_path,
        [{"file": f"{'./' * (n % 2)}v{n // 5}.mp4", "label": "a", "s": n} for n in range(500)],
    )
    found = read(tmp_path, columns={"video": "file"}, start="s")
    assert set(sides(found)) == {f"v{n}.mp4" for n in range(100)}
    assert all(len(splits) == 1 for splits in sides(found).values())


def test_val_is_drawn_from_train_where_the_table_has_none(tmp_path):
    rows = [
        {"file": f"{n // 2}.png", "label": "a", "side": "test" if n < 400 else "train"}
        for n in range(2000)
    ]
    write(tmp_path, rows)
    found = read(tmp_path, split="side")
    counts = Counter(record.split for record in found.values())
    assert counts["test"] == 400
    assert {key for key, record in found.items() if record.split == "test"} == {
        f"row-{n:06d}" for n in range(1, 401)
    }
    assert counts["val"] / 1600 == pytest.approx(0.15 / 0.85, abs=0.04)
    assert all(len(splits) == 1 for splits in sides(found).values())
    assert manifest.spec(tmp_path, options(split="side")).splits == ("train", "val", "test")


@pytest.mark.parametrize("word", ["val", "valid", "validation", "dev", "Dev"])
def test_a_table_with_val_is_left_as_it_is(word, tmp_path):
    words = ["train", word, "test"]
    write(tmp_path, [{"file": f"{n}.png", "label": "a", "side": words[n % 3]} for n in range(60)])
    found = read(tmp_path, split="side")
    assert [found[f"row-{n + 1:06d}"].split for n in range(60)] == ["train", "val", "test"] * 20


def test_an_empty_split_cell_follows_its_group_or_is_drawn(tmp_path):
    marked = [
        {"file": f"{n}.png", "side": ["train", "val", "test"][n % 3], "pack": f"g{n}"}
        for n in range(60)
    ]
    empty = [{"file": f"{n}-b.png", "side": "", "pack": f"g{n}"} for n in range(60)]
    alone = [{"file": f"{n}-c.png", "side": "", "pack": f"h{n}"} for n in range(200)]
    write(tmp_path, [row | {"label": "a"} for row in empty + marked + alone])
    found = read(tmp_path, split="side", group="pack")
    assert all(len(splits) == 1 for splits in sides(found).values())
    assert [found[f"row-{n + 1:06d}"].split for n in range(60)] == ["train", "val", "test"] * 20
    drawn = Counter(record.split for record in found.values() if record.group.startswith("h"))
    assert drawn["train"] > drawn["val"] > 0
    assert drawn["train"] > drawn["test"] > 0


def test_a_failure_stands_in_a_split_that_is_there(tmp_path):
    (tmp_path / "table.csv").write_text("file,label,side\n1.png,a,test\n2.png,a,nowhere\n3.png\n")
    assert [record.split for record in read(tmp_path, split="side").values()] == ["test"] * 3
    assert manifest.spec(tmp_path, options(split="side")).splits == ("test",)


# At scale, and for real. ----------------------------------------------------------------------------------------------


def test_a_long_table_stays_small_in_memory(tmp_path):
    write(tmp_path, [{"file": f"videos/{n}.mp4", "label": "ab"[n % 2]} for n in range(5_000)])
    tracemalloc.start()
    try:
        next(manifest.records(tmp_path, options()))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most / 5_000 < 200  # bytes a row


def test_the_recipe_is_whole():
    params = config.load(ROOT / "recipes" / "manifest.yaml")
    assert (params.dataset, params.modalities) == ("manifest", ("audio", "video"))
    assert (params.preprocess.media.frames, params.preprocess.media.side) == (8, 224)
    assert set(params.preprocess.options) == set(manifest.Options.model_fields)
    chosen = checked(manifest.Options, params.preprocess.options, "recipe")
    assert (chosen.table, chosen.columns, chosen.group) == (
        "labels.csv",
        {"audio": "file", "video": "file"},
        "group",
    )
    specs = {"audio": AudioInput(), "video": VideoInput()}
    for modality, spec in specs.items():
        params.check_modalities(manifest.SPEC.modalities)
        params.encoder(modality).adapt(spec, modality)


@pytest.mark.skipif(not FIGHTS.is_dir(), reason="the real table is not here")
def test_the_real_table():
    settings = config.load(ROOT / "recipes" / "manifest.yaml").preprocess.options
    found = read(FIGHTS, **settings)
    assert len(found) == 300
    assert not any(record.problem for record in found.values())
    assert Counter(record.label for record in found.values()) == {0: 150, 1: 150}
    assert len(sides(found)) == 243
    assert all(len(splits) == 1 for splits in sides(found).values())
    assert min(Counter(record.split for record in found.values()).values()) >= 30
    assert all(record.media["audio"] == record.media["video"] for record in found.values())
    assert all(record.media["video"].path.is_file() for record in found.values())
    table, media = manifest.sources(FIGHTS, options(**settings))
    assert (table.path, media.unpack("videos/fi001.mp4")) == ("labels.csv", "videos/fi001.mp4")

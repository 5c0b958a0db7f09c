"""Rows and tables that are wrong: each costs itself only, and is counted or named."""

from __future__ import annotations

import time
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.tables import CELLS, FORMATS, QUOTES, clips, options, problems, read, unreadable, write

from umemma.datasets import _table, manifest
from umemma.errors import UserError
from umemma.types import Unreadable


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


@pytest.mark.slow
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
    # What closes it is the end of a cell that never began. That line must not become a row with a
    # class of its own.
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


@pytest.mark.slow
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


def test_a_text_that_parquet_names_in_every_row_takes_no_memory(tmp_path):
    """Some kilobytes in the file, and 40 GB as rows."""
    long = "x" * 20_000_000
    numbers = pa.array([0] * 2000 + [1, None], pa.int32())
    files = [f"{n}.png" for n in range(2002)]
    for texts in (
        pa.DictionaryArray.from_arrays(numbers, pa.array([long, "a"])),
        pa.ListArray.from_arrays(
            list(range(2003)), pa.DictionaryArray.from_arrays(numbers, pa.array([long, "a"]))
        ),
    ):
        table = pa.table({"file": files, "label.s": texts})
        pq.write_table(table, tmp_path / "table.parquet", compression="zstd")
        assert (tmp_path / "table.parquet").stat().st_size < 100_000
        rows = list(_table.READERS[".parquet"](tmp_path / "table.parquet", sorted))
        too_long = rows.count("unreadable row: a text of more than a mebibyte")
        assert len(rows) == 2002
        assert too_long == (2000 if pa.types.is_dictionary(texts.type) else 2002)
        assert pa.default_memory_pool().max_memory() < 300_000_000


def test_parquet_rows_that_cannot_be_read_are_counted(tmp_path):
    buffers = pa.array([b"1.png", b"\xff.png", b"3.png"]).buffers()
    files = pa.Array.from_buffers(pa.string(), 3, buffers)  # says it is UTF-8 and isn't
    pq.write_table(pa.table({"file": files, "label": ["a", "a", "b"]}), tmp_path / "table.parquet")
    assert problems(tmp_path, table="table.parquet") == ["", "unreadable row: not UTF-8", ""]
    cells = [{"width": 3}, {"width": 4}]
    pq.write_table(pa.table({"file": cells, "label": ["a", "a"]}), tmp_path / "table.parquet")
    reason = "unreadable row: a cell is neither text nor number"
    assert problems(tmp_path, table="table.parquet", classes=["a"]) == [reason] * 2


def test_a_file_in_a_cell_is_named_as_what_it_is(tmp_path):
    cells = [{"bytes": b"", "path": "1.png"}]
    pq.write_table(pa.table({"file": cells, "label": ["a"]}), tmp_path / "table.parquet")
    (problem,) = problems(tmp_path, table="table.parquet", classes=["a"])
    assert problem.startswith("a cell holds a file itself (bytes and path, as Hugging Face")


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

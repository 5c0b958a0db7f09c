"""The leaderboard: which rows share a table, how they are sorted, and what strangers may write."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.models import call

EVIL = "<script>alert(1)</script>|\x1b[2J`x`"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_metrics(folder: str, both: float, audio: float, image: float, **changes) -> Path:
    """Write the metrics.json of an evaluation by hand."""
    data = {
        "metric": "accuracy",
        "accuracy": {"audio+image": both, "audio": audio, "image": image},
        "worst_case": {"value": min(both, audio, image) / 2, "low": 0, "high": 1},
        "dataset": "frogs",
        "variant": "",
        "split": "test",
        "preset": folder.rpartition("/")[2],
        "samples": 200,
        "train_missing": {},
        **changes,
    }
    path = Path(folder)
    path.mkdir(parents=True)
    (path / "metrics.json").write_text(json.dumps(data))
    return path


def write_audit(folder: str, both: float, **changes) -> Path:
    """Write the metrics.json of an audit by hand."""
    missing = dict.fromkeys(("dataset", "variant", "split", "preset", "train_missing"))
    path = write_metrics(folder, both, 0.5, 0.5, **missing, source=f"{folder}.csv", **changes)
    data = json.loads((path / "metrics.json").read_text())
    kept = {key: value for key, value in data.items() if value is not None}
    (path / "metrics.json").write_text(json.dumps(kept))
    return path


def write_keys(folder: Path, keys: list[str]) -> None:
    table = pa.table({"key": keys, "target": [0] * len(keys)})
    pq.write_table(table, folder / "predictions.parquet")


def write_comparison(folder: str) -> Path:
    """Write a compare.json of two methods by hand."""
    scores = []
    for method, both, worst in (("ume", 0.9, 0.4), ("umt", 0.8, 0.5)):
        columns = {"audio+image": both, "audio": 0.6, "image": 0.7, "lesser average": 0.65}
        for column, mean in {"worst case": worst, **columns}.items():
            row = {"train": "complete", "method": method, "metric": "accuracy", "column": column}
            scores.append({**row, "mean": mean, "std": 0.01, "seeds": 3})
    about = {"dataset": "frogs", "variant": "", "split": "test", "samples": 200}
    path = Path(folder) / "compare"
    path.mkdir(parents=True)
    (path / "compare.json").write_text(json.dumps({"about": about, "scores": scores}))
    return path


def make(*folders: object) -> tuple[str, str]:
    """Return the Markdown and the page of these folders."""
    assert call("leaderboard", *map(str, folders)) == 0
    return Path("leaderboard.md").read_text(), Path("leaderboard.html").read_text()


def read_tables(markdown: str) -> list[list[list[str]]]:
    """Return the rows of each table, without headings."""
    tables = []
    for text in re.findall(r"(?m)^\|[-|: ]+\|\n((?:\|.*\|\n?)+)", markdown):
        lines = text.strip().splitlines()
        tables.append([[cell.strip() for cell in line.strip("|").split("|")] for line in lines])
    return tables


def test_rows_of_evaluations_and_of_a_comparison_share_a_table():
    write_metrics("results/mine", 0.95, 0.5, 0.6)
    write_comparison("results/theirs")
    markdown, page = make("results/mine", "results/theirs")
    (table,) = read_tables(markdown)
    same = ["60.0 ± 1.0 %", "70.0 ± 1.0 %", "65.0 ± 1.0 %"]
    assert table == [
        ["mine", "95.0 %", "50.0 %", "60.0 %", "55.0 %", "25.0 %", "1", "mine"],
        ["ume", "90.0 ± 1.0 %", *same, "40.0 ± 1.0 %", "3", "theirs"],
        ["umt", "80.0 ± 1.0 %", *same, "50.0 ± 1.0 %", "3", "theirs"],
    ]
    assert "frogs test" in page


def test_the_page_is_sorted_by_any_column_without_a_script():
    write_metrics("results/mine", 0.95, 0.5, 0.6)
    write_comparison("results/theirs")
    _, page = make("results/mine", "results/theirs")
    assert "<script" not in page
    names = re.findall(r'<input type="radio" name="order0" value="\d"[^>]*>([^<]+)<', page)
    orders = {}
    for name, body in zip(names, re.findall(r"(?s)<tbody>(.*?)</tbody>", page), strict=True):
        orders[name] = re.findall(r'<th scope="row">([^<]+)<', body)
    assert orders["audio+image"] == ["mine", "ume", "umt"]
    assert orders["audio"] == ["ume", "umt", "mine"]
    assert orders["worst case"] == ["umt", "ume", "mine"]
    assert orders["method"] == ["mine", "ume", "umt"]
    for number in range(1, len(names) + 1):
        assert f"tbody:nth-of-type({number}) {{ display: table-row-group; }}" in page


def test_a_lower_error_is_the_better_one_and_no_value_is_last():
    for name, both in (("a", 0.3), ("b", 0.1), ("c", None)):
        values = {"audio+image": both, "audio": 1.0, "image": 1.0}
        write_metrics(name, 0.5, 0.5, 0.5, metric="log_loss", log_loss=values)
    markdown, _ = make("a", "b", "c")
    (table,) = read_tables(markdown)
    assert [row[0] for row in table] == ["b", "a", "c"]
    assert table[2][1] == "–"


@pytest.mark.parametrize(
    ("changes", "tables"),
    [
        ({"samples": 201}, 2),
        ({"train_missing": {"audio": 0.7}}, 2),
        ({"split": "val"}, 2),
        ({"variant": "wild"}, 2),
        ({"dataset": "toads"}, 2),
        ({"seed": 7}, 1),
    ],
)
def test_rows_that_are_not_of_the_same_samples_stand_apart(changes, tables):
    write_metrics("a", 0.9, 0.5, 0.6)
    write_metrics("b", 0.8, 0.5, 0.6, **changes)
    markdown, page = make("a", "b")
    assert len(read_tables(markdown)) == tables
    if "samples" in changes:
        assert "can't be ranked together" in markdown
        assert "201 samples" in page


def test_equally_many_but_other_samples_stand_apart():
    for name, keys in (("a", ["x", "y"]), ("b", ["y", "x"]), ("c", ["x", "z"])):
        write_keys(write_metrics(name, 0.9, 0.5, 0.6, samples=2), keys)
    markdown, _ = make("a", "b", "c")
    assert [[row[0] for row in table] for table in read_tables(markdown)] == [["a", "b"], ["c"]]


def test_an_audit_of_the_same_samples_stands_with_their_dataset():
    write_keys(write_metrics("ours", 0.9, 0.5, 0.6, samples=2), ["x", "y"])
    write_keys(write_audit("same", 0.8, samples=2), ["y", "x"])
    write_keys(write_audit("other", 0.7, samples=2), ["x", "z"])
    markdown, _ = make("ours", "same", "other")
    sections = re.findall(r"(?m)^## (.*)", markdown)
    assert sections == ["frogs test", "audited: other", "How to read it"]
    assert [table[0][0] for table in read_tables(markdown)] == ["ours", "same.csv", "other.csv"]
    assert "training not stated" in markdown


def test_published_rows_stand_below_and_apart():
    write_metrics("a", 0.9, 0.5, 0.6, dataset="avmnist-smil")
    markdown, _ = make("a")
    assert "need not be of the same samples" in markdown
    assert "| SimMLM | complete | audio |" in markdown
    assert len(read_tables(markdown)) == 2


def test_names_of_strangers_are_text():
    write_metrics("a", 0.9, 0.5, 0.6, dataset=EVIL, preset=EVIL, variant=EVIL)
    markdown, page = make("a")
    assert "\x1b" not in markdown + page
    assert "<script" not in page
    assert escape("<script>alert(1)</script>|") in page
    assert not re.search(r"(?<!\\)<script", markdown)


def test_folders_of_one_name_are_told_apart():
    write_metrics("one/digits", 0.9, 0.5, 0.6)
    write_metrics("two/digits", 0.8, 0.5, 0.6)
    markdown, _ = make("one/digits", "two/digits", "two/digits/")
    (table,) = read_tables(markdown)
    assert [row[-1] for row in table] == ["one/digits", "two/digits"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"metric": "glory"}, "scores"),
        ({"metric": "glory", "glory": {"audio": 1.0}}, "unknown metric 'glory'"),
        ({"samples": -1}, "samples"),
        ({"accuracy": {}}, "scores"),
        ({"accuracy": {"+".join("abcdefghijklmnopqrst"): 1.0}}, "more than 12 modalities"),
        ({"worst_case": None}, "worst_case"),
    ],
)
def test_a_file_that_is_no_result_is_refused(changes, problem, capsys):
    write_metrics("a", 0.9, 0.5, 0.6, **changes)
    assert call("leaderboard", "a") != 0
    message = capsys.readouterr().err
    assert problem in message
    assert "a/metrics.json" in message
    assert not Path("leaderboard.html").exists()


def test_a_folder_without_results_and_a_page_of_another_kind_are_refused(capsys):
    Path("empty").mkdir()
    assert call("leaderboard", "empty") == 1
    assert "neither metrics.json nor compare.json" in capsys.readouterr().err
    write_metrics("a", 0.9, 0.5, 0.6)
    assert call("leaderboard", "a", "--out", "page.pdf") == 2
    assert "ends in .html" in capsys.readouterr().err


def test_a_protocol_that_is_none_is_shown_as_it_is():
    write_metrics("mine", 0.9, 0.8, 0.7, train_missing={"a=b": 0.5})
    page, _ = make("mine")
    assert "a=b=0.5" in page

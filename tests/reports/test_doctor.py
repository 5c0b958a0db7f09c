"""The doctor's report as people read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys.doctor import CODE, both, examine, make_project, print_report, write_rows

from umemma.datasets.manifest import Options
from umemma.modalities.files.wholeness import CUT_OFF
from umemma.modalities.probe import SOUNDLESS
from umemma.reports.doctor.advice import GROUP_HINT, add_advice
from umemma.reports.doctor.report import DoctorReport, Examples, SplitCounts
from umemma.reports.doctor.terminal import print_report as print_to_terminal
from umemma.stages import download
from umemma.types import DatasetSpec

SPEC = DatasetSpec("toy", "a toy", ("text",), ("cat",), "free", "none", splits=("train",))


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    project = make_project(tmp_path, monkeypatch)
    monkeypatch.chdir(project)
    return project


def test_the_report_for_people(toy, capsys):
    download.run("toy", {})
    text = print_report(capsys)
    for line in (
        "toy: a [toy]\n",
        "  raw files data/raw/toy: 10 files, ",
        ", as listed in download.json\n",
        "│ train │       10 │     13 │        1 │        9 │      3 │\n",
        "│ val   │        - │      1 │        0 │        0 │      1 │\n",
        "│ [dog] │ 2 of 3 │   0 │    1 │\n",
        f"│ audio: {SOUNDLESS} │     1 │   0 │    0 │\n",
        f"  1 x {both('file is missing')}\n      e (data/raw/toy/clips/nowhere.mp4)\n",
        "Usable samples with a medium that cannot be read\n"
        f"  1 x {both(CUT_OFF)}\n"
        "      c (data/raw/toy/clips/cut.mp4)\n",
        "Left out by the settings\n  1 x not wanted\n      j\n",
        "Notes\n  - train: 13 samples are listed; the official number is 10.\n",
        "  - Sets of media files with the same content: 1, 1 of them across splits.\n"
        "      clips/good.mp4 = clips/copy.mp4\n",
        "2 problems to correct:\n  1. 9 of 14 samples cannot be used, and in 1 more a medium",
        "\n  2. Samples with the id of another sample: 1 (a).\n",
    ):
        assert line in text
    assert "Missing raw files" not in text


def test_of_many_classes_the_first_few_are_named(toy, capsys):
    names = ", ".join(f'"class {number}"' for number in range(99))
    code = toy.parent / "code" / "toy_dataset.py"
    code.write_text(CODE.replace('"cat", "[dog]", "owl"', names))
    write_rows([{"key": "a", "split": "train", "label": 0, "texts": {"text": "hi"}}])
    download.run("toy", {})
    notes = examine(capsys)[1]["notes"]
    shown = ", ".join(f"class {number}" for number in range(1, 6))
    assert f"train: classes without a usable sample: 98 ({shown}, ...)." in notes


def test_of_many_equal_files_the_first_few_are_named():
    report = DoctorReport("toy", "", "free", "none", "data/raw/toy")
    report.splits = {"train": SplitCounts(usable=1)}
    paths = [f"data/raw/toy/{number}.jpg" for number in range(40)]
    report.same_content = Examples(5, [" = ".join(paths), "a = b", "c = d", "e = f", "g = h"])
    options = Options(columns={"text": "text"}, label="label")
    add_advice(report, SPEC, 0.0, options)
    assert report.notes == [
        "Sets of media files with the same content: 5, 0 of them across splits.\n"
        "  0.jpg = 1.jpg = 2.jpg = 3.jpg and 36 more\n"
        "  a = b\n"
        "  c = d\n"
        "  and 2 more\n"
        f"{GROUP_HINT}"
    ]


def test_without_official_numbers_there_is_no_column_for_them(capsys):
    report = DoctorReport("toy", "", "free", "none", "data/raw/toy")
    report.splits = {"train": SplitCounts(listed=3, usable=3)}
    print_to_terminal(report, SPEC)
    text = capsys.readouterr().out
    assert "expected" not in text
    assert "│ train │      3 │        0 │        0 │      3 │\n" in text
    assert "No problem found." in text

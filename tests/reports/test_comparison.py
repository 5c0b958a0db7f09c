"""What a comparison says, in its files and in the terminal."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from math import nan

import pytest
from rich.console import Console
from rich.table import Table

from umemma.evaluation import metrics
from umemma.evaluation.comparison import AVERAGE, LESSER, WORST, MethodDifference, MethodScore
from umemma.reports.comparison import files as comparison_files
from umemma.reports.comparison.report import ComparisonReport, ComparisonSetup, format_headline
from umemma.reports.comparison.terminal import format_terminal

NAMES = ["audio+image", "audio", "image", LESSER, WORST]
SETUP = ComparisonSetup("digits", "", "test", 400, "learned", True)


def difference(
    train: str,
    baseline: str,
    column: str,
    value: float,
    p_holm: float,
) -> MethodDifference:
    return MethodDifference(
        train,
        "ume-mma",
        column,
        baseline,
        "accuracy",
        difference=value,
        error=value / 2,
        low=value - 0.1,
        high=value + 0.1,
        seed_share=0.5,
        p=p_holm / 10,
        p_holm=p_holm,
    )


def make_report(**changes) -> ComparisonReport:
    """Three seeds, two baselines; three of ten differences are more than chance, one is unknown."""
    tests = []
    for name in ("late-fusion", "modality-dropout"):
        for column in NAMES:
            tests.append(difference("complete", name, column, 0.0123, 0.4))
    tests[1] = difference("complete", "late-fusion", "audio", 0.1388, 0.01)
    tests[2] = difference("complete", "late-fusion", "image", 0.2, 0.049)
    tests[6] = difference("complete", "modality-dropout", "audio", -0.0364, 0.02)
    unknown = difference("complete", "modality-dropout", WORST, 0.1, 1.0)
    tests[9] = unknown._replace(
        error=nan,
        low=nan,
        high=nan,
        seed_share=nan,
        p=1.0,
    )
    scores = []
    for method, mean in (("late-fusion", 0.7), ("ume-mma", 0.8), (AVERAGE, 0.8)):
        for column in NAMES:
            scores.append(
                MethodScore(
                    "complete",
                    method,
                    "accuracy",
                    column,
                    mean,
                    0.01,
                    3,
                )
            )
    report = ComparisonReport(
        SETUP,
        metrics=[metrics.get("accuracy", "multiclass", 10)],
        method="ume-mma",
        seeds=[0, 1, 2],
        columns={"complete": NAMES},
        scores=scores,
        points=[],
        differences=tests,
        rates={},
    )
    return replace(report, **changes)


def print_lines(report: ComparisonReport, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    for block in format_terminal(report, width):
        console.print(block)
    return console.file.getvalue().splitlines()


def cells_of(lines: list[str]) -> list[list[str]]:
    rows = [line.split("│")[1:-1] for line in lines if line.startswith("│")]
    return [[word.strip() for word in row] for row in rows]


def test_the_headline_counts_the_differences_that_are_more_than_chance():
    report = make_report()
    assert format_headline(report) == (
        "By accuracy, ume-mma is better in 2 (late-fusion: audio, image), worse in 1 "
        "(modality-dropout: audio); in the other 7 of 10 tests the difference may be chance "
        "(p after Holm's adjustment, 5 %)."
    )
    more = [
        *report.differences,
        difference(
            "audio=0.7",
            "late-fusion",
            "audio",
            0.2,
            0.01,
        ),
    ]
    columns = dict.fromkeys(["complete", "audio=0.7"], NAMES)
    two_conditions = replace(report, differences=more, columns=columns)
    assert "late-fusion trained with audio=0.7 missing: audio)" in format_headline(two_conditions)


def test_the_notes_say_what_chance_is_in():
    report = make_report()
    assert any("One seed" in note for note in replace(report, seeds=[0]).notes)
    assert any("other seeds and other samples. With 3 seeds" in note for note in report.notes)
    assert not any("Holm" in note for note in replace(report, differences=[]).notes)


def test_every_baseline_is_a_row_of_the_terminal():
    rows = cells_of(print_lines(make_report(), 100))
    assert ["late-fusion", "+1.2", "+13.9*", "+20.0*", "+1.2", "+1.2"] in rows
    same = "-8.8 to 11.2"
    assert ["", same, "3.9 to 23.9", "10.0 to 30.0", same, same] in rows
    assert ["modality-dropout", "+1.2", "-3.6*", "+1.2", "+1.2", "+10.0"] in rows
    assert ["", same, "-13.6 to 6.4", same, same, "unknown"] in rows


def test_a_table_that_does_not_fit_is_split_evenly():
    rows = cells_of(print_lines(make_report(), 80))
    assert ["late-fusion", "+1.2", "+13.9*", "+20.0*"] in rows
    assert ["late-fusion", "+1.2", "+1.2"] in rows


@pytest.mark.parametrize("width", [80, 120])
def test_what_the_terminal_shows_fits_and_is_whole(width):
    names = ["audio+image+text", "audio+image", "audio|image|text missing from 50 %", *NAMES[1:]]
    scores = []
    for method in ("late-fusion-mma", "ume-mma", AVERAGE):
        for column in names:
            scores.append(
                MethodScore(
                    "complete",
                    method,
                    "accuracy",
                    column,
                    0.8,
                    0.1,
                    3,
                )
            )
    lines = print_lines(make_report(scores=scores, columns={"complete": names}), width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert sum(row[0] == "> ume-mma" for row in cells_of(lines)) > 1 or width == 120
    words = [word for row in cells_of(lines) for word in row]
    assert words.count("80.0±10.0") == 3 * len(names)


def test_the_method_is_marked_and_the_best_of_a_column_is_bold():
    blocks = list(format_terminal(make_report()))
    table = next(block for block in blocks if isinstance(block, Table))
    names, first_column = (list(table.columns[i].cells) for i in (0, 1))
    assert [str(name) for name in names] == ["  late-fusion", "> ume-mma", f"  {AVERAGE}"]
    bold = [any(span.style == "bold" for span in text.spans) for text in first_column]
    assert bold == [False, True, True]  # both are 80.0


def test_the_files_hold_every_difference(tmp_path):
    comparison_files.write(tmp_path / "compare", make_report())
    text = (tmp_path / "compare/compare.md").read_text()
    assert "| modality-dropout | +1.2 (-8.8 to 11.2) | -3.6\\* (-13.6 to 6.4) |" in text
    assert "| +10.0 (unknown) |" in text
    assert "| **ume-mma** | **80.0" in text
    assert "| late-fusion | 70.0" in text
    rows = list(csv.DictReader((tmp_path / "compare/differences.csv").read_text().splitlines()))
    row = rows[1]
    assert (row["baseline"], row["column"], row["p_holm"]) == ("late-fusion", "audio", "0.010000")
    assert rows[9]["low"] == ""
    data = json.loads((tmp_path / "compare/compare.json").read_text())
    assert data["differences"][9]["low"] is None
    assert data["about"]["split"] == "test"

"""The section on which modality decides."""

from __future__ import annotations

import json

import pytest
from toys import reports


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    reports.write(folder, reports.noisy_predictions("abcde", 30, 200))
    return folder


def test_the_report_shows_what_the_files_say(folder):
    text = (folder / "report.md").read_text()
    section = text[text.index("## Which modality decides") : text.index("## Information")]
    numbers = json.loads((folder / "information.json").read_text())
    overall = [row for row in numbers["contributions"] if row["name"] == ""]
    metrics = json.loads((folder / "metrics.json").read_text())["contributions"]
    assert [row["modality"] for row in overall] == list(metrics) == list("abcde")
    for row in overall:
        assert metrics[row["modality"]]["value"] == row["bits"]
        assert f"| {row['modality']} | {row['bits']:+.3f} |" in section
    assert len(numbers["contributions"]) == 5 * (1 + 30)
    assert len(numbers["interactions"]) == 10


def test_the_classes_of_which_least_is_told_come_first(folder):
    numbers = json.loads((folder / "information.json").read_text())
    told: dict[str, float] = {}
    for row in numbers["contributions"]:
        if row["name"]:
            told[row["name"]] = told.get(row["name"], 0.0) + row["bits"]
    text = (folder / "report.md").read_text()
    assert "20 of 30; information.json has all" in text
    lines = text[text.index("20 of 30; information") :].splitlines()
    rows = [line for line in lines if line.startswith("| class")][1:21]
    least = sorted(told, key=lambda name: told[name])[:20]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == least
    assert rows[0].endswith(f"| {told[least[0]]:+.2f} |")


def test_answers_that_get_worse_are_shown_beside_those_that_get_better(folder):
    numbers = json.loads((folder / "information.json").read_text())["additions"]
    text = (folder / "report.md").read_text()
    for row in numbers:
        assert f"| {row['modality']} | {100 * row['won']:.1f} (" in text
        assert f" | {100 * row['lost']:.1f} (" in text
    evenness = json.loads((folder / "metrics.json").read_text())["evenness"]
    assert f"Evenness of the contributions: {evenness:.2f}," in text
    assert 0.9 < evenness < 1


def test_pairs_that_tell_the_same_are_called_redundant(folder):
    (row,) = [
        line for line in (folder / "report.md").read_text().splitlines() if "| a+b | -" in line
    ]
    assert row.endswith("| redundancy |")


def test_a_single_modality_has_no_such_section(tmp_path):
    reports.write(tmp_path, reports.noisy_predictions("a", 3, 20))
    assert "Which modality decides" not in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "metrics.json").read_text())["contributions"] == {}

"""Published numbers: the shipped rows, the choice of those that fit, and refused rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys import reports
from toys.project import ROOT

from umemma import datasets
from umemma.errors import UserError
from umemma.evaluation import metrics
from umemma.evaluation.comparison import MethodScore
from umemma.reports import evaluation
from umemma.reports.comparison import files as comparison_files
from umemma.reports.comparison.report import ComparisonReport, ComparisonSetup
from umemma.reports.published.rows import format_protocol, read_rows, select_rows
from umemma.reports.published.section import TITLE

ROW = """\
- dataset: frogs
  variant: wild
  protocol: complete
  method: Pond
  metric: accuracy
  subset: audio+image
  value: 90.5
  source: Pond, a made paper
  kind: paper
"""
SIMMLM = "| SimMLM | complete | audio | accuracy | SimMLM, ICCV 2025 |"


def test_the_shipped_rows_parse_and_name_datasets_that_exist():
    rows = read_rows()
    assert len(rows) == 55
    known = {row.dataset for row in rows} - {"crema-d"}
    assert known <= set(datasets.NAMES)
    assert {row.kind for row in rows} == {"notes on the paper"}


def test_the_shipped_values_of_a_table_by_hand():
    complete = select_rows(read_rows(), "avmnist-smil", "", ["complete"])
    values = {(row.method, row.subset): row.value for row in complete}
    assert values == {
        ("ShaSpec", "image"): 91.90,
        ("ShaSpec", "audio"): 89.28,
        ("ShaSpec", "audio+image"): 98.71,
        ("MoMKE", "image"): 92.61,
        ("MoMKE", "audio"): 91.16,
        ("MoMKE", "audio+image"): 98.69,
        ("SimMLM", "image"): 92.69,
        ("SimMLM", "audio"): 91.61,
        ("SimMLM", "audio+image"): 99.27,
    }
    scarce = select_rows(read_rows(), "avmnist-smil", "", [format_protocol({"audio": 0.95})])
    assert [(row.method, row.value) for row in scarce] == [("SMIL", 92.89), ("ShaSpec", 93.33)]


def test_the_page_of_results_has_every_row():
    page = (ROOT / "docs" / "results.md").read_text("utf-8").replace("\\|", "|")
    for row in read_rows():
        section = page.split(f"\n## {row.dataset}\n")[1].split("\n## ")[0]
        start = f"| {row.method} | {row.protocol} | {row.subset} | "
        lines = [line for line in section.splitlines() if line.startswith(start)]
        assert any(f"| {row.value:.2f} | {row.source} |" in line for line in lines), row


def test_only_rows_of_the_same_dataset_variant_and_protocol_fit():
    changes = [
        ("", ""),
        ("wild", "tame"),
        ("frogs", "toads"),
        ("complete", "image|audio=0.70"),
        ("complete", "not stated"),
    ]
    rows = read_rows("".join(ROW.replace(old, new) for old, new in changes))
    assert select_rows(rows, "frogs", "wild", ["complete"]) == [rows[0]]
    assert select_rows(rows, "frogs", "tame", ["complete"]) == [rows[1]]
    assert select_rows(rows, "toads", "wild", ["complete"]) == [rows[2]]
    assert select_rows(rows, "frogs", "wild", ["audio|image=0.7"]) == [rows[3]]
    assert select_rows(rows, "frogs", "wild", ["audio=0.7", "complete"]) == [rows[0]]
    assert select_rows(rows, "frogs", "", ["complete"]) == []


def test_the_protocol_is_what_training_misses():
    assert format_protocol({}) == "complete"
    assert format_protocol({"audio": 0.0}) == "complete"
    assert format_protocol({"image|audio": 0.7}) == "audio|image=0.7"
    assert format_protocol({"image": 0.3, "audio": 0.5}) == "audio=0.5,image=0.3"


@pytest.mark.parametrize(
    ("text", "problem", "cure"),
    [
        (ROW.replace("  source: Pond, a made paper\n", ""), "source: field required", "left out"),
        (ROW.replace("Pond, a made paper", "' '"), "source: ", "left out"),
        (ROW.replace("accuracy", "acuracy"), "unknown metric 'acuracy'", "'accuracy'"),
        (ROW.replace("90.5", "905"), "value: ", "value (in %)"),
        (ROW.replace("audio+image", "audio, image"), "subset: ", "subset"),
        (ROW.replace("complete", "audio = 0.7"), "protocol: ", "protocol"),
        (ROW.replace("kind: paper", "kind: hearsay"), "kind: ", "kind"),
        (ROW + "  year: 2020\n", "unknown key 'year'", "source and kind"),
    ],
)
def test_a_row_that_is_not_complete_and_known_is_refused(text, problem, cure):
    with pytest.raises(UserError) as refused:
        read_rows(ROW.replace("Pond", "Lake") + text, "made.yaml")
    assert problem in refused.value.what
    assert refused.value.where == "made.yaml, row 2"
    assert cure in refused.value.hint


def test_a_duplicate_is_refused_whatever_its_value():
    with pytest.raises(UserError) as refused:
        read_rows(ROW + ROW.replace("90.5", "91"), "made.yaml")
    assert refused.value.what.startswith("is row 1 again: Pond, audio+image")
    assert refused.value.where == "made.yaml, row 2"
    assert refused.value.hint == "Keep one of the two."


@pytest.mark.parametrize("text", ["rows: 1", "- 1", "", "- {dataset: [}"])
def test_a_file_that_is_no_list_of_rows_is_refused(text):
    with pytest.raises(UserError) as refused:
        read_rows(text, "made.yaml")
    assert refused.value.where == "made.yaml"
    assert refused.value.hint


def write_evaluation(folder, **settings) -> list[str]:
    """Return report.md and report.html of an evaluation with these settings."""
    predictions = reports.four_toads()
    outcome = reports.evaluate(predictions)
    outcome = replace(outcome, settings=replace(outcome.settings, **settings))
    evaluation.write(folder, outcome, predictions, reports.COMMAND)
    return [(folder / f"report.{ending}").read_text("utf-8") for ending in ("md", "html")]


def test_an_evaluation_has_the_rows_that_fit_with_source_and_kind(tmp_path):
    for text in write_evaluation(tmp_path, dataset="avmnist-smil", train_missing={}):
        assert TITLE in text
        assert "may differ" in text
        assert "notes on the paper: check the paper before a claim" in text
        assert "audio=0.95" not in text  # of the other protocol
    lines = (tmp_path / "report.md").read_text("utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(SIMMLM)]
    assert line.endswith("| 91.61 |")


@pytest.mark.parametrize(
    "settings",
    [
        {"dataset": "digits", "train_missing": {}},
        {"dataset": "avmnist-smil", "train_missing": {"audio": 0.5}},
        {"dataset": "avmnist-smil", "train_missing": {}, "split": "val"},
        {"dataset": "avmnist-smil", "train_missing": {}, "variant": "another"},
        {"dataset": "avmnist", "train_missing": {}, "variant": "energy0.25-white-9.5dB"},
    ],
)
def test_an_evaluation_that_no_row_fits_has_no_section(tmp_path, settings):
    for text in write_evaluation(tmp_path, **settings):
        assert "ublished" not in text


def write_comparison(folder, dataset: str) -> list[str]:
    """Return compare.md and compare.html of a method under two conditions of training."""
    trainings = ["complete", "audio=0.950"]
    scores = []
    for train in trainings:
        scores.append(MethodScore(train, "ume-mma", "accuracy", "audio", 0.9, 0.01, 3))
    report = ComparisonReport(
        ComparisonSetup(dataset, "", "test", 450, "learned", True),
        metrics=[metrics.get("accuracy", "multiclass", 10)],
        method="ume-mma",
        seeds=[0, 1, 2],
        columns={train: ["audio"] for train in trainings},
        scores=scores,
        points=[],
        differences=[],
        rates={},
    )
    comparison_files.write(folder, report)
    return [(folder / f"compare.{ending}").read_text("utf-8") for ending in ("md", "html")]


def test_a_comparison_has_the_rows_of_each_training(tmp_path):
    for text in write_comparison(tmp_path / "smil", "avmnist-smil"):
        assert TITLE in text
        assert "92.69" in text
        assert "92.89" in text
        assert "94.44" not in text  # of audio=0.8, which nothing here is trained with


def test_a_comparison_that_no_row_fits_has_no_section(tmp_path):
    for text in write_comparison(tmp_path / "digits", "digits"):
        assert "ublished" not in text

"""The files of an evaluation: their numbers by hand, and their text."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from toys import reports
from toys.reports import EVIL

from umemma.evaluation.results import MAX_CURVES
from umemma.models.fusions import FUSIONS
from umemma.reports.wording import ABSENCE

FILES = {
    "metrics.json",
    "information.json",
    "information.csv",
    "robustness.csv",
    "per_class.csv",
    "confusion.csv",
    "robustness.png",
    "report.md",
    "report.html",
}


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_the_metrics_by_hand(results):
    assert {path.name for path in results.iterdir()} == FILES
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["accuracy"] == {"audio+image": 0.75, "audio": 0.25, "image": 0.5}
    assert metrics["unimodal"] == {"audio": 0.5, "image": 0.25}
    assert metrics["gap_to_ceiling"] == {"audio": -0.25, "image": 0.25}
    gaps = {left: gap["value"] for left, gap in metrics["gaps"].items()}
    assert gaps == {"audio+image": 0.25, "audio": -0.25, "image": 0.25}
    assert metrics["gaps"]["audio"]["low"] == -1 < -0.25 < metrics["gaps"]["audio"]["high"]
    assert metrics["worst_case"]["value"] == 0.25  # only a is right under every subset
    assert metrics["worst_case"]["low"] <= 0.25 <= metrics["worst_case"]["high"]
    assert metrics["hurts_most"] == "audio"
    assert set(metrics["information"]) == {"entropy", "audio+image", "audio", "image"}
    assert metrics["information"]["entropy"] == 0  # there is one class
    assert metrics["preset"] == "ume-mma"
    assert metrics["train_missing"] == {"audio": 0.5}


def test_the_report_says_what_its_numbers_are(results):
    text = (results / "report.md").read_text()
    assert "Accuracy by the modalities present (one training, seed 0)" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| audio+image | 75.0 % |")]
    assert "| +25.0 |" in line
    assert "evaluate.smallest_effect" in text
    assert "chosen on these same numbers" in text
    assert "a probe tells why" not in text  # there is none


def test_the_verdict_comes_first_in_both_reports(results):
    lines = (results / "report.md").read_text().splitlines()
    assert lines[2] == "- all modalities present: **75.0 %** (0.0–100.0), audio+image"
    assert lines[3] == "- worst subset: **25.0 %** (0.0–100.0), audio alone"
    assert lines[4] == "- best uni-modal model: **50.0 %** (0.0–100.0), audio"
    assert lines[6].startswith("- With all modalities present the ensemble is not distinguishable")
    text = (results / "report.html").read_text()
    header = text[text.index("<h1>") : text.index("<nav")]
    for value in ("75.0", "25.0", "50.0"):
        assert f'<dd class="value">{value}\N{NO-BREAK SPACE}%</dd>' in header
    assert '<li class="unclear">With all modalities present' in header
    assert header.index('class="numbers"') < header.index('class="lead"')


def test_the_tables_of_the_plots_by_hand(results):
    rows = {(row["missing"], row["ratio"]): row for row in read_csv(results / "robustness.csv")}
    assert len(rows) == 3 * 3
    half = rows["audio|image", "0.5"]  # from 3/4 half way to (1/4 + 2/4) / 2
    assert float(half["score"]) == pytest.approx((0.75 + 0.375) / 2)
    assert float(half["ceiling"]) == 0.375  # of each half the model of what is left
    assert float(rows["audio", "1"]["ceiling"]) == 0.25
    assert float(rows["audio", "1"]["average"]) == 0.25  # the image's model
    recall = {}
    for row in read_csv(results / "per_class.csv"):
        recall[row["name"], row["modalities"]] = row["score"]
    assert recall[EVIL, "image"] == "0.500000"
    assert recall["toad", "image"] == ""  # doesn't occur
    assert read_csv(results / "confusion.csv")[0] == {
        "modalities": "audio+image",
        "right": EVIL,
        "answered": "toad",
        "n": "1",
    }


def test_the_same_predictions_give_the_same_bytes(results, tmp_path):
    reports.write(tmp_path, reports.four_toads())
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (results / name).read_bytes(), name


@pytest.mark.slow
def test_the_report_says_what_it_leaves_out(tmp_path):
    reports.write(tmp_path, reports.noisy_predictions("abcd", 40, 300))
    text = (tmp_path / "report.html").read_text()
    assert "Recall of the 20 of 40 classes that lose most" in text
    assert f"Figures show {MAX_CURVES} of 15 missing sets" in text
    assert text.count("Shown are 7 of 15 subsets") == 3
    assert 'class="heat"' not in text
    assert "The most frequent confusions" in text
    assert len(text) < 3e6


def test_sets_of_labels_and_absences(tmp_path):
    reports.write(tmp_path, reports.noisy_labels("ab", 3, 60))
    text = (tmp_path / "report.html").read_text()
    assert "Confusions" not in text
    assert "summed over the labels" in text
    assert "nan" not in re.sub(r"<[^>]*>", "", text).lower()
    assert (tmp_path / "confusion.csv").read_text() == "modalities,right,answered,n\n"


def test_probes_are_shown_with_how_to_read_them(tmp_path):
    predictions = reports.noisy_predictions("ab", 3, 60)
    predictions.probes["a"] = np.roll(predictions.unimodal["a"], 1, axis=0)
    reports.write(tmp_path, predictions)
    text = (tmp_path / "report.md").read_text()
    assert "fitted on the training split's features with its strength chosen on validation" in text
    start = text.index("The encoder: the probe minus the uni-modal model")
    table = text[start : text.index("The fusion: ", start)]
    (line,) = [line for line in table.splitlines() if line.startswith("| a |")]
    gap = json.loads((tmp_path / "information.json").read_text())["encoder_gaps"][0]
    assert f"| {100 * gap['score']:+.1f} |" in line
    assert gap["score"] < 0


def test_one_modality(tmp_path):
    reports.write(tmp_path, reports.noisy_predictions("a", 3, 30))
    assert "nothing can be taken away" in (tmp_path / "report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_negative_bits_are_no_information(tmp_path):
    predictions = reports.noisy_predictions("ab", 3, 60)
    for table in (*predictions.ensemble.values(), *predictions.unimodal.values()):
        table[:] = -table  # sure of what is wrong
    reports.write(tmp_path, predictions)
    text = (tmp_path / "report.html").read_text()
    assert "No subset shows any information." in text
    assert not re.search(r"at least -", text)


def test_no_caption_stands_twice(results):
    text = (results / "report.html").read_text()
    captions = re.findall(r"<(?:figcaption|caption><span)>(.*?)</", text)
    assert len(captions) > 10
    assert len(captions) == len(set(captions))


def test_a_column_of_averages_needs_more_than_one(results, tmp_path):
    text = (results / "report.md").read_text()
    assert "average of the uni-modal models |" not in text
    assert "the average of the logits of the uni-modal models has accuracy 25.0 %" in text
    reports.write(tmp_path, reports.noisy_predictions("abc", 3, 60))
    assert "| average of the uni-modal models |" in (tmp_path / "report.md").read_text()


def test_every_rule_for_an_absent_modality_has_words():
    assert set(ABSENCE) == {"zero", "blank", "learned", *FUSIONS}


@pytest.mark.slow
def test_of_many_modalities_the_report_lists_some_subsets_and_sums_up_all(tmp_path):
    """Six modalities: 63 subsets; listed are all, six without one, six alone."""
    names = [f"view{i}" for i in range(6)]
    predictions = reports.noisy_predictions(names, 3, 60)
    reports.write(tmp_path, predictions)
    text = (tmp_path / "report.md").read_text()
    table = text.split("Accuracy by the modalities present")[1].split("\n\n")[1]
    assert table.count("\n| view") == 13
    assert "Tables list 13 of 63 subsets" in text
    sizes = text.split("Accuracy by how many modalities are present")[1].split("\n\n")[1]
    rows = [row.split(" | ") for row in sizes.splitlines()[2:]]
    assert [(row[0].strip("| "), row[1]) for row in rows] == [
        ("6", "1"),
        ("5", "6"),
        ("4", "15"),
        ("3", "20"),
        ("2", "15"),
        ("1", "6"),
    ]
    pairs = {
        left: float((logits.argmax(1) == predictions.target).mean())
        for left, logits in predictions.ensemble.items()
        if left.count("+") == 1
    }
    assert rows[4][2] == f"{100 * np.mean(list(pairs.values())):.1f} %"
    assert rows[4][3] == f"{100 * min(pairs.values()):.1f} %"
    assert pairs[rows[4][4]] == min(pairs.values())
    assert "view0+view1+view2+view3+view4+view5" in text
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(metrics["accuracy"]) == 63
    assert len(text) < 40_000

"""The report: its numbers by hand, its page from the outside, and in a browser where there is one."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from toys.predictions import logits

from umemma.evaluation import information
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.grid import Grid
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import CURVES, Outcome, replace_nan, summarize
from umemma.missing import list_conditions, list_patterns
from umemma.reports import evaluation, figures, html
from umemma.reports.classes import classes
from umemma.stages import evaluate
from umemma.types import format_pattern

EVIL = "<script>alert('1')</script> & $x^2$ | 日本"
FILES = {
    "metrics.json",
    "information.json",
    "information.csv",
    "robustness.csv",
    "per_class.csv",
    "confusion.csv",
}
FILES |= {"robustness.png", "report.md", "report.html"}
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None
)


def by_hand() -> Predictions:
    """Four samples of class 1, each a group. Right: everything 3, audio 1, image 2; alone: audio 2, image 1."""
    ensemble = {
        "audio+image": logits([1, 1, 1, 0]),
        "audio": logits([1, 0, 0, 0]),
        "image": logits([1, 1, 0, 0]),
    }
    alone = {"audio": logits([1, 1, 0, 0]), "image": logits([1, 0, 0, 0])}
    used = {"ensemble/audio": Calibration(2.0, (0.25, 0.0))}
    ensemble["audio"] = used["ensemble/audio"].apply(ensemble["audio"])
    keys = list("abcd")
    return Predictions(
        keys, {"sample": keys}, np.ones(4, dtype=np.int64), ensemble, alone, ["toad", EVIL], used
    )


def made_up(names: str, classes: int, n: int, several: bool = False) -> Predictions:
    """Each modality tells some of the label; where there are sets of labels, a third of each modality is absent."""
    chance = np.random.default_rng(0)
    target = chance.random((n, classes)) < 0.3 if several else chance.integers(0, classes, n)
    truth = target * 2.0 - 1 if several else np.eye(classes)[target]
    told = {m: (truth * 2 + chance.normal(size=truth.shape)).astype(np.float32) for m in names}
    for m in list(names)[1:] if several else []:
        told[m][chance.random(n) < 1 / 3] = np.nan
    ensemble = {}
    for one in list_patterns(names):
        nothing = np.logical_and.reduce([np.isnan(told[m]) for m in one])
        ensemble[format_pattern(one)] = np.where(
            nothing, np.nan, sum(np.nan_to_num(told[m]) for m in one)
        ).astype(np.float32)
    keys = [f"k{i}" for i in range(n)]
    target = target.astype(np.float32) if several else target
    return Predictions(
        keys, {"sample": keys}, target, ensemble, told, [f"class {c}" for c in range(classes)]
    )


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def outcome(predictions: Predictions, ratios=(0.0, 0.5, 1.0), metrics=None) -> Outcome:
    grid = Grid(predictions, 0, 2, 50, metrics)
    about = {
        "preset": "ume-mma",
        "absent": "learned",
        "dataset": "frogs|",
        "variant": "",
        "split": "test",
    }
    about |= {
        "metric": grid.metrics[0].name,
        "seed": 0,
        "train_missing": {"audio": 0.5},
        "calibrated": True,
    }
    rows = grid.rows(list_conditions(predictions.modalities), ratios)
    return Outcome(
        *rows, grid.metrics, about, information.estimate_information(predictions, grid.bootstrap)
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    evaluation.write(folder, outcome(by_hand()), by_hand(), "umemma evaluate-missing --set seed=0")
    return folder


def test_numbers_by_hand(written):
    assert {path.name for path in written.iterdir()} == FILES
    metrics = json.loads((written / "metrics.json").read_text())
    assert metrics["accuracy"] == {"audio+image": 0.75, "audio": 0.25, "image": 0.5}
    assert metrics["unimodal"] == {"audio": 0.5, "image": 0.25}
    assert metrics["gap_to_ceiling"] == {"audio": -0.25, "image": 0.25}
    assert {left: gap["value"] for left, gap in metrics["gaps"].items()} == {
        "audio+image": 0.25,
        "audio": -0.25,
        "image": 0.25,
    }
    assert metrics["gaps"]["audio"]["low"] == -1 < -0.25 < metrics["gaps"]["audio"]["high"]
    text = (written / "report.md").read_text()
    assert "Accuracy by the modalities present (one training, seed 0)" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| audio+image | 75.0 % |")]
    assert "| +25.0 |" in line
    assert "evaluate.smallest_effect" in text
    assert "chosen on these same numbers" in text
    assert "a probe tells why" not in text  # there is none
    assert metrics["worst_case"]["value"] == 0.25  # only a is right under every subset
    assert metrics["worst_case"]["low"] <= 0.25 <= metrics["worst_case"]["high"]
    assert metrics["hurts_most"] == "audio"
    assert set(metrics["information"]) == {"entropy", "audio+image", "audio", "image"}
    assert metrics["information"]["entropy"] == 0  # there is one class
    rows = {(row["missing"], row["ratio"]): row for row in table(written / "robustness.csv")}
    assert len(rows) == 3 * 3
    half = rows["audio|image", "0.5"]  # from 3/4 half way to (1/4 + 2/4) / 2
    assert float(half["score"]) == pytest.approx((0.75 + 0.375) / 2)
    assert (float(half["ceiling"]), float(rows["audio", "1"]["ceiling"])) == (
        0.375,
        0.25,
    )  # of each half its own model
    assert float(rows["audio", "1"]["average"]) == 0.25  # the image's model
    recall = {
        (row["name"], row["modalities"]): row["score"] for row in table(written / "per_class.csv")
    }
    assert recall[EVIL, "image"] == "0.500000"
    assert recall["toad", "image"] == ""  # doesn't occur
    confusion = table(written / "confusion.csv")
    assert confusion[0] == {
        "modalities": "audio+image",
        "right": EVIL,
        "answered": "toad",
        "n": "1",
    }


def test_what_has_no_number_is_null():
    assert replace_nan({"a": [float("nan"), 1.0], "b": (float("inf"), "x")}) == {
        "a": [None, 1.0],
        "b": [None, "x"],
    }
    found = summarize(outcome(by_hand(), metrics=["accuracy", "map"]))
    json.dumps(replace_nan(found), allow_nan=False)


def test_the_answer_for_machines_by_hand():
    answer = evaluate.as_json(outcome(by_hand(), [1.0], ["accuracy", "log_loss"]))
    json.dumps(answer, allow_nan=False)
    found = {(one["missing"], one["metric"]): one for one in answer["results"]}
    assert {one["draws"]["count"] for one in found.values()} == {2}
    one = found["audio", "accuracy"]
    assert (one["complete"], one["value"], one["unimodal_ceiling"]) == (0.75, 0.5, 0.25)
    right, wrong = np.log1p(np.exp(-1)), np.log1p(np.exp(1))
    one = found["audio|image", "log_loss"]  # of which less is better
    assert one["complete"] == pytest.approx((3 * right + wrong) / 4)
    assert one["unimodal_ceiling"] == pytest.approx(
        ((right + wrong) / 2 + (right + 3 * wrong) / 4) / 2
    )


def test_the_same_predictions_give_the_same_bytes(written, tmp_path):
    evaluation.write(
        tmp_path, outcome(by_hand()), by_hand(), "umemma evaluate-missing --set seed=0"
    )
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


class Tags(HTMLParser):
    """Checks that tags close in order, and keeps what a page refers to and names."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self._note(attributes)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self._note(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def _note(self, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href"):
                self.links.append(value)


def test_the_page_needs_nothing_else_and_runs_nothing(written):
    text = (written / "report.html").read_text()
    found = Tags(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(found.tags)
    assert not re.search(r"https?:|//www|@import|javascript:", text)
    assert all(
        link.startswith("#") for link in [*found.links, *re.findall(r"url\(([^)]*)\)", text)]
    )
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert text.startswith('<!doctype html>\n<html lang="en">')
    assert text.count('<svg role="img" aria-label=') == text.count("<svg")
    assert text.count("<caption>") == text.count("<table")
    headings = [int(tag[1]) for tag in found.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert set(headings[1:]) == {2}


def test_names_from_data_are_text(written):
    text = (written / "report.html").read_text()
    assert "alert(" in text
    assert "<script" not in text
    assert escape(EVIL) in text.replace("&#39;", "&#x27;")
    lines = (written / "report.md").read_text().splitlines()
    assert not [line for line in lines if re.search(r"(?<!\\)<", line)]
    for before, rule, after in zip(lines, lines[1:], lines[2:], strict=False):
        if rule.startswith("|--"):
            assert (
                len({len(re.findall(r"(?<!\\)\|", line)) for line in (before, rule, after)}) == 1
            ), after


def test_a_page_of_any_blocks():
    """The shell that other reports use."""
    svg = figures.svg(
        "two",
        lambda axes: figures.curves(axes, [figures.Curve("<a>", [0, 1], [0.2, 0.1])], "x", "y"),
    )
    blocks = [
        html.Text("1 < 2"),
        html.Points(["a", "b"]),
        html.Table("t", ["name", "kind", "n"], [["x|y", "k", "3"]], 2),
        html.Heat("h", "", ["r"], ["c"], [[0.25]]),
        html.Figure(svg, "Falling", "From 20 % to 10 %.", "falling.png"),
        html.Code("umemma compare"),
        html.Terms({"n": "how many"}),
    ]
    text = html.render("T & T", "So it is.", [html.Section("One, two", blocks)])
    Tags(text)
    for part in (
        "<title>T &amp; T</title>",
        'id="s1"',
        "1 &lt; 2",
        '<td class="name">k</td>',
        "--v:25%",
        "&lt;a&gt;",
    ):
        assert part in text
    marked = html.markdown("T", "So it is.", [html.Section("One, two", blocks)])
    assert "| x\\|y | k | 3 |\n" in marked
    assert "|---|---|--:|" in marked
    assert "![Falling](falling.png)" in marked
    assert "```sh\numemma compare\n```" in marked


def test_a_drawing_takes_its_colours_from_the_page():
    def draw(axes):
        figures.curves(axes, [figures.Curve(name, [0, 1], [0, 1]) for name in "ab"], "x", "y")

    svg = figures.svg("a drawing", draw)
    assert "currentColor" in svg
    assert "var(--c1)" in svg
    assert not [colour for colour in figures.COLOURS if colour in svg]
    assert figures.svg("a drawing", draw) == svg
    other = set(re.findall(r' id="([^"]*)"', figures.svg("another", draw)))
    assert other
    assert not other & set(re.findall(r' id="([^"]*)"', svg))  # they stand in one page


@pytest.mark.slow
def test_many_classes_and_subsets_are_cut_and_said(tmp_path):
    predictions = made_up("abcd", 40, 300)
    found = outcome(predictions)
    assert found.shown == ["a+b+c+d", *sorted(found.shown[1:5]), *found.shown[5:]]
    assert len(found.shown) == 1 + CURVES
    assert all(left.count("+") == 2 for left in found.shown[1:5])  # each modality alone missing
    assert min(found.lead().values(), key=lambda row: row.value).left == found.shown[5]
    evaluation.write(tmp_path, found, predictions, "umemma evaluate-missing")
    text = (tmp_path / "report.html").read_text()
    assert "Of 40 classes the 20 that lose most" in text
    assert f"Figures show {CURVES} of 15 missing sets" in text
    assert text.count("Shown are 7 of 15 subsets") == 3
    assert 'class="heat"' not in text
    assert "The most frequent confusions" in text
    assert len(text) < 3e6


def test_sets_of_labels_and_absences(tmp_path):
    predictions = made_up("ab", 3, 60, several=True)
    evaluation.write(tmp_path, outcome(predictions), predictions, "umemma evaluate-missing")
    text = (tmp_path / "report.html").read_text()
    assert "Confusions" not in text
    assert "summed over the labels" in text
    assert "nan" not in re.sub(r"<[^>]*>", "", text).lower()
    assert (tmp_path / "confusion.csv").read_text() == "modalities,right,answered,n\n"


def test_probes_are_shown_with_how_to_read_them(tmp_path):
    predictions = made_up("ab", 3, 60)
    predictions.probes["a"] = np.roll(predictions.unimodal["a"], 1, axis=0)
    evaluation.write(tmp_path, outcome(predictions), predictions, "umemma evaluate-missing")
    text = (tmp_path / "report.md").read_text()
    assert "fitted on the training split's features with its strength chosen on validation" in text
    start = text.index("The encoder: the probe, less the uni-modal model")
    (line,) = [
        line
        for line in text[start : text.index("The fusion: ", start)].splitlines()
        if line.startswith("| a |")
    ]
    known = json.loads((tmp_path / "information.json").read_text())["encoder_gaps"][0]
    assert f"| {100 * known['score']:+.1f} |" in line
    assert known["score"] < 0


def test_one_modality(tmp_path):
    predictions = made_up("a", 3, 30)
    evaluation.write(tmp_path, outcome(predictions), predictions, "umemma evaluate-missing")
    assert "nothing can be taken away" in (tmp_path / "report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_the_terminal(capsys):
    found = outcome(by_hand())
    console = Console(width=120)
    console.print(evaluation.subset_table(found))
    console.print(evaluation.ratio_table(found))
    print(*evaluation.remarks(found), sep="\n")
    text = capsys.readouterr().out
    for part in (
        "75.0 %",
        "uni-modal ceiling",
        "-25.0",
        "56.2 %",
        "log-loss",
        "in accuracy: 25.0 %",
    ):
        assert part in text
    assert "audio alone hurts most" in text
    assert "- There are only 4 independent groups" in text
    assert "accuracy per modality subset; one training, seed 0" in text
    assert "-25.0 (-100.0 to 21.9)" in text  # as in test_grid
    assert (
        "differences in accuracy of at least 1.0 points (evaluate.smallest_effect) whose 95 % interval excludes 0"
        in text
    )


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_in_a_browser_it_fits_a_phone_and_nothing_goes_wrong(written, tmp_path):
    """In frames of a phone's width, so that what is around them can read how wide they became."""
    text = (written / "report.html").read_text()
    frames = [
        f'<iframe width="{w}" height="800" srcdoc="{escape(text)}"></iframe>'
        for w in (320, 390, 1200)
    ]
    script = """<script>onload = () => { document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(
        frame => { const root = frame.contentDocument.documentElement; return [frame.width, root.scrollWidth,
        root.querySelectorAll("svg").length, root.querySelectorAll("script").length] })) }</script>"""
    (tmp_path / "frames.html").write_text(
        f"<!doctype html><title></title>{script}{''.join(frames)}"
    )
    words = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/p",
    ]
    done = subprocess.run(
        [str(CHROMIUM), *words, "--dump-dom", f"file://{tmp_path}/frames.html"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    seen = json.loads(unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    assert len(seen) == 3
    for width, scrolled, drawings, scripts in seen:
        assert scrolled <= int(width), width
        assert drawings == text.count("<svg")
        assert scripts == 0
    assert "CONSOLE" not in done.stderr


def test_a_class_that_is_never_there_without_a_modality_has_not_lost_it():
    """Of the second class no sample has an image, so nothing is known of how it does with that alone."""
    one = logits([0, 1, 1, 1])
    image = one.copy()
    image[1:] = np.nan
    target = np.array([0, 1, 1, 1])
    tables = {"audio+image": one, "audio": logits([1, 1, 1, 1]), "image": image}
    made = Predictions(
        list("abcd"),
        {"sample": list("abcd")},
        target,
        tables,
        {m: tables[m] for m in ("audio", "image")},
        ["toad", "frog"],
    )
    _, table_ = classes(outcome(made), made)
    losses = {row[0]: row[-1] for row in table_.rows}
    assert losses == {"toad": "100.0", "frog": "0.0"}

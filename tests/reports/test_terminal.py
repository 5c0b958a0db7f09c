"""What `umemma evaluate` prints: red where fusion harms, within the width of the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from toys import reports

from umemma.evaluation.predictions import Predictions
from umemma.reports import terminal
from umemma.reports.terminal import wrap_names

RED = "\x1b[1;31m"
GREEN = "\x1b[32m"
LONG_NAMES = ("accelerometer-left", "accelerometer-right", "spectrogram")


def make_console(width: int = 80, is_terminal: bool = False) -> Console:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    if is_terminal:
        console = Console(
            file=io.StringIO(),
            width=width,
            force_terminal=True,
            color_system="standard",
        )
    return console


def test_the_verdict_comes_first():
    console = make_console()
    terminal.print_evaluation(console, reports.evaluate(reports.four_toads()))
    text = console.file.getvalue()
    lines = text.splitlines()
    assert lines[0] == "frogs| test, ume-mma: accuracy; one training, seed 0"
    assert [" ".join(line.split()) for line in lines[1:4]] == [
        "all modalities present 75.0 % (0.0–100.0) audio+image",
        "worst subset 25.0 % (0.0–100.0) audio alone",
        "best uni-modal model 50.0 % (0.0–100.0) audio",
    ]
    assert text.index("not distinguishable") < text.index("accuracy per modality subset")
    assert "Worst case: 25.0 % (0.0–" in text
    assert "-25.0 (-100.0 to 21.9)" in text  # as in test_grid
    assert "- There are only 4 independent groups" in text


def test_several_labels_are_shown_by_what_counts_each_label_alike():
    """Both labels of the first two samples are right; the prior is 0.5 for both, so no label."""
    target = np.array([[1, 1], [1, 1], [0, 0], [0, 0]], np.float32)
    table = (2 * target - 1).astype(np.float32)
    keys = list("abcd")
    predictions = Predictions(
        keys,
        {"sample": keys},
        target,
        {"text": table},
        {"text": table},
        ["x", "y"],
        prior=[0.4, 0.4],
    )
    console = make_console()
    terminal.print_evaluation(console, reports.evaluate(predictions))
    text = console.file.getvalue()
    assert "every label counts the same" in text
    lines = [line for line in text.splitlines() if line.startswith(("│ text ", "│ class prior"))]
    cells = [line.strip("│").replace(" ", "").split("│") for line in lines]
    assert cells[-2:] == [["text", "100.0%", "100.0%"], ["classprior", "0.0%", "50.0%"]]
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize(("sign", "colour", "arrow"), [(-1, RED, "▼"), (1, GREEN, "▲")])
def test_fusion_that_harms_is_red_and_fusion_that_helps_is_green(sign, colour, arrow):
    outcome = reports.evaluate(reports.four_toads())
    low, high = sorted((sign * 0.03, sign * 0.09))
    changed = reports.change_rows(
        outcome, "gap", "audio+image", value=sign * 0.06, low=low, high=high
    )
    console = make_console(is_terminal=True)
    terminal.print_evaluation(console, changed)
    assert f"{colour}{arrow} With all modalities present" in console.file.getvalue()


@pytest.mark.parametrize("names", [("audio", "image"), LONG_NAMES])
def test_tables_fit_80_columns_and_break_no_interval(names):
    outcome = reports.evaluate(reports.noisy_predictions(names, 10, 200))
    for print_one in (terminal.print_evaluation, terminal.print_answer):
        console = make_console()
        print_one(console, outcome)
        lines = console.file.getvalue().splitlines()
        assert max(len(line) for line in lines) <= 80
        assert not [line for line in lines if "…" in line]
        assert not [line for line in lines if line.rstrip(" │").endswith(("–", " to", "("))]


def test_an_answer_has_the_values_at_each_ratio():
    console = make_console()
    terminal.print_answer(console, reports.evaluate(reports.four_toads()))
    text = console.file.getvalue()
    assert "frogs| test, ume-mma: without one of audio, image" in text
    assert "56.2 %" in text  # from 3/4 half way to (1/4 + 2/4) / 2
    assert "log-loss" in text


def test_the_last_lines_say_what_to_do_next():
    console = make_console()
    terminal.print_next_step(console, Path("results/frogs"), " --params frogs.yaml")
    text = console.file.getvalue()
    assert "page: results/frogs/report.html" in text
    assert "umemma compare --params frogs.yaml" in text


def test_names_are_broken_after_a_sign():
    assert wrap_names("audio+image", 20) == "audio+image"
    assert wrap_names("audio+image+text", 12) == "audio+image+\ntext"
    assert wrap_names("audio|image", 6) == "audio|\nimage"


def test_of_many_modalities_the_terminal_shows_a_screenful():
    names = [f"view{i}" for i in range(6)]
    console = make_console()
    terminal.print_evaluation(console, reports.evaluate(reports.noisy_predictions(names, 3, 60)))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 120
    assert any("by how many modalities are present" in line for line in lines)
    assert any("Tables list 13 of 63 subsets" in line for line in lines)

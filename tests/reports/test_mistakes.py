"""The samples that go wrong, the most confident first."""

from __future__ import annotations

import numpy as np
from toys import reports

from umemma.evaluation.predictions import Predictions
from umemma.reports.mistakes import SHOWN, list_mistakes


def make_predictions(complete, image, target) -> Predictions:
    """Return predictions whose logits are given; sound alone always says the first class."""
    keys = [f"k{n}" for n in range(len(target))]
    tables = {"audio+image": complete, "audio": [[1, 0]] * len(target), "image": image}
    ensemble = {left: np.array(rows, np.float32) for left, rows in tables.items()}
    unimodal = {m: ensemble[m] for m in ("audio", "image")}
    groups = {"sample": keys}
    return Predictions(keys, groups, np.array(target), ensemble, unimodal, ["toad", "frog"])


def test_the_most_confident_wrong_answers_come_first():
    complete = [[0, 3], [2, 0], [0, 0.1], [1, 0]]
    image = [[0, 1], [0, 1], [1, 0], [float("nan")] * 2]
    predictions = make_predictions(complete, image, [0, 1, 0, 0])
    text, table = list_mistakes(reports.evaluate(predictions), predictions)
    assert text.text.startswith("With audio+image, 3 of 4 samples are answered wrongly.")
    assert table.rows == [
        ["k0", "toad", "frog", "audio", "95.3"],  # 1 / (1 + exp(-3))
        ["k1", "frog", "toad", "image", "88.1"],
        ["k2", "toad", "frog", "audio, image", "52.5"],
    ]


def test_few_are_shown_and_none_is_said():
    many = SHOWN + 5
    predictions = make_predictions([[0, 1]] * many, [[0, 1]] * many, [0] * (many - 1) + [1])
    _, table = list_mistakes(reports.evaluate(predictions), predictions)
    assert len(table.rows) == SHOWN
    right = make_predictions([[0, 1]] * 2 + [[1, 0]], [[0, 1]] * 3, [1, 1, 0])
    (text,) = list_mistakes(reports.evaluate(right), right)
    assert text.text == "With audio+image no sample is answered wrongly."


def test_a_key_of_a_stranger_is_text(tmp_path):
    predictions = reports.four_toads()
    predictions.keys[3] = reports.EVIL
    reports.write(tmp_path, predictions)
    page = (tmp_path / "report.html").read_text()
    assert "Samples that go wrong" in page
    assert "<script" not in page

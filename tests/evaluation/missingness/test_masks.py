"""Tables of masks: what they leave, and that a draw's table says what was drawn."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
from toys import reports
from toys.predictions import four_samples

from umemma.errors import UserError
from umemma.evaluation.missingness.masks import read_masks, write_masks
from umemma.evaluation.missingness.protocol import Protocol, weigh_subsets


def test_a_table_of_masks_by_hand(tmp_path):
    path = tmp_path / "masks.csv"
    path.write_text("key,present\nd,image\nc,\nb,image+audio\na,audio\n")
    weights = read_masks(path, four_samples())
    assert weights.weights["audio"].tolist() == [1, 0, 0, 0]
    assert weights.weights["audio+image"].tolist() == [0, 1, 0, 0]
    # Nothing is left of c, nor of d, which has no image.
    assert weights.scored.tolist() == [True, True, False, False]


def test_a_draw_is_read_back_as_it_was_drawn_whatever_the_order(tmp_path):
    predictions = reports.noisy_predictions("ab", 3, 400)
    chances = weigh_subsets(Protocol(missing={"a": 0.3}), predictions, tmp_path)
    write_masks(tmp_path / "m.csv", chances, predictions, 0, 1)
    rows = list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    counts = Counter(row["present"] for row in rows)
    assert set(counts) == {"a+b", "b"}
    assert counts["b"] / 400 == pytest.approx(0.3, abs=0.06)
    masks = read_masks(tmp_path / "m.csv", predictions).weights
    assert [row["present"] == "b" for row in rows] == masks["b"].astype(bool).tolist()

    write_masks(tmp_path / "again.csv", chances, predictions, 0, 1)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "m.csv").read_bytes()
    write_masks(tmp_path / "other.csv", chances, predictions, 0, 2)
    other = read_masks(tmp_path / "other.csv", predictions).weights
    both = np.mean(other["b"] * masks["b"])
    assert both == pytest.approx(0.09, abs=0.045)  # another draw, and independent of the first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,present\na,audio\n", "3 of 4 samples have no row, first 'b'"),
        ("key,present\na,audio\na,image\n", "row 2 has the key 'a' again"),
        ("key,present\na,smell\nb,audio\nc,audio\nd,audio\n", "unknown modality 'smell'"),
        ("key,left\na,audio\n", "there is no column 'present'"),
        ("key,present\na,\nb,\nc,\nd,\n", "leaves nothing of any sample"),
    ],
)
def test_a_table_that_does_not_fit_is_said(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_masks(tmp_path / "m.csv", four_samples())

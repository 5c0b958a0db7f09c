"""What a modality more does to the answers, by hand."""

from __future__ import annotations

import math

import pytest
from toys.predictions import four_samples, predictions_in_letters

from umemma.evaluation.attribution.additions import count_changes, measure_evenness
from umemma.evaluation.bootstrap import Bootstrap


def count(predictions):
    rows = count_changes(predictions, Bootstrap(predictions.groups, 0, 100))
    return {row.modality: row for row in rows}


def test_answers_won_and_lost_by_hand():
    right = {"audio+image": "yynn", "audio": "ynyn", "image": "yyyn"}
    rows = count(predictions_in_letters(right))
    # Beside the image, audio loses c. Beside audio, the image wins b and loses c.
    assert (rows["audio"].won, rows["audio"].lost) == (0, 0.25)
    assert (rows["image"].won, rows["image"].lost) == (0.25, 0.25)
    for row in rows.values():
        assert row.n == 4
        assert row.won_low <= row.won <= row.won_high
        assert row.lost_low <= row.lost <= row.lost_high


def test_samples_that_lack_the_modality_or_all_others_do_not_count():
    rows = count(four_samples())  # d has no image; right are: both abc, audio a, image ab
    assert (rows["image"].n, rows["image"].won, rows["image"].lost) == (3, pytest.approx(2 / 3), 0)
    assert (rows["audio"].n, rows["audio"].won, rows["audio"].lost) == (3, pytest.approx(1 / 3), 0)


@pytest.mark.parametrize(
    ("bits", "evenness"),
    [([1, 1], 1), ([3, 0], 0), ([2, -1], 0), ([2, 2, 0, 0], 0.5), ([3, 1], 0.811278)],
)
def test_evenness_by_hand(bits, evenness):
    assert measure_evenness(bits) == pytest.approx(evenness, abs=1e-6)


@pytest.mark.parametrize("bits", [[1.0], [0.0, 0.0], [-1.0, 0.0]])
def test_where_nothing_contributes_there_is_no_evenness(bits):
    assert math.isnan(measure_evenness(bits))

"""The verdict: three numbers, and in words where the ensemble is worse than a single modality."""

from __future__ import annotations

import math

import pytest
from toys import reports

from umemma.reports.verdict import KeyNumber, give_verdict, judge_subset


@pytest.fixture
def outcome():
    return reports.evaluate(reports.four_toads())


def test_the_three_numbers_are_those_of_rows(outcome):
    complete, worst, best = give_verdict(outcome).numbers
    assert complete == KeyNumber("all modalities present", "75.0 %", "0.0–100.0", "audio+image")
    assert worst == KeyNumber("worst subset", "25.0 %", "0.0–100.0", "audio alone")
    assert best == KeyNumber("best uni-modal model", "50.0 %", "0.0–100.0", "audio")


@pytest.mark.parametrize(
    ("value", "low", "high", "tone", "text"),
    [
        (
            -0.06,
            -0.09,
            -0.03,
            "worse",
            "With all modalities present the ensemble is worse than the best uni-modal model, "
            "audio: accuracy is 6.0 points (3.0 to 9.0) lower.",
        ),
        (
            0.06,
            0.03,
            0.09,
            "better",
            "With all modalities present the ensemble is better than the best uni-modal model, "
            "audio: accuracy is 6.0 points (3.0 to 9.0) higher.",
        ),
        (
            -0.06,
            -0.13,
            0.01,
            "unclear",
            "With all modalities present the ensemble is not distinguishable from the best "
            "uni-modal model, audio: accuracy differs by -6.0 points (-13.0 to 1.0), and the "
            "interval includes 0.",
        ),
        (
            -0.06,
            math.nan,
            math.nan,
            "unclear",
            "With all modalities present the ensemble is not distinguishable from the best "
            "uni-modal model, audio: accuracy differs by -6.0 points, and there is no interval.",
        ),
    ],
)
def test_fusion_is_judged_by_the_interval_of_the_gap(outcome, value, low, high, tone, text):
    changed = reports.change_rows(outcome, "gap", "audio+image", value=value, low=low, high=high)
    verdict = give_verdict(changed)
    assert verdict.numbers[0].tone == tone
    assert verdict.findings[0] == (text, tone)


def test_a_subset_that_is_worse_than_its_model_is_named(outcome):
    changed = reports.change_rows(outcome, "gap", "audio", value=-0.25, low=-0.3, high=-0.2)
    verdict = give_verdict(changed)
    assert verdict.numbers[1].tone == "worse"
    assert verdict.findings[1] == (
        "With audio alone the ensemble is 25.0 points (20.0 to 30.0) below the uni-modal model "
        "of audio.",
        "worse",
    )


def test_the_best_uni_modal_model_is_not_judged(outcome):
    changed = reports.change_rows(outcome, "gap", "audio", value=-0.25, low=-0.3, high=-0.2)
    assert give_verdict(changed).numbers[2].tone == "unclear"


def test_everything_is_compared_on_the_samples_that_the_best_model_has():
    """A third of the samples lacks b, whose model is the best."""
    outcome = reports.evaluate(reports.noisy_labels("ab", 3, 60))
    (row,) = [row for row in outcome.information.shortfalls if row.modality == "b"]
    gap = outcome.lead("gap")["a+b"]
    assert row.n == outcome.lead("unimodal")["b"].n < gap.n
    assert gap.value < 0 < row.score
    verdict = give_verdict(outcome)
    assert [number.name for number in verdict.numbers] == [
        "a+b (60 samples)",
        "a alone (60 samples)",
        f"b ({row.n} samples)",
    ]
    text = verdict.findings[0].text
    assert text.startswith(f"On the {row.n} samples that have b, the ensemble with all modalities")
    assert f"differs by {100 * row.score:+.1f} points" in text


def test_a_gap_of_different_samples_is_neither_better_nor_worse():
    outcome = reports.evaluate(reports.noisy_labels("ab", 3, 60))
    changed = reports.change_rows(outcome, "gap", "a+b", value=-0.2, low=-0.3, high=-0.1)
    assert judge_subset(changed, "a+b") == "unclear"
    assert give_verdict(changed).numbers[0].tone != "worse"


def test_an_incomplete_subset_of_different_samples_is_not_compared():
    outcome = reports.evaluate(reports.noisy_labels("abc", 3, 60))
    unimodal = outcome.unimodal_values()
    rows = outcome.lead()
    not_compared = []
    for left in ("a+b", "a+c", "b+c"):
        best = max(left.split("+"), key=lambda m: unimodal[m])
        if outcome.lead("unimodal")[best].n < rows[left].n:
            not_compared.append(f"with {left}")
    assert not_compared
    texts = [finding.text for finding in give_verdict(outcome).findings]
    names = ", ".join(not_compared)
    assert f"Not compared, as some samples lack a modality: the ensemble {names}." in texts

"""The verdict: what an evaluation comes to, in three numbers and a few sentences.

It contains no statistic of its own: each number is that of a row of the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from umemma.evaluation.results import Outcome, find_best_model, find_lowest_subset
from umemma.reports.wording import (
    NO_UNIMODAL,
    Tone,
    capitalize,
    describe_subset,
    format_interval,
    format_range,
    judge_interval,
    with_interval,
)
from umemma.types import ResultRow

MAX_NAMES = 6  # subsets that a sentence names
WHAT_IS_PRESENT = "the best uni-modal model of what is present"


class KeyNumber(NamedTuple):
    """A number of the verdict.

    label: what it is; interval: "" for none; name: the modalities that it is of; tone: how it
    compares with the best uni-modal model.
    """

    label: str
    value: str
    interval: str
    name: str
    tone: Tone = "unclear"


class Finding(NamedTuple):
    """A sentence that compares the ensemble with the uni-modal models."""

    text: str
    tone: Tone


class Verdict(NamedTuple):
    """The first thing that a report says."""

    numbers: list[KeyNumber]
    findings: list[Finding]


class SubsetComparison(NamedTuple):
    """The ensemble with a subset minus the best uni-modal model of it, on the same samples.

    model: the modality of that model; samples: how many, where the ensemble is scored on more.
    """

    left: str
    model: str
    value: float
    low: float
    high: float
    samples: int | None = None

    @property
    def tone(self) -> Tone:
        return judge_interval(self.low, self.high)


def give_verdict(outcome: Outcome) -> Verdict:
    """Return the verdict on the leading metric."""
    return Verdict(list(_list_numbers(outcome)), list(_list_findings(outcome)))


def compare_subset(outcome: Outcome, left: str) -> SubsetComparison | None:
    """Return how the ensemble with a subset compares with its best uni-modal model.

    If samples lack the modality of that model, the gap is of different samples. Then the complete
    set has a row of the same samples in the information, and for other subsets there is None, as
    without uni-modal models.
    """
    if not outcome.unimodal_values():
        return None
    gap = outcome.lead("gap")[left]
    model = find_best_model(outcome, left)
    if model.n == gap.n:
        return SubsetComparison(
            left,
            model.left,
            gap.value,
            gap.low,
            gap.high,
        )
    if outcome.information and left == outcome.complete.left:
        for row in outcome.information.shortfalls:
            if row.modality == model.left:
                return SubsetComparison(
                    left,
                    model.left,
                    row.score,
                    row.score_low,
                    row.score_high,
                    row.n,
                )
    return None


def judge_subset(outcome: Outcome, left: str) -> Tone:
    """Return the tone of a subset's gap, "unclear" where it is of different samples."""
    comparison = compare_subset(outcome, left)
    if comparison is None or comparison.samples:
        return "unclear"
    return comparison.tone


def _list_numbers(outcome: Outcome) -> Iterator[KeyNumber]:
    complete = outcome.complete
    rows = {"all modalities present": complete}
    names = {"all modalities present": complete.left}
    lowest = find_lowest_subset(outcome)
    if lowest:
        rows["worst subset"] = lowest
        names["worst subset"] = describe_subset(lowest.left)
    if outcome.unimodal_values():
        best = find_best_model(outcome, complete.left)
        rows["best uni-modal model"] = best
        names["best uni-modal model"] = best.left
    for prior in outcome.lead("prior").values():
        label = outcome.metrics[0].prior
        rows[label] = prior
        names[label] = "no modality"

    metric = outcome.metrics[0]
    has_same_samples = len({row.n for row in rows.values()}) == 1
    for label, row in rows.items():
        name = names[label]
        if not has_same_samples:
            name += f" ({row.n} samples)"
        interval = format_interval(row, metric.percent)
        tone = _judge_row(outcome, row)
        yield KeyNumber(label, metric.shown(row.value), interval, name, tone)


def _judge_row(outcome: Outcome, row: ResultRow) -> Tone:
    """Return the tone of a key number. Of an incomplete subset, nothing is called good."""
    if row.model != "ensemble":
        return "unclear"
    comparison = compare_subset(outcome, row.left)
    if comparison and (comparison.tone == "worse" or not row.missing):
        return comparison.tone
    return "unclear"


def _list_findings(outcome: Outcome) -> Iterator[Finding]:
    if not outcome.unimodal_values():
        yield Finding(NO_UNIMODAL, "unclear")
        return
    comparisons: dict[Tone, list[SubsetComparison]] = {"worse": [], "better": [], "unclear": []}
    not_compared = []
    for left in outcome.lead():
        comparison = compare_subset(outcome, left)
        if left == outcome.complete.left:
            yield _describe_complete(outcome, comparison)
        elif comparison is None:
            not_compared.append(left)
        else:
            comparisons[comparison.tone].append(comparison)

    worse = sorted(comparisons["worse"], key=lambda comparison: comparison.value)
    if worse:
        yield Finding(_describe_worse(worse), "worse")
    better = [comparison.left for comparison in comparisons["better"]]
    if better:
        text = f"Better than {WHAT_IS_PRESENT}: the ensemble {_name_subsets(better)}."
        yield Finding(text, "better")
    unclear = [comparison.left for comparison in comparisons["unclear"]]
    if unclear:
        subsets = _name_subsets(unclear)
        text = f"Not distinguishable from {WHAT_IS_PRESENT}: the ensemble {subsets}."
        yield Finding(text, "unclear")
    if not_compared:
        subsets = _name_subsets(not_compared)
        text = f"Not compared, as some samples lack a modality: the ensemble {subsets}."
        yield Finding(text, "unclear")


def _describe_complete(outcome: Outcome, comparison: SubsetComparison | None) -> Finding:
    """Return the finding on the ensemble with all modalities present."""
    ensemble = "With all modalities present the ensemble"
    if comparison is None:
        text = f"{ensemble} and the best uni-modal model are scored on different samples."
        return Finding(text, "unclear")
    if comparison.samples:
        ensemble = (
            f"On the {comparison.samples} samples that have {comparison.model}, the ensemble with "
            "all modalities present"
        )
    tone = comparison.tone
    label = outcome.metrics[0].label
    rival = f"the best uni-modal model, {comparison.model}"
    if tone == "better":
        text = f"{ensemble} is better than {rival}: {label} is {_format_lead(comparison)} higher."
    elif tone == "worse":
        deficit = _format_deficit(comparison)
        text = f"{ensemble} is worse than {rival}: {label} is {deficit} lower."
    else:
        points = f"{100 * comparison.value:+z.1f} points"
        end = "and there is no interval."
        if not math.isnan(comparison.low):
            points += f" ({format_range(100 * comparison.low, 100 * comparison.high, 1)})"
            end = "and the interval includes 0."
        text = f"{ensemble} is not distinguishable from {rival}: {label} differs by {points}, {end}"
    return Finding(text, tone)


def _describe_worse(comparisons: Sequence[SubsetComparison]) -> str:
    """Return a sentence on the subsets that are worse than a uni-modal model of them."""
    parts = []
    for comparison in comparisons[:MAX_NAMES]:
        parts.append(
            f"with {describe_subset(comparison.left)} the ensemble is "
            f"{_format_deficit(comparison)} below the uni-modal model of {comparison.model}"
        )
    if len(comparisons) > MAX_NAMES:
        parts.append(f"so it is with {len(comparisons) - MAX_NAMES} more subsets")
    return capitalize(f"{'; '.join(parts)}.")


def _format_lead(comparison: SubsetComparison) -> str:
    """Return by how many points the ensemble is better, with the interval."""
    interval = format_range(100 * comparison.low, 100 * comparison.high, 1)
    return with_interval(f"{100 * comparison.value:.1f} points", interval)


def _format_deficit(comparison: SubsetComparison) -> str:
    """Return by how many points the ensemble is worse, with the interval."""
    interval = format_range(-100 * comparison.high, -100 * comparison.low, 1)
    return with_interval(f"{-100 * comparison.value:.1f} points", interval)


def _name_subsets(subsets: Sequence[str]) -> str:
    """Return subsets as the end of a sentence: "with audio alone, with image alone"."""
    names = [f"with {describe_subset(left)}" for left in subsets[:MAX_NAMES]]
    if len(subsets) > MAX_NAMES:
        names.append(f"with {len(subsets) - MAX_NAMES} more subsets")
    return ", ".join(names)

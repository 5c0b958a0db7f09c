"""The verdict: what an evaluation comes to, in three numbers and a few sentences.

It contains no statistic of its own: each number is that of a row of the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from umemma.evaluation.results import Outcome, find_best_model, find_lowest_subset
from umemma.reports.wording import (
    Tone,
    capitalize,
    describe_subset,
    format_gap,
    format_interval,
    format_points_range,
    format_range,
    judge_gap,
    with_interval,
)
from umemma.types import ResultRow

MAX_NAMES = 6  # subsets that a sentence names


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


def give_verdict(outcome: Outcome) -> Verdict:
    """Return the verdict on the leading metric."""
    return Verdict(list(_list_numbers(outcome)), list(_list_findings(outcome)))


def _list_numbers(outcome: Outcome) -> Iterator[KeyNumber]:
    gaps = outcome.lead("gap")
    complete = outcome.complete
    yield _make_number(
        outcome,
        "all modalities present",
        complete,
        complete.left,
        judge_gap(gaps[complete.left]),
    )
    lowest = find_lowest_subset(outcome)
    if lowest:
        yield _make_number(
            outcome,
            "worst subset",
            lowest,
            describe_subset(lowest.left),
            judge_gap(gaps[lowest.left]),
        )
    best = find_best_model(outcome, complete.left)
    yield _make_number(outcome, "best uni-modal model", best, best.left)


def _make_number(
    outcome: Outcome,
    label: str,
    row: ResultRow,
    name: str,
    tone: Tone = "unclear",
) -> KeyNumber:
    metric = outcome.metrics[0]
    interval = format_interval(row, metric.percent)
    return KeyNumber(label, metric.shown(row.value), interval, name, tone)


def _list_findings(outcome: Outcome) -> Iterator[Finding]:
    complete, *incomplete = outcome.lead("gap").values()
    yield Finding(_describe_complete(outcome, complete), judge_gap(complete))
    gaps: dict[Tone, list[ResultRow]] = {"worse": [], "better": [], "unclear": []}
    for gap in incomplete:
        gaps[judge_gap(gap)].append(gap)
    if gaps["worse"]:
        gaps["worse"].sort(key=lambda gap: gap.value)
        yield Finding(_describe_worse(outcome, gaps["worse"]), "worse")
    if gaps["better"]:
        subsets = _name_subsets(gaps["better"])
        text = f"Better than the best uni-modal model of what is present: the ensemble {subsets}."
        yield Finding(text, "better")
    if gaps["unclear"]:
        subsets = _name_subsets(gaps["unclear"])
        text = (
            "Not distinguishable from the best uni-modal model of what is present: the ensemble "
            f"{subsets}."
        )
        yield Finding(text, "unclear")


def _describe_complete(outcome: Outcome, gap: ResultRow) -> str:
    """Return a sentence on the ensemble with all modalities present."""
    label = outcome.metrics[0].label
    model = find_best_model(outcome, gap.left)
    rival = f"the best uni-modal model, {model.left}"
    tone = judge_gap(gap)
    if tone == "better":
        points = with_interval(f"{100 * gap.value:.1f} points", format_points_range(gap))
        text = f"is better than {rival}: {label} is {points} higher."
    elif tone == "worse":
        text = f"is worse than {rival}: {label} is {_format_deficit(gap)} lower."
    elif math.isnan(gap.low):
        text = (
            f"is not distinguishable from {rival}: {label} differs by {format_gap(gap)} points, "
            "and there is no interval."
        )
    else:
        points = f"{format_gap(gap)} points ({format_points_range(gap)})"
        text = (
            f"is not distinguishable from {rival}: {label} differs by {points}, and the interval "
            "includes 0."
        )
    if model.n != gap.n:
        text += (
            f" They are scored on {gap.n} and {model.n} samples, as some samples lack {model.left}."
        )
    return f"With all modalities present the ensemble {text}"


def _describe_worse(outcome: Outcome, gaps: Sequence[ResultRow]) -> str:
    """Return a sentence on the subsets that are worse than a uni-modal model that they contain."""
    parts = []
    for gap in gaps[:MAX_NAMES]:
        model = find_best_model(outcome, gap.left)
        parts.append(
            f"with {describe_subset(gap.left)} the ensemble is {_format_deficit(gap)} below the "
            f"uni-modal model of {model.left}"
        )
    if len(gaps) > MAX_NAMES:
        parts.append(f"{len(gaps) - MAX_NAMES} more subsets are below a uni-modal model, too")
    return capitalize(f"{'; '.join(parts)}.")


def _format_deficit(gap: ResultRow) -> str:
    """Return by how many points the ensemble is worse, with the interval."""
    interval = format_range(-100 * gap.high, -100 * gap.low, 1)
    return with_interval(f"{-100 * gap.value:.1f} points", interval)


def _name_subsets(gaps: Sequence[ResultRow]) -> str:
    """Return the subsets as the end of a sentence: "with audio alone, with image alone"."""
    names = [f"with {describe_subset(gap.left)}" for gap in gaps[:MAX_NAMES]]
    if len(gaps) > MAX_NAMES:
        names.append(f"with {len(gaps) - MAX_NAMES} more subsets")
    return ", ".join(names)

"""Numbers, intervals and subsets of an evaluation as people read them."""

from __future__ import annotations

import math
import re
from typing import Literal, TypeAlias

from umemma.evaluation.results import Outcome, name_worst_case
from umemma.missing import MANY
from umemma.types import ResultRow

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
EN_DASH = "\N{EN DASH}"

ABSENCE = {
    "zero": "an absent modality is a feature vector of zeros",
    "blank": "an absent modality is the feature of a blank input (a black picture, silence)",
    "learned": "an absent modality is a learned feature vector",
    # Of the fusions that have a rule of their own.
    "fill-zero": "the features of an absent modality are zeros",
    "fill-mean": "the features of an absent modality are their mean in training",
    "fill-neighbour": "the features of an absent modality are those of an unrelated sample",
    "retrieve": "the features of an absent modality are the mean of the nearest training samples",
    "pattern-head": "each set of modalities has a head of its own",
    "embracenet": "the others take the place of an absent modality in the embraced vector",
    "gated": "an absent modality has no weight in the mean of the experts",
}

NO_UNIMODAL = (
    "There are no uni-modal models, so nothing says what a modality can do alone: there is no "
    "ceiling, no gap and no average."
)

# A difference, judged by its 95 % interval: above 0, below 0, or with 0 in it.
Tone: TypeAlias = Literal["better", "worse", "unclear"]
ARROWS: dict[Tone, str] = {"better": "▲ ", "worse": "▼ ", "unclear": ""}

# A line may not end between a number and its unit, nor within an interval.
UNITS = r"(?:%|points?\b|bits?\b|± |to [-+]?\d)"
BREAKS = re.compile(rf"(?<=\d) (?={UNITS})|(?<=\d to) (?=[-+]?\d)|(?<=±) (?=\d)")


def keep_together(text: str) -> str:
    """Return the text with no-break spaces between numbers and units, and within intervals."""
    return BREAKS.sub(NO_BREAK_SPACE, text)


def capitalize(text: str) -> str:
    """Return the text with a capital first letter; the other letters stay as they are."""
    return text[:1].upper() + text[1:]


def format_interval(row: ResultRow, percent: bool = True) -> str:
    """Return the 95 % interval of a row with an en dash; "" where it has none."""
    scale, digits = 1, 3
    if percent:
        scale, digits = 100, 1
    interval = format_range(scale * row.low, scale * row.high, digits)
    if row.low < 0:
        return interval
    return interval.replace(" to ", EN_DASH)


def format_range(low: float, high: float, digits: int = 3) -> str:
    """Return an interval of numbers of any sign, say "-0.1 to 0.2"; "" where there is none."""
    if math.isnan(low):
        return ""
    return f"{low:z.{digits}f} to {high:z.{digits}f}"


def format_points_range(row: ResultRow) -> str:
    """Return the interval of a difference in points; "" where there is none."""
    return format_range(100 * row.low, 100 * row.high, 1)


def format_gap(row: ResultRow) -> str:
    """Return a difference in points with its sign."""
    return f"{100 * row.value:+z.1f}"


def judge_interval(low: float, high: float) -> Tone:
    """Return "better" or "worse" where the interval of a difference excludes 0, else "unclear"."""
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "unclear"


def format_percent(value: float | None) -> str:
    """Return a share in percent without the sign, "" for none."""
    if value is None or math.isnan(value):
        return ""
    return f"{100 * value:.1f}"


def with_interval(value: str, interval: str) -> str:
    """Return "value (interval)", or only the value where there is no interval."""
    if not interval:
        return value
    return f"{value} ({interval})"


def describe_subset(left: str) -> str:
    """Return what the ensemble is given: "image alone", "audio+image"."""
    if "+" in left:
        return left
    return f"{left} alone"


def describe_absence(missing: str) -> str:
    """Return what is missing in words: "without audio", "without one of audio, image"."""
    alternatives = missing.split("|")
    if len(alternatives) > MANY:
        return f"without one of {len(alternatives)}"
    if len(alternatives) > 1:
        return f"without one of {', '.join(alternatives)}"
    if missing.count("+") >= MANY:
        return f"without {missing.count('+') + 1}: {missing}"
    return f"without {missing}"


def describe_worst_case(outcome: Outcome) -> str:
    """Return a sentence on the worst case, where each sample has its own worst subset."""
    worst = outcome.worst
    value = with_interval(f"{100 * worst.value:.1f} %", format_interval(worst))
    if worst.metric == "accuracy":
        return f"Worst case: {value} of the samples are classified correctly under every subset."
    metric = name_worst_case(outcome)
    return f"Worst case: if each sample has the subset that is worst for it, {metric} is {value}."


def describe_rule(outcome: Outcome) -> str:
    """Return what an absent modality becomes, which an audit does not know."""
    if outcome.settings.source:
        return "the model that is audited decides what an absent modality becomes"
    return ABSENCE[outcome.settings.absent]


def describe_listed_subsets(outcome: Outcome) -> str:
    """Return a sentence on the subsets that tables leave out, "" if they list all."""
    total = len(outcome.lead())
    listed = len(outcome.listed())
    if listed == total:
        return ""
    return (
        f"Tables list {listed} of {total} subsets: all modalities, one missing, and one alone; "
        "metrics.json has every one."
    )


def describe_shown_subsets(outcome: Outcome) -> str:
    """Return a sentence on the subsets that figures leave out, "" if they show all."""
    shown = len(outcome.shown)
    total = len(outcome.lead())
    if shown == total:
        return ""
    return (
        f"Shown are {shown} of {total} subsets: all modalities, each modality missing, and the "
        "subsets with the lowest values."
    )

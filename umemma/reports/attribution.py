"""Which modality decides: what each adds to the probability of the right answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from umemma.evaluation.attribution.additions import Addition, measure_evenness
from umemma.evaluation.attribution.right_answers import (
    Contribution,
    Interaction,
    group_by_class,
    select_overall,
)
from umemma.evaluation.information_report import Information
from umemma.reports import figures
from umemma.reports.figures import Bar
from umemma.reports.html import Block, Figure, Table, Text
from umemma.reports.wording import capitalize, format_range, with_interval

MAX_CLASSES = 20  # that are listed, those of which least is told
MAX_PAIRS = 10  # that are listed, those that add or repeat most
MAX_INTERVALS = 4  # modalities of a class that have room for their intervals
UNITS = {"multiclass": "class", "multilabel": "label", "regression": "target"}
ABOUT = (
    "What each modality adds to the logarithm of the {chance} of what is right, in bits: its "
    "Shapley value, the mean gain over all orders in which modalities may arrive, computed from "
    "the answers of every subset. It begins with nothing, the {prior}; the sum is what all "
    "modalities together add. Below 0 a modality leads away from what is right, and an absent one "
    "adds 0. The command umemma predict --explain shows it for a sample."
)
ABOUT_PAIRS = (
    "The interaction index of a pair: above 0 the two tell more together than apart (synergy), "
    "below 0 they tell the same (redundancy), whatever else is present."
)
ABOUT_EVENNESS = (
    "Evenness of the contributions: {evenness:.2f}, where 1 is that all add the same and 0 that "
    "one adds everything. An answer that gets worse with a modality more is counter-intuitive: the "
    "difference of both columns is what the modality is worth."
)


def attribution(report: Information) -> Iterator[Block]:
    """Yield what each modality adds to all answers and to each class, and what pairs add."""
    chance, prior = "probability", "class prior"
    if report.task == "regression":
        chance, prior = "density", "training mean"
    yield Text(ABOUT.format(chance=chance, prior=prior))
    overall = select_overall(report.contributions)
    yield _draw_contributions(overall)
    rows = []
    for row in overall:
        bits = f"{row.bits:+.3f}"
        rows.append([row.modality, bits, format_range(row.low, row.high), str(row.n)])
    yield Table("Bits added", ["modality", "bits", "95 % interval", "samples"], rows)
    evenness = measure_evenness([row.bits for row in overall])
    if not math.isnan(evenness):
        yield Text(ABOUT_EVENNESS.format(evenness=evenness))
    if report.additions:
        yield _make_addition_table(report.additions)
    table = _make_class_table(report)
    if table:
        yield table
    yield Text(ABOUT_PAIRS)
    yield _make_pair_table(report.interactions)


def _draw_contributions(overall: Sequence[Contribution]) -> Figure:
    bars = [Bar(row.modality, row.bits, row.low, row.high) for row in overall]
    drawing = partial(figures.bars, rows=bars, xlabel="bits")
    svg = figures.svg("contributions", drawing, 4, 0.9 + 0.28 * len(bars))
    most = max(bars, key=lambda bar: bar.value)
    about = (
        f"{most.label} adds most: {most.value:.2f} of {sum(bar.value for bar in bars):.2f} bits."
    )
    return Figure(svg, "Bits that each modality adds to what is known", about)


def _make_addition_table(additions: Sequence[Addition]) -> Table:
    rows = []
    for row in additions:
        won = with_interval(f"{100 * row.won:.1f}", _format_shares(row.won_low, row.won_high))
        lost = with_interval(f"{100 * row.lost:.1f}", _format_shares(row.lost_low, row.lost_high))
        rows.append([row.modality, won, lost, str(row.n)])
    caption = "Answers that this modality makes better and worse, beside all others, % of samples"
    return Table(caption, ["modality", "better", "worse", "samples"], rows)


def _format_shares(low: float, high: float) -> str:
    return format_range(100 * low, 100 * high, 1)


def _make_class_table(report: Information) -> Table | None:
    """Return what each modality adds to each class; None where there is a single one."""
    by_class = group_by_class(report.contributions)
    if len(by_class) < 2:
        return None
    unit = UNITS[report.task]
    told = {name: sum(row.bits for row in parts.values()) for name, parts in by_class.items()}
    names = sorted(told, key=lambda name: told[name])[:MAX_CLASSES]
    modalities = [row.modality for row in select_overall(report.contributions)]
    rows = []
    for name in names:
        parts = by_class[name]
        cells = [name, str(parts[modalities[0]].n)]
        for modality in modalities:
            part = parts[modality]
            bits = f"{part.bits:+.2f}"
            if len(modalities) <= MAX_INTERVALS:
                bits = with_interval(bits, format_range(part.low, part.high, 2))
            cells.append(bits)
        rows.append([*cells, f"{told[name]:+.2f}"])
    caption = f"Bits added, by {unit}, the one of which least is told first"
    if len(names) < len(told):
        caption += f": {len(names)} of {len(told)}; information.json has all"
    return Table(caption, [unit, "samples", *modalities, "all"], rows)


def _make_pair_table(interactions: Sequence[Interaction]) -> Table:
    listed = sorted(interactions, key=lambda row: -abs(row.bits))[:MAX_PAIRS]
    rows = []
    for row in listed:
        kind = "not distinguishable from 0"
        if row.low > 0:
            kind = "synergy"
        if row.high < 0:
            kind = "redundancy"
        rows.append([row.modalities, f"{row.bits:+.3f}", format_range(row.low, row.high), kind])
    caption = "what pairs of modalities add"
    if len(listed) < len(interactions):
        caption += f": the largest {len(listed)} of {len(interactions)}"
    return Table(capitalize(caption), ["pair", "bits", "95 % interval", ""], rows)

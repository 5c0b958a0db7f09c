"""What is left under a protocol of missingness, as a table in the terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from umemma.evaluation.missingness.expectation import ProtocolScore
from umemma.reports.wording import format_range, with_interval
from umemma.system.files import replace_nan

MODELS = {"ensemble": "", "average": ", uni-modal average"}


def make_table(title: str, scores: Sequence[ProtocolScore]) -> Table:
    """Return a table with a line per metric."""
    table = Table(title=Text(title, style="table.title"), title_justify="left")
    table.add_column("metric")
    for heading in ("complete", "protocol", "95 %\ninterval", "difference\n(95 % interval)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for score in scores:
        metric = score.metric
        scale, digits = (100.0, 1) if metric.percent else (1.0, 3)
        interval = difference = "-"
        if not math.isnan(score.low):
            interval = f"{scale * score.low:.{digits}f}–{scale * score.high:.{digits}f}"
            low, high = scale * score.difference_low, scale * score.difference_high
            difference = format_range(low, high, digits)
        table.add_row(
            metric.label + MODELS[score.model],
            metric.shown(score.complete),
            metric.shown(score.value),
            interval,
            with_interval(f"{scale * score.difference:+z.{digits}f}", difference),
        )
    return table


def list_notes(samples: int, refused: int, lost: float) -> Iterator[str]:
    """Yield what is to be known about the table. lost: the share that would have left nothing."""
    yield (
        "Each value is the exact expectation over all that the protocol may take away; intervals "
        f"resample groups of the {samples} samples."
    )
    if refused:
        yield f"{refused} samples are left out: nothing of them is left, whatever is drawn."
    if lost > 0:
        yield (
            f"In {100 * lost:.1f} % of the draws nothing would be left. They are not counted: a "
            "sample keeps something, each of the other ways in proportion to its probability."
        )


def to_json(
    name: str, scores: Sequence[ProtocolScore], samples: int, refused: int, lost: float
) -> dict[str, Any]:
    """Return the same for machines: in `results` an entry per metric and model."""
    results = []
    for score in scores:
        results.append({**score._asdict(), "metric": score.metric.name})
    answer = {
        "protocol": name,
        "samples": samples,
        "refused": refused,
        "lost": lost,
        "results": results,
    }
    return dict(replace_nan(answer))

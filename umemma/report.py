"""Result rows -> what people read: metrics.json, a plot table, a figure, Markdown and a terminal table. No torch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from umemma.contracts import ResultRow
from umemma.files import new_file, write_json

# Okabe & Ito's palette, told apart by colour-blind readers; markers and dashes say it again in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
MARKERS = "os^Dv<>P"
CURVES = 6  # in one figure: each modality alone missing, then the sets that hurt most
ABSENCE = {
    "zero": "an absent modality is a feature vector of zeros",
    "blank": "an absent modality is the feature of a blank input (black picture, silence)",
    "learned": "an absent modality is a learned feature vector",
}
LABELS = {"accuracy": "accuracy", "f1_samples": "F1 (samples)"}


def named(about: Mapping[str, Any]) -> str:
    """The dataset and its variant."""
    return f"{about['dataset']} ({about['variant']})" if about["variant"] else str(about["dataset"])


def summary(rows: Sequence[ResultRow]) -> dict[str, Any]:
    """{metric, say "accuracy": {subset: value}, "unimodal": {modality: value}, "gap_to_ceiling": {modality: difference}}."""
    values = {row.left: row.value for row in rows if row.model == "ensemble"}
    unimodal = {row.left: row.value for row in rows if row.model == "unimodal"}
    gaps = {m: values[m] - alone for m, alone in unimodal.items()}
    return {rows[0].metric: values, "unimodal": unimodal, "gap_to_ceiling": gaps}


def subset_table(subsets: Sequence[ResultRow], title: str) -> Table:
    """The metric per modality subset beside the uni-modal ceilings, for the terminal."""
    table = Table(title=title, title_justify="left")
    for heading in ("modalities present", LABELS[subsets[0].metric], "95 % interval", "uni-modal ceiling", "gap"):
        table.add_column(heading, justify="left" if heading.startswith("mod") else "right")
    for cells in _subset_cells(subsets):
        table.add_row(*cells)
    return table


def ratio_table(rows: Sequence[ResultRow], title: str) -> Table:
    """A line per (missing set, ratio), for the terminal."""
    table = Table(title=title, title_justify="left")
    for heading in ("missing", "ratio", LABELS[rows[0].metric], "95 % interval", "seeded draws", "samples"):
        table.add_column(heading, justify="left" if heading == "missing" else "right")
    for expected, drawn in by_setting(rows):
        mean, std = spread([row.value for row in drawn])
        draws = f"{_percent(mean)} ± {100 * std:.1f}" if drawn else "-"
        table.add_row(expected.missing, f"{expected.ratio:g}", *_value(expected), draws, str(expected.n))
    return table


def by_setting(rows: Sequence[ResultRow]) -> list[tuple[ResultRow, list[ResultRow]]]:
    """Each setting's expectation with its seeded draws."""
    return [
        (row, [d for d in rows if (d.missing, d.ratio) == (row.missing, row.ratio) and d.draw >= 0])
        for row in rows
        if row.draw < 0
    ]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for fewer than two)."""
    if not values:
        return 0.0, 0.0
    mean = sum(values) / len(values)
    return mean, (sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)) ** 0.5


def write(
    folder: Path, subsets: Sequence[ResultRow], ratios: Sequence[ResultRow], about: Mapping[str, Any], command: str
) -> None:
    """metrics.json, robustness.csv, robustness.png and report.md. about: the settings that belong to the numbers."""
    numbers = summary(subsets)
    write_json(folder / "metrics.json", {**numbers, **about})
    expected = [row for row in ratios if row.draw < 0]
    with new_file(folder / "robustness.csv") as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["missing", "ratio", "score", "low", "high", "ceiling"])
        for row in expected:
            values = (row.value, row.low, row.high, ceiling(row.left, numbers["unimodal"]))
            writer.writerow([row.missing, f"{row.ratio:g}", *(f"{value:.6f}" for value in values)])
    _figure(folder / "robustness.png", expected, numbers["unimodal"], about)
    with new_file(folder / "report.md") as aside:
        aside.write_text(_markdown(subsets, expected, about, command), encoding="utf-8")


def ceiling(left: str, unimodal: Mapping[str, float]) -> float:
    """The best uni-modal model of the modalities that are left."""
    return max(unimodal[m] for m in left.split("+"))


def _subset_cells(subsets: Sequence[ResultRow]) -> list[list[str]]:
    numbers = summary(subsets)
    cells = []
    for row in subsets:
        if row.model == "ensemble":
            best = ceiling(row.left, numbers["unimodal"])
            alone = _percent(best) + ("" if row.left in numbers["unimodal"] else " (best alone)")
            cells.append([row.left, *_value(row), alone, f"{100 * (row.value - best):+.1f}"])
    return cells


def _value(row: ResultRow) -> tuple[str, str]:
    return _percent(row.value), f"{100 * row.low:.1f} - {100 * row.high:.1f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _markdown(
    subsets: Sequence[ResultRow], expected: Sequence[ResultRow], about: Mapping[str, Any], command: str
) -> str:
    label = LABELS[about["metric"]]
    lines = [f"# {named(about)}: {label} with modalities missing", ""]
    lines += [f"| modalities present | {label} | 95 % interval | uni-modal ceiling | gap |", "|---|--:|--:|--:|--:|"]
    lines += [f"| {' | '.join(cells)} |" for cells in _subset_cells(subsets)]
    lines += ["", "The gap is in points. Intervals: bootstrap over groups of dependent samples.", ""]
    lines += [f"![{label} against the share of samples that lose a modality](robustness.png)", ""]
    shares = sorted({row.ratio for row in expected})
    lines += [f"The {label} expected when a share of the samples loses the missing set:", ""]
    lines += [f"| missing | {' | '.join(f'{share:g}' for share in shares)} |", f"|---|{'--:|' * len(shares)}"]
    for missing in dict.fromkeys(row.missing for row in expected):
        values = [_percent(row.value) for row in expected if row.missing == missing]
        lines.append(f"| {missing} | {' | '.join(values)} |")
    lines += [
        "",
        "## Settings",
        "",
        *[f"- {key}: {value}" for key, value in about.items()],
        "",
        f"Made by `{command}`.",
    ]
    return "\n".join(lines) + "\n"


def _figure(path: Path, expected: Sequence[ResultRow], unimodal: Mapping[str, float], about: Mapping[str, Any]) -> None:
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    every = list(dict.fromkeys(row.missing for row in expected))
    worst = {row.missing: row.value for row in expected}  # of each, what remains at the largest ratio
    chosen = sorted(every, key=lambda missing: ("+" in missing, worst[missing]))[:CURVES]
    figure = Figure(figsize=(7, 4 + 0.2 * len(chosen)), layout="constrained")
    axes = figure.subplots()
    for i, missing in enumerate(sorted(chosen, key=every.index)):
        rows = [row for row in expected if row.missing == missing]
        x = [row.ratio for row in rows]
        colour = COLOURS[i % len(COLOURS)]
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "markersize": 5}
        axes.plot(x, [100 * row.value for row in rows], label=f"without {missing}", **style)
        axes.fill_between(x, [100 * r.low for r in rows], [100 * r.high for r in rows], color=colour, alpha=0.15, lw=0)
        best = ceiling(rows[0].left, unimodal)
        axes.axhline(100 * best, color=colour, ls="--", lw=1, label=f"uni-modal ceiling: {rows[0].left}")
    axes.set(xlabel="share of samples that lose the modality", ylabel=f"{LABELS[about['metric']]}, %")
    more = f"; {len(every) - len(chosen)} more sets in report.md" if len(every) > len(chosen) else ""
    axes.set_title(
        f"{named(about)}, {about['preset']}, absent = {about['absent']}{more}", loc="left", fontsize="medium"
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", frameon=False, ncols=2, fontsize="small")
    with new_file(path) as aside:
        figure.savefig(aside, dpi=150, format="png", metadata={"Software": None})

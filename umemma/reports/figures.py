"""Drawings, as PNG or as SVG that takes its colours from the page around it. matplotlib is imported when one is made.

A drawing is a function of matplotlib's axes; `svg` and `png` own the style. Colours say nothing that dashes, markers or
places don't say too.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from umemma.system.files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = Callable[[Axes], None]

INK = "#010101"  # text and axes: `currentColor` in a page
# Okabe & Ito's palette, told apart by colour-blind readers, after ink; `var(--c1)` and so on in a page.
COLOURS = (INK, "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "os^Dv<>"
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names come from data
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    **dict.fromkeys(
        (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "xtick.color",
            "ytick.color",
            "grid.color",
        ),
        INK,
    ),
}


class Curve(NamedTuple):
    """y against x with its interval low..high, if it has one."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


class Bar(NamedTuple):
    """A length with its interval, in a frame of the length `full` (0 = no frame), beside the length `other`, if any."""

    label: str
    value: float
    low: float
    high: float
    full: float = 0.0
    other: float | None = None


def svg(name: str, draw: Draw, width: float = 4.0, height: float = 3.0) -> str:
    """Inches at 72 per inch, scaled to where it stands; from the <svg> tag's attributes on it is bare of links and dates.
    The same drawing by the same name gives the same text."""
    text = io.StringIO()
    with _styled({"svg.hashsalt": name}):  # ids are made from it
        figure = _figure([draw], 1, width, height)
        figure.savefig(
            text,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    body = text.getvalue().partition("<svg")[2]
    body = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL
    )
    body = re.sub(
        r' id="[A-Za-z0-9.]+_\d+"', "", body
    )  # groups that nothing points to; the same in every drawing
    body = re.sub(r"\s*\n\s*", "\n", body).replace("xlink:href", "href")
    for i, colour in enumerate(COLOURS):
        body = body.replace(colour, f"var(--c{i})" if i else "currentColor")
    view = re.search(r'viewBox="[^"]*"', body)
    assert view
    return f"{view[0]}>{body.partition('>')[2]}"


def png(path: Path, draws: Sequence[Draw], columns: int = 3) -> None:
    """Panels side by side."""
    columns = min(columns, len(draws))
    rows = -(-len(draws) // columns)
    with _styled({}), new_file(path) as aside:
        figure = _figure(draws, columns, 3.2 * columns, 2.6 * rows + 0.5)
        figure.savefig(aside, dpi=150, format="png", metadata={"Software": None})


def curves(
    axes: Axes,
    lines: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    percent: bool = True,
    title: str = "",
    **limits: Any,
) -> None:
    """Lines told apart by colour, marker and dashes. limits: `xlim`, `ylim` of the axes."""
    for i, line in enumerate(lines):
        colour, few = COLOURS[i % len(COLOURS)], len(line.x) <= 25
        other = i + i // len(COLOURS)  # where colours begin anew, dashes and markers don't
        style: dict[str, Any] = {"color": colour, "ls": DASHES[other % len(DASHES)]}
        axes.plot(
            line.x,
            line.y,
            label=line.label,
            marker=MARKERS[other % len(MARKERS)] if few else "",
            **style,
        )
        if len(line.low):
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, lw=0)
    axes.set(xlabel=xlabel, ylabel=ylabel, **limits)
    axes.set_title(title, loc="left")
    if percent:
        _percent(axes, "x", "y")


def robustness(
    axes: Axes,
    ours: Curve,
    average: Curve,
    ceiling: float,
    ylabel: str,
    ylim: tuple[float, float],
    title: str,
) -> None:
    """A metric against the share of samples that lose something, between the baselines."""
    axes.fill_between(ours.x, ours.low, ours.high, color=COLOURS[1], alpha=0.18, lw=0)
    axes.plot(ours.x, ours.y, color=COLOURS[1], marker="o", label=ours.label)
    axes.plot(average.x, average.y, color=COLOURS[3], ls=":", lw=2, label=average.label)
    axes.axhline(
        ceiling, color=COLOURS[2], ls="--", lw=1.4, label="best uni-modal model that is left"
    )
    axes.set(xlabel="share of samples that lose it", ylabel=ylabel, ylim=ylim)
    axes.set_title(title, loc="left")
    _percent(axes, "x", "y")


def dots(
    axes: Axes, names: Sequence[str], columns: Mapping[str, Sequence[float | None]], xlabel: str
) -> None:
    """A line per name, on it a marker per column; the first column is the one that the others depart from."""
    import numpy as np

    values = np.array([*columns.values()], dtype=np.float64)  # None becomes NaN
    places = np.arange(len(names))
    axes.hlines(places, np.nanmin(values, 0), np.nanmax(values, 0), color=INK, alpha=0.3, lw=1)
    for i, (label, row) in enumerate(zip(columns, values, strict=True)):
        axes.plot(
            row,
            places,
            ls="",
            marker=MARKERS[i % 7],
            color=COLOURS[i % 7],
            ms=6 if not i else 5,
            label=label,
        )
    axes.set_yticks(places, [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(xlabel=xlabel)
    axes.grid(axis="y", visible=False)
    _percent(axes, "x")


def bars(axes: Axes, rows: Sequence[Bar], xlabel: str, full: str = "", other: str = "") -> None:
    """Horizontal bars with whiskers. full, other: what the frames and the diamonds are."""
    for place, row in enumerate(rows):
        if row.full:
            axes.barh(
                place,
                row.full,
                0.62,
                facecolor="none",
                edgecolor=INK,
                lw=0.8,
                label="" if place else full,
            )
        axes.barh(place, row.value, 0.62, color=COLOURS[1], alpha=0.75)
        axes.plot([row.low, row.high], [place, place], color=INK, lw=1.4, marker="|", ms=6)
    if any(row.other is not None for row in rows):
        there = [(row.other, place) for place, row in enumerate(rows) if row.other is not None]
        axes.plot(*zip(*there, strict=True), ls="", marker="D", ms=6, color=COLOURS[2], label=other)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(rows)), [_short(row.label, 28) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set(xlabel=xlabel)
    axes.grid(axis="y", visible=False)


def diagram(axes: Axes, lines: Sequence[Curve], title: str, xlabel: str, ylabel: str) -> None:
    """Right against confident: on the diagonal a probability means what it says."""
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, lw=1)
    for i, line in enumerate(lines):
        style = ("-", "o", COLOURS[1]) if not i else ("--", "D", COLOURS[2])
        axes.plot(line.x, line.y, ls=style[0], marker=style[1], color=style[2], label=line.label)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title(title, loc="left")
    _percent(axes, "x", "y")


def nothing(axes: Axes) -> None:
    """An empty panel."""
    axes.set_axis_off()


@contextlib.contextmanager
def _styled(more: Mapping[str, Any]) -> Iterator[None]:
    from matplotlib import rc_context

    style: dict[Any, Any] = {**STYLE, **more}
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # the reader's fonts have others
        yield


def _figure(draws: Sequence[Draw], columns: int, width: float, height: float) -> Figure:
    """Panels with one legend under all of them."""
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(-(-len(draws) // columns), columns, squeeze=False).ravel()
    for axes, draw in zip(panels, draws, strict=False):
        draw(axes)
    for axes in panels[len(draws) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    if labels:
        wide = max(map(len, labels)) > 5 * width  # too long to stand side by side
        figure.legend(handles, labels, loc="outside lower center", ncols=1 if wide else 2)
    return figure


def _percent(axes: Axes, *which: str) -> None:
    for one in which:
        getattr(axes, f"{one}axis").set_major_formatter(
            lambda value, _: f"{round(100 * value, 6):g} %"
        )


def _short(name: str, length: int = 18) -> str:
    """A name of any kind as a label."""
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return name if len(name) <= length else f"{name[: length - 1]}…"

"""Drawings, as PNG or as SVG that takes its colours from the page around it.

A drawing is a function of matplotlib's axes. `svg` and `png` own the style, and import matplotlib.
Whatever a colour says, a dash pattern, a marker or a place says too.
"""

from __future__ import annotations

import contextlib
import io
import math
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
# Ink, and the palette of Okabe & Ito, which colour-blind readers can tell apart; `var(--c1)` and so
# on in a page.
COLOURS = (INK, "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "os^Dv<>"
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
FONT_SIZE = 11  # points; in a page of three figures side by side about 12 pixels
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names come from data
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
}
MAX_MARKED = 25  # points of a line that are marked one by one


class Curve(NamedTuple):
    """y against x with its interval low..high, if it has one."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


class Level(NamedTuple):
    """A horizontal line. name: stands at the line; label: stands in the legend."""

    label: str
    name: str
    y: float


class Bar(NamedTuple):
    """A bar with its interval.

    full: the length of the frame around it, 0 for none; other: the place of a second marker, None
    for none.
    """

    label: str
    value: float
    low: float
    high: float
    full: float = 0.0
    other: float | None = None


def svg(name: str, draw: Draw, width: float = 4.0, height: float = 3.0) -> str:
    """Return what follows `<svg ` in the text of a drawing, without links and dates.

    The same drawing of the same name gives the same text. The page scales it.

    width, height: inches, of 72 units each.
    """
    text = io.StringIO()
    with _use_style({"svg.hashsalt": name}):  # ids are made from it
        figure = _make_figure([draw], 1, width, height)
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
    # Groups that nothing points to have the same ids in every drawing.
    body = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    body = body.replace("xlink:href", "href")
    body = body.replace(INK, "currentColor")
    for number, colour in enumerate(COLOURS[1:], start=1):
        body = body.replace(colour, f"var(--c{number})")
    view = re.search(r'viewBox="[^"]*"', body)
    assert view
    return f"{view[0]}>{body.partition('>')[2]}"


def png(path: Path, draws: Sequence[Draw], columns: int = 3) -> None:
    """Write panels side by side."""
    columns = min(columns, len(draws))
    rows = math.ceil(len(draws) / columns)
    with _use_style({}), new_file(path) as temporary:
        figure = _make_figure(draws, columns, 3.4 * columns, 2.8 * rows + 0.5)
        figure.savefig(
            temporary,
            dpi=150,
            format="png",
            metadata={"Software": None},
        )


def curves(
    axes: Axes,
    lines: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    percent: bool = True,
    title: str = "",
    **limits: Any,
) -> None:
    """Draw lines told apart by colour, marker and dashes. limits: `xlim`, `ylim` of the axes."""
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        # Where the colours start again, dashes and markers do not.
        shifted = number + number // len(COLOURS)
        marker = ""
        if len(line.x) <= MAX_MARKED:
            marker = MARKERS[shifted % len(MARKERS)]
        style: dict[str, Any] = {"color": colour, "ls": DASHES[shifted % len(DASHES)]}
        axes.plot(
            line.x,
            line.y,
            label=line.label,
            marker=marker,
            **style,
        )
        if len(line.low):
            _fill_interval(axes, line, colour)
    axes.set(xlabel=xlabel, ylabel=ylabel, **limits)
    axes.set_title(title, loc="left")
    if percent:
        _format_as_percent(axes, "x", "y")


def robustness(
    axes: Axes,
    ours: Curve,
    average: Curve | None,
    ceiling: Level | None,
    ylabel: str,
    ylim: tuple[float, float],
    title: str,
) -> None:
    """Draw a metric against the share of samples that lose something, between the baselines.

    average, ceiling: None where there are no uni-modal models.
    """
    _fill_interval(axes, ours, COLOURS[1])
    axes.plot(ours.x, ours.y, color=COLOURS[1], marker="o", label=ours.label)
    if average:
        colour = COLOURS[3]
        axes.plot(average.x, average.y, color=colour, ls=":", lw=2, label=average.label)
    if ceiling:
        _draw_level(axes, ceiling)
    axes.set(xlabel="share of samples that lose it", ylabel=ylabel, ylim=ylim)
    axes.set_title(title, loc="left")
    _format_as_percent(axes, "x", "y")


def _draw_level(axes: Axes, ceiling: Level) -> None:
    """Draw a level line with its name below it."""
    axes.axhline(
        ceiling.y,
        color=COLOURS[2],
        ls="--",
        lw=1.4,
        label=ceiling.label,
    )
    axes.annotate(
        _shorten(ceiling.name, 32),
        (0, ceiling.y),
        xycoords=("axes fraction", "data"),
        xytext=(3, -2),
        textcoords="offset points",
        ha="left",
        va="top",
        color=COLOURS[2],
    )


def dots(
    axes: Axes, names: Sequence[str], columns: Mapping[str, Sequence[float | None]], xlabel: str
) -> None:
    """Draw a line per name with a marker per column.

    The first column is the one that the others depart from, so its markers are larger.
    """
    import numpy as np

    values = np.array([*columns.values()], dtype=np.float64)  # None becomes NaN
    places = np.arange(len(names))
    lowest = np.nanmin(values, 0)
    highest = np.nanmax(values, 0)
    axes.hlines(
        places,
        lowest,
        highest,
        color=INK,
        alpha=0.3,
        lw=1,
    )
    size = 6
    for number, (label, row) in enumerate(zip(columns, values, strict=True)):
        axes.plot(
            row,
            places,
            ls="",
            marker=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            ms=size,
            label=label,
        )
        size = 5
    _name_places(axes, [_shorten(name) for name in names])
    axes.set(xlabel=xlabel)
    _format_as_percent(axes, "x")


def bars(axes: Axes, rows: Sequence[Bar], xlabel: str, full: str = "", other: str = "") -> None:
    """Draw horizontal bars with whiskers.

    full, other: what the frames and the diamonds are, for the legend.
    """
    frame_label = full
    for place, row in enumerate(rows):
        if row.full:
            axes.barh(
                place,
                row.full,
                0.62,
                facecolor="none",
                edgecolor=INK,
                lw=0.8,
                label=frame_label,
            )
            frame_label = ""
        axes.barh(
            place,
            row.value,
            0.62,
            color=COLOURS[1],
            alpha=0.75,
        )
        axes.plot(
            [row.low, row.high],
            [place, place],
            color=INK,
            lw=1.4,
            marker="|",
            ms=6,
        )
    others = {place: row.other for place, row in enumerate(rows) if row.other is not None}
    if others:
        axes.plot(
            [*others.values()],
            [*others],
            ls="",
            marker="D",
            ms=6,
            color=COLOURS[2],
            label=other,
        )
    axes.axvline(0, color=INK, lw=0.8)
    _name_places(axes, [_shorten(row.label, 28) for row in rows])
    axes.set(xlabel=xlabel)


def diagram(axes: Axes, lines: Sequence[Curve], title: str, xlabel: str, ylabel: str) -> None:
    """Draw how often an answer is right against its confidence: two lines at most.

    On the diagonal a probability means what it says.
    """
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, lw=1)
    styles = [("-", "o", COLOURS[1]), ("--", "D", COLOURS[2])]
    for line, (dashes, marker, colour) in zip(lines, styles, strict=False):
        axes.plot(
            line.x,
            line.y,
            ls=dashes,
            marker=marker,
            color=colour,
            label=line.label,
        )
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title(title, loc="left")
    _format_as_percent(axes, "x", "y")


def nothing(axes: Axes) -> None:
    """Draw an empty panel."""
    axes.set_axis_off()


def _fill_interval(axes: Axes, line: Curve, colour: str) -> None:
    axes.fill_between(
        line.x,
        line.low,
        line.high,
        color=colour,
        alpha=0.18,
        lw=0,
    )


def _name_places(axes: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, ... of the vertical axis from top to bottom."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


@contextlib.contextmanager
def _use_style(changes: Mapping[str, Any]) -> Iterator[None]:
    from matplotlib import rc_context

    style: dict[Any, Any] = {**STYLE, **changes}
    with rc_context(style), warnings.catch_warnings():
        # The fonts of the reader have other glyphs.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _make_figure(draws: Sequence[Draw], columns: int, width: float, height: float) -> Figure:
    """Return panels with one legend below all of them."""
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    rows = math.ceil(len(draws) / columns)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, draw in zip(panels, draws, strict=False):
        draw(axes)
    for axes in panels[len(draws) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    if labels:
        legend_columns = 2
        if max(map(len, labels)) > 4.5 * width:  # too long for two side by side
            legend_columns = 1
        figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns)
    return figure


def _format_as_percent(axes: Axes, *names: str) -> None:
    """names: of the axes, "x" or "y"."""

    def format_share(value: float, place: int | None = None) -> str:
        return f"{round(100 * value, 6):g} %"

    for name in names:
        getattr(axes, f"{name}axis").set_major_formatter(format_share)


def _shorten(name: str, length: int = 18) -> str:
    """Return a name of any characters as a label."""
    characters = [" "] * len(name)
    for place, character in enumerate(name):
        if character.isprintable():
            characters[place] = character
    line = " ".join("".join(characters).split())
    if len(line) <= length:
        return line
    return f"{line[: length - 1]}…"

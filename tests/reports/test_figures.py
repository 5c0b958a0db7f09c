"""Drawings: their colours and their names."""

from __future__ import annotations

import re

from umemma.reports import figures


def test_a_drawing_takes_its_colours_from_the_page():
    def draw(axes):
        figures.curves(axes, [figures.Curve(name, [0, 1], [0, 1]) for name in "ab"], "x", "y")

    svg = figures.svg("a drawing", draw)
    assert "currentColor" in svg
    assert "var(--c1)" in svg
    assert not [colour for colour in figures.COLOURS if colour in svg]
    assert figures.svg("a drawing", draw) == svg
    other = set(re.findall(r' id="([^"]*)"', figures.svg("another", draw)))
    assert other
    assert not other & set(re.findall(r' id="([^"]*)"', svg))  # they stand in one page

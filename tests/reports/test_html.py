"""The page of a report from the outside, and in a browser where there is one."""

from __future__ import annotations

import json
import re
import subprocess
from html import escape, unescape
from html.parser import HTMLParser

import pytest
from toys.browser import CHROMIUM
from toys.reports import EVIL

from umemma.reports import figures, html


class Tags(HTMLParser):
    """Checks that tags close in order, and keeps what a page refers to and names."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self._note(attributes)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self._note(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def _note(self, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href"):
                self.links.append(value)


def test_the_page_needs_nothing_else_and_runs_nothing(results):
    text = (results / "report.html").read_text()
    page = Tags(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"https?:|//www|@import|javascript:", text)
    addresses = [*page.links, *re.findall(r"url\(([^)]*)\)", text)]
    assert all(address.startswith("#") for address in addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert text.startswith('<!doctype html>\n<html lang="en">')
    assert text.count('<svg role="img" aria-label=') == text.count("<svg")
    assert text.count("<caption>") == text.count("<table")
    headings = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert set(headings[1:]) == {2}


def test_names_from_data_are_text(results):
    text = (results / "report.html").read_text()
    assert "alert(" in text
    assert "<script" not in text
    assert escape(EVIL) in text.replace("&#39;", "&#x27;")
    lines = (results / "report.md").read_text().splitlines()
    assert not [line for line in lines if re.search(r"(?<!\\)<", line)]
    for before, rule, after in zip(lines, lines[1:], lines[2:], strict=False):
        if rule.startswith("|--"):
            bars = {len(re.findall(r"(?<!\\)\|", line)) for line in (before, rule, after)}
            assert len(bars) == 1, after


def test_a_page_of_any_blocks():
    """The shell that other reports use."""

    def draw(axes):
        figures.curves(axes, [figures.Curve("<a>", [0, 1], [0.2, 0.1])], "x", "y")

    blocks = [
        html.Text("1 < 2"),
        html.Points(["a", "b"]),
        html.Table("t", ["name", "kind", "n"], [["x|y", "k", "3"]], 2),
        html.Table("judged", ["name", "gap"], [["z", html.JudgedCell("-2.0", "worse")]]),
        html.Table("bold", ["name", "score"], [[html.BoldCell("ours"), html.BoldCell("5.0")]]),
        html.Heat("h", "row", "column", ["r"], ["c"], [[0.25]]),
        html.Figure(figures.svg("two", draw), "Falling", "From 20 % to 10 %.", "falling.png"),
        html.Code("umemma compare"),
        html.Terms({"n": "how many"}),
    ]
    text = html.render("T & T", "So it is.", [html.Section("One, two", blocks)])
    Tags(text)
    for part in (
        "<title>T &amp; T</title>",
        'id="s1"',
        "1 &lt; 2",
        '<td class="name">k</td>',
        '<td class="worse">▼ -2.0</td>',
        '<th scope="row"><strong>ours</strong></th><td><strong>5.0</strong></td>',
        'class="axis">column →</th>',
        'class="axis">row ↓</th>',
        "--v:25%",
        "&lt;a&gt;",
    ):
        assert part in text, part
    marked = html.markdown("T", "So it is.", [html.Section("One, two", blocks)])
    assert "| x\\|y | k | 3 |\n" in marked
    assert "| z | ▼ -2.0 |" in marked
    assert "| **ours** | **5.0** |" in marked
    assert "|---|---|--:|" in marked
    assert "![Falling](falling.png)" in marked
    assert "```sh\numemma compare\n```" in marked


def test_no_line_of_the_page_ends_within_an_interval():
    text = html.render("T", "From 20.0 % (10.0–30.0) by -1.5 to 2.0 points.", [])
    assert "20.0\N{NO-BREAK SPACE}%" in text
    assert "10.0–\N{WORD JOINER}30.0" in text
    assert "-1.5\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}2.0\N{NO-BREAK SPACE}points" in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_in_a_browser_it_fits_a_phone_and_nothing_goes_wrong(results, tmp_path):
    """In frames of a phone's width, so that what is around them can read how wide they became."""
    text = (results / "report.html").read_text()
    frames = []
    for width in (320, 390, 1200):
        frames.append(f'<iframe width="{width}" height="800" srcdoc="{escape(text)}"></iframe>')
    script = """<script>
onload = () => {
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
    const root = frame.contentDocument.documentElement;
    const count = name => root.querySelectorAll(name).length;
    return [frame.width, root.scrollWidth, count("svg"), count("script")];
  }));
}
</script>"""
    shell = f"<!doctype html><title></title>{script}{''.join(frames)}"
    (tmp_path / "frames.html").write_text(shell)
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/p",
        "--dump-dom",
        f"file://{tmp_path}/frames.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    measured = json.loads(unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    assert len(measured) == 3
    for width, scrolled, drawings, scripts in measured:
        assert scrolled <= int(width), width
        assert drawings == text.count("<svg")
        assert scripts == 0
    assert "CONSOLE" not in done.stderr

"""What there is to read, once: sections made of a few kinds of block -> one HTML file that needs nothing else, or Markdown.

What comes from data (names of classes, say) is escaped in both. The page has no script and forbids every request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Points(NamedTuple):
    """A list."""

    points: Sequence[str]


class Table(NamedTuple):
    """rows: a cell per heading; the first `names` columns are words, the others numbers."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1


class Heat(NamedTuple):
    """Shares 0..1 of each row, shaded; `rows` and `columns` are its names. Only in a page."""

    caption: str
    corner: str
    rows: Sequence[str]
    columns: Sequence[str]
    shares: Sequence[Sequence[float]]


class Figure(NamedTuple):
    """svg: as `figures.svg` gives it; about: what one sees in it, for those who don't see it. file: a picture beside the
    Markdown that shows the same."""

    svg: str
    caption: str
    about: str
    file: str = ""


class Code(NamedTuple):
    """Commands."""

    code: str


class Terms(NamedTuple):
    """Words and their meaning."""

    terms: Mapping[str, str]


Block = Text | Points | Table | Heat | Figure | Code | Terms


class Section(NamedTuple):
    title: str
    blocks: Sequence[Block]


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """One self-contained HTML file. lead: what it says, in a sentence or two."""
    shell = resources.files("umemma.reports").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["together"] = _together
    return environment.from_string(shell).render(title=title, lead=lead, sections=sections) + "\n"


def markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The same for terminals and pull requests. Of the figures it shows those that have a `file`."""
    parts = [f"# {_plain(title)}", _plain(lead)]
    for section in sections:
        written = [text for block in section.blocks if (text := _written(block))]
        parts += [f"## {_plain(section.title)}", *written] if written else []
    return "\n\n".join(parts) + "\n"


def sentence(text: str) -> str:
    """With a capital."""
    return text[:1].upper() + text[1:]


def _written(block: Block) -> str:
    match block:
        case Text(text):
            return _plain(text)
        case Points(points):
            return "\n".join(f"- {_plain(point)}" for point in points)
        case Terms(terms):
            return "\n".join(
                f"- **{_plain(term)}**: {_plain(meaning)}" for term, meaning in terms.items()
            )
        case Code(code):
            return f"```sh\n{code}\n```"
        case Figure(file=file) if file:
            return f"![{_plain(block.caption)}]({file})"
        case Table():
            rule = ["---"] * block.names + ["--:"] * (len(block.headings) - block.names)
            lines = [
                f"| {' | '.join(map(_plain, cells))} |" for cells in (block.headings, *block.rows)
            ]
            return "\n".join(
                [f"{_plain(block.caption)}:", "", lines[0], f"|{'|'.join(rule)}|", *lines[1:]]
            )
    return ""


def _together(text: str) -> str:
    """Without a line's end between a number and its sign, nor within an interval."""
    return re.sub(r"(?<=\d) (?=[%-])|(?<=\d -) (?=\d)", "\N{NO-BREAK SPACE}", text)


def _plain(text: str) -> str:
    """On one line, and meaning nothing to Markdown."""
    return re.sub(r"([\\`*\[\]<|])", r"\\\1", " ".join(text.split()))

"""A report as one HTML file that needs nothing else, and as Markdown.

It consists of sections, and these of a few kinds of block. Text that comes from data (names of
classes, say) is escaped in both formats. The page has no script and forbids every request.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple, TypeAlias

from jinja2 import Environment, StrictUndefined

from umemma.reports.verdict import Verdict
from umemma.reports.wording import ARROWS, EN_DASH, Tone, keep_together, with_interval

WORD_JOINER = "\N{WORD JOINER}"  # forbids a line break, and has no width
FEW_COLUMNS = 12  # of a heat map; one with more takes the whole width of the page


class Text(NamedTuple):
    """A paragraph. only_in_page: Markdown lacks what it is about."""

    text: str
    only_in_page: bool = False


class Points(NamedTuple):
    """A list."""

    points: Sequence[str]


class JudgedCell(NamedTuple):
    """A cell whose difference is better or worse than chance: coloured, with an arrow."""

    text: str
    tone: Tone


class BoldCell(NamedTuple):
    """A cell that stands out: the compared method, or the best value of a column."""

    text: str


Cell: TypeAlias = str | JudgedCell | BoldCell


class Table(NamedTuple):
    """rows: a cell per heading; the first `names` columns are words, the others numbers."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int = 1


class SortedTable(NamedTuple):
    """A table that a reader of the page sorts by a column, without a script.

    orders: {what it is sorted by: all rows in that order}; the first order is shown at first, and
    in Markdown.
    """

    caption: str
    headings: Sequence[str]
    orders: Mapping[str, Sequence[Sequence[Cell]]]
    names: int = 1


class Heat(NamedTuple):
    """Shares 0..1 of each row, shaded. Only in a page.

    rows, columns: their names; row_axis, column_axis: what the rows and the columns are.
    """

    caption: str
    row_axis: str
    column_axis: str
    rows: Sequence[str]
    columns: Sequence[str]
    shares: Sequence[Sequence[float]]

    @property
    def is_wide(self) -> bool:
        """Whether it takes the whole width of the page."""
        return len(self.columns) > FEW_COLUMNS


class Figure(NamedTuple):
    """A drawing.

    svg: as `figures.svg` returns it; about: what one sees in it, for people who do not see it;
    file: a picture beside the Markdown that shows the same, "" for none.
    """

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


Block = Text | Points | Table | SortedTable | Heat | Figure | Code | Terms


class Section(NamedTuple):
    """A heading with its blocks."""

    title: str
    blocks: Sequence[Block]


def render(
    title: str,
    lead: str,
    sections: Sequence[Section],
    verdict: Verdict | None = None,
) -> str:
    """Return one self-contained HTML file.

    lead: a sentence or two below the title; verdict: stands between the title and the lead.
    """
    shell = resources.files("umemma.reports").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["together"] = _forbid_breaks
    environment.filters["side_by_side"] = _group_blocks
    environment.globals["arrows"] = ARROWS
    environment.globals["count"] = itertools.count().__next__
    template = environment.from_string(shell)
    orders = _count_orders(sections)
    page = template.render(
        title=title, lead=lead, sections=sections, verdict=verdict, orders=orders
    )
    return f"{page}\n"


def markdown(
    title: str,
    lead: str,
    sections: Sequence[Section],
    verdict: Verdict | None = None,
) -> str:
    """Return the same as Markdown, for terminals and pull requests.

    Of the figures it shows those that have a `file`.
    """
    parts = [f"# {escape_markdown(title)}"]
    if verdict:
        parts += _verdict_as_markdown(verdict)
    parts.append(escape_markdown(lead))
    for section in sections:
        texts = [_block_as_markdown(block) for block in section.blocks]
        texts = [text for text in texts if text]
        if texts:
            parts += [f"## {escape_markdown(section.title)}", *texts]
    return "\n\n".join(parts) + "\n"


def _count_orders(sections: Sequence[Section]) -> int:
    """Return the largest number of orders that a table of the page can be sorted in."""
    counts = [0]
    for section in sections:
        for block in section.blocks:
            if isinstance(block, SortedTable):
                counts.append(len(block.orders))
    return max(counts)


def _forbid_breaks(text: str) -> str:
    """Return text whose lines end neither after an en dash nor before a unit."""
    return keep_together(text).replace(EN_DASH, f"{EN_DASH}{WORD_JOINER}")


def _group_blocks(blocks: Sequence[Block]) -> list[list[Block]]:
    """Return the blocks with neighbouring figures, and neighbouring heat maps, in one group."""
    groups: list[list[Block]] = []
    for block in blocks:
        is_drawn = isinstance(block, Figure | Heat)
        if is_drawn and groups and type(groups[-1][-1]) is type(block):
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def _verdict_as_markdown(verdict: Verdict) -> list[str]:
    numbers = []
    for number in verdict.numbers:
        value = with_interval(f"**{number.value}**", number.interval)
        numbers.append(f"- {number.label}: {value}, {escape_markdown(number.name)}")
    findings = []
    for finding in verdict.findings:
        findings.append(f"- {ARROWS[finding.tone]}{escape_markdown(finding.text)}")
    return ["\n".join(numbers), "\n".join(findings)]


def _block_as_markdown(block: Block) -> str:
    """Return a block as Markdown, "" for one that Markdown cannot show."""
    match block:
        case Text(text, only_in_page) if not only_in_page:
            return escape_markdown(text)
        case Points(points):
            return "\n".join(f"- {escape_markdown(point)}" for point in points)
        case Terms(terms):
            lines = []
            for term, meaning in terms.items():
                lines.append(f"- **{escape_markdown(term)}**: {escape_markdown(meaning)}")
            return "\n".join(lines)
        case Code(code):
            return f"```sh\n{code}\n```"
        case Figure(file=file) if file:
            return f"![{escape_markdown(block.caption)}]({file})"
        case Table():
            return _table_as_markdown(block)
        case SortedTable(caption, headings, orders, names):
            rows = next(iter(orders.values()))
            return _table_as_markdown(Table(caption, headings, rows, names))
    return ""


def _table_as_markdown(table: Table) -> str:
    rule = ["---"] * table.names + ["--:"] * (len(table.headings) - table.names)
    lines = [
        f"{escape_markdown(table.caption)}:",
        "",
        _row_as_markdown(table.headings),
        f"|{'|'.join(rule)}|",
    ]
    for row in table.rows:
        lines.append(_row_as_markdown(row))
    return "\n".join(lines)


def _row_as_markdown(row: Sequence[Cell]) -> str:
    cells = []
    for cell in row:
        if isinstance(cell, JudgedCell):
            cells.append(escape_markdown(f"{ARROWS[cell.tone]}{cell.text}"))
        elif isinstance(cell, BoldCell):
            cells.append(f"**{escape_markdown(cell.text)}**")
        else:
            cells.append(escape_markdown(cell))
    return f"| {' | '.join(cells)} |"


def escape_markdown(text: str) -> str:
    """Return text on one line, without any meaning to Markdown."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*\[\]<|])", r"\\\1", line)

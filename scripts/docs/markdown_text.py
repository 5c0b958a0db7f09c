"""Small pieces of Markdown that the generated pages are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

CODE = re.compile(r"(`[^`]*`)")
SPECIAL = re.compile(r"([\\*_\[\]|#])")


def escape(text: str) -> str:
    """Return plain text as Markdown that shows exactly this text; `code` stays code."""
    parts = []
    for part in CODE.split(text):
        if part.startswith("`"):
            parts.append(part.replace("|", "\\|"))
        else:
            html = part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            parts.append(SPECIAL.sub(r"\\\1", html))
    return "".join(parts)


def code(text: str) -> str:
    """Return `text` as inline code that may stand in a table."""
    return "`" + text.replace("|", "\\|") + "`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the cells are Markdown already."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row in rows:
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)

"""MkDocs hook: fill the generated parts of the documentation site while it is built.

A page asks for a generated part with a line `<!-- generated: NAME -->`. The pages of ROOT_PAGES
show a file of the repository root. A link from a page to a file outside of docs/ works on a code
host; on the site it becomes a link to the page that shows the file, or plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import command_reference
import error_reference
import setting_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from repository_links import ROOT_PAGES, rewrite_links

ROOT = Path(__file__).resolve().parent.parent.parent
CELL = re.compile(r"<td[^>]*>.*?</td>", re.DOTALL)
CELL_CODE = re.compile(r"<code>[^<]*</code>")
BREAK = re.compile(r"(?<=\w)([/_])(?=\w)")
MARKER = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)

GENERATORS: dict[str, Callable[[], str]] = {
    "commands": command_reference.generate,
    "settings": setting_reference.generate,
    "errors": error_reference.generate,
}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the whole text of a page, with links that work on the site."""
    source = f"docs/{page.file.src_uri}"
    shown = ROOT_PAGES.get(page.file.src_uri)
    if shown is not None:
        source = shown
        markdown = (ROOT / shown).read_text(encoding="utf-8")
    markdown = rewrite_links(markdown, source, page.file.src_uri)
    return MARKER.sub(_generated_part, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let a path or a long name in a table break behind "/" and "_"."""

    def with_breaks(code: re.Match[str]) -> str:
        return BREAK.sub(r"\1<wbr>", code[0])

    return CELL.sub(lambda cell: CELL_CODE.sub(with_breaks, cell[0]), html)


def _generated_part(match: re.Match[str]) -> str:
    name = match[1]
    if name not in GENERATORS:
        known = ", ".join(sorted(GENERATORS))
        raise ValueError(f"no generator is called {name!r}; known: {known}")
    return GENERATORS[name]()

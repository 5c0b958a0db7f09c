"""MkDocs hook: fill the generated parts of the documentation site while it is built.

A page asks for a generated part with a line `<!-- generated: NAME -->`. ARCHITECTURE.md and CHANGELOG.md of the
repository root become pages of the site. Links from a page to a file outside of docs/ work on a code host; on the
site they become links to the page that shows the file, or plain code text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import command_reference
import error_reference
import setting_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from repository_links import rewrite_links

ROOT = Path(__file__).resolve().parent.parent.parent
ROOT_PAGES = {"architecture.md": "ARCHITECTURE.md", "changelog.md": "CHANGELOG.md"}
MARKER = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)

GENERATORS: dict[str, Callable[[], str]] = {
    "commands": command_reference.generate,
    "settings": setting_reference.generate,
    "errors": error_reference.generate,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that show a file of the repository root."""
    for page, source in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the markers by what their generators return, and rewrite the links out of docs/."""
    source = ROOT_PAGES.get(page.file.src_uri)
    if source is None:
        source = f"docs/{page.file.src_uri}"
    markdown = rewrite_links(markdown, source, page.file.src_uri, ROOT_PAGES)
    return MARKER.sub(_generated_part, markdown)


def _generated_part(match: re.Match[str]) -> str:
    name = match[1]
    if name not in GENERATORS:
        known = ", ".join(sorted(GENERATORS))
        raise ValueError(f"no generator is called {name!r}; known: {known}")
    return GENERATORS[name]()

"""Links of Markdown files: find them, and translate those that leave docs/ for the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

ROOT_PAGES = {"architecture.md": "ARCHITECTURE.md", "changelog.md": "CHANGELOG.md"}
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+(?:\([^()\s]*\))?)\)")
EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def prose_spans(markdown: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each stretch of the text that is not inside a fenced code block."""
    start = 0
    for block in FENCE.finditer(markdown):
        yield start, block.start()
        start = block.end()
    yield start, len(markdown)


def find_links(markdown: str) -> list[str]:
    """Return the target of every inline link and image outside of code."""
    targets = []
    for start, end in prose_spans(markdown):
        prose = markdown[start:end]
        code = [match.span() for match in CODE.finditer(prose)]
        for link in LINK.finditer(prose):
            if not any(first < link.start() < last for first, last in code):
                targets.append(link[3])
    return targets


def rewrite_links(markdown: str, source: str, page: str) -> str:
    """Translate the links of the repository file `source` for the page `page` (both posix paths).

    A link to a file below docs/ is made relative to the page, a link to a file that a page of
    ROOT_PAGES shows goes to that page, and a link to any other file becomes its text.
    """
    shown_at = {file: site_page for site_page, file in ROOT_PAGES.items()}

    def replace(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        if EXTERNAL.match(target) or target.startswith("#"):
            return match[0]
        path, mark, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if file in shown_at:
            site_path = shown_at[file]
        elif file.startswith("docs/"):
            site_path = file.removeprefix("docs/")
        else:
            return text
        relative = posixpath.relpath(site_path, posixpath.dirname(page) or ".")
        return f"{image}[{text}]({relative}{mark}{anchor})"

    parts = []
    position = 0
    for start, end in prose_spans(markdown):
        parts.append(markdown[position:start])
        parts.append(LINK.sub(replace, markdown[start:end]))
        position = end
    return "".join(parts)

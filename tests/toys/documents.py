"""The documents that people read, in pieces that tests can check.

A comment on the line before a code block says that the documentation tests do not run it, and why:

    <!-- not run: needs a cluster -->
    <!-- run by: test_a_second_repro_does_nothing -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import command_reference
import error_reference
import setting_reference
from repository_links import prose_spans

from toys.project import ROOT

PROJECT_FILES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
GENERATORS = {
    "commands": command_reference.generate,
    "settings": setting_reference.generate,
    "errors": error_reference.generate,
}
SHELL = ("sh", "bash", "shell", "console")
PROGRAMS = (
    "umemma|dvc|pip|python3?|torchrun|srun|sbatch|mkdocs|git|pytest|cp|mkdir|curl|docker|apt-get"
)
FENCE = re.compile(r"^( *)(```+|~~~+)([\w+-]*)[^\n]*\n(.*?)^ *\2 *$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(rf"(?:^(?: {{4}}|\t) *(?:[A-Z_]+=\S+ )?(?:{PROGRAMS}) .*\n)+", re.MULTILINE)
MARKER = re.compile(r"<!-- (not run|run by): (.+?) -->\s*\Z")
HEADING = re.compile(r"^(#{1,6}) +(.+?)(?: +\{#([\w.-]+)\})? *#*$", re.MULTILINE)
MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True)
class Block:
    """A code block. marker: "", "not run" or "run by"; reason: why not, or the name of the test."""

    language: str
    text: str
    line: int
    marker: str = ""
    reason: str = ""

    def commands(self) -> list[str]:
        """Return the command lines, continued lines joined, without comments and prompts."""
        lines = []
        for line in self.text.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s)#\s.*", "", line).strip().removeprefix("$ ")
            if command:
                lines.append(command)
        return lines


def documents() -> list[str]:
    """Return the repository paths of all documents: the project's, the site's, the examples'."""
    pages = []
    for folder in ("docs", "examples"):
        pages += [path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.md")]
    own = [name for name in PROJECT_FILES if (ROOT / name).exists()]
    return [*own, *sorted(pages)]


def guides() -> list[str]:
    """Return the documents whose commands people type: the README, the site's, the examples'."""
    return ["README.md", *(name for name in documents() if name not in PROJECT_FILES)]


def read(name: str) -> str:
    """Return the text of a document as it stands in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def read_whole(name: str) -> str:
    """Return the text of a document with its generated parts."""
    text = read(name)
    for part, generate in GENERATORS.items():
        marker = f"<!-- generated: {part} -->"
        if marker in text:
            text = text.replace(marker, generate())
    return text


def blocks(name: str) -> Iterator[Block]:
    """Yield the code blocks of a document: fenced ones, and indented lines that are commands."""
    text = read(name)
    found = []
    for match in FENCE.finditer(text):
        indent, _, language, body = match.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        found.append((match.start(), language, "\n".join(lines)))
    for start, end in prose_spans(text):
        for match in INDENTED.finditer(text[start:end]):
            found.append((start + match.start(), "sh", match[0]))
    for start, language, body in sorted(found):
        marker = MARKER.search(text[:start])
        line = text.count("\n", 0, start) + 1
        if marker:
            yield Block(language, body, line, marker[1], marker[2])
        else:
            yield Block(language, body, line)


def anchors(name: str) -> set[str]:
    """Return the anchors of a document: MkDocs' for a page of the site, GitHub's for others."""
    text = read_whole(name)
    prose = "\n".join(text[start:end] for start, end in prose_spans(text))
    found: set[str] = set()
    for match in HEADING.finditer(prose):
        title = MARKUP.sub(r"\1", match[2]).replace("`", "")
        slug = match[3]
        if slug is None and name.startswith("docs/"):
            slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
        elif slug is None:
            slug = re.sub(r"[^\w\s-]", "", title).strip().lower().replace(" ", "-")
        found.add(slug)
    found.update(re.findall(r'<a (?:id|name)="([^"]+)"', prose))
    return found

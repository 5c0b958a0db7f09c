"""The README: a front door, whose two commands decide what lands."""

from __future__ import annotations

from repository_links import ROOT_PAGES
from toys import documents
from toys.project import ROOT

README = documents.read("README.md")
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    ")]


def test_it_is_at_most_9000_bytes():
    assert len(README.encode()) <= 9000


def test_ci_runs_its_two_commands():
    script = (ROOT / ".ci" / "run").read_text()
    for words in ("dvc repro", "pytest"):
        (command,) = [
            line for line in COMMANDS if line.startswith("pip install") and line.endswith(words)
        ]
        assert f"{command} || exit 1" in script.splitlines()


def test_it_shows_the_picture_that_the_default_run_draws():
    assert "(docs/images/robustness.png)" in README
    picture = (ROOT / "docs" / "images" / "robustness.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000


def test_it_links_every_page_of_the_guide():
    for path in (ROOT / "docs").glob("*.md"):
        if path.name not in ("index.md", *ROOT_PAGES):
            assert f"(docs/{path.name})" in README


def test_its_tree_names_every_folder_of_the_package():
    for folder in sorted((ROOT / "umemma").iterdir()):
        if folder.is_dir() and (folder / "__init__.py").exists():
            assert f"{folder.name}/" in README

"""ARCHITECTURE.md names files, floors and tests that exist; a decision has a reason and a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from toys import documents
from toys.project import ROOT, TESTS

PACKAGE = ROOT / "umemma"
TEXT = documents.read("ARCHITECTURE.md")
PATH = re.compile(r"`((?:umemma|tests|docs|recipes|scripts|benchmarks)/[\w./-]*)`")
TEST_NAME = re.compile(r"`(test_\w+)`")
ADDED = ("A dataset", "An encoder", "A modality", "A metric")


def section(title: str, level: int = 2) -> str:
    """Return the text below a heading, up to the next heading of the same or a higher level."""
    (start,) = re.findall(rf"^{'#' * level} {re.escape(title)}$\n", TEXT, re.MULTILINE)
    body = TEXT.split(start, 1)[1]
    return re.split(rf"^#{{2,{level}}} ", body, maxsplit=1, flags=re.MULTILINE)[0]


def diagram(title: str) -> str:
    (block,) = re.findall(r"```text\n(.*?)```", section(title), re.DOTALL)
    return block


def decisions() -> list[str]:
    """Return each decision on one line."""
    bullets = re.split(r"^- ", section("Decisions"), flags=re.MULTILINE)[1:]
    return [" ".join(bullet.split("\n\n")[0].split()) for bullet in bullets]


def list_test_functions() -> set[str]:
    names = set()
    for path in TESTS.rglob("test_*.py"):
        names.update(re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE))
    return names


def test_every_path_exists():
    paths = PATH.findall(TEXT)
    assert len(paths) > 30
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_every_test_that_is_named_exists():
    named = set(TEST_NAME.findall(TEXT))
    assert len(named) > 30
    assert not named - list_test_functions()


@pytest.mark.parametrize("decision", decisions())
def test_a_decision_has_a_reason_an_alternative_and_a_test(decision):
    assert decision.startswith("**")
    assert " Because " in decision
    assert " Instead of " in decision
    assert TEST_NAME.search(decision.split(" Kept by ")[1])


def test_the_way_of_the_data_names_files_that_exist():
    files = re.findall(r"[\w/]+\.py", diagram("The way of the data").replace("<name>", ""))
    files = [file for file in files if file != "datasets/.py"]
    assert len(files) > 12
    for file in files:
        assert (PACKAGE / file).is_file(), file


def test_the_tree_names_every_folder_and_modules_that_exist():
    tree = diagram("The tree")
    for path in PACKAGE.iterdir():
        if (path / "__init__.py").exists():
            assert f"\n  {path.name}/ " in tree
    for folder in ("training", "models", "evaluation", "data", "system"):
        (listed,) = re.findall(rf"^  {folder}/ +(.*(?:\n {{10,}}.*)*)", tree, re.MULTILINE)
        for name in re.sub(r"\([^)]*\)", "", listed).split(","):
            assert (PACKAGE / folder / f"{name.strip()}.py").is_file(), f"{folder}: {name}"


def test_the_floors_are_those_that_the_imports_keep():
    body = ast.parse((TESTS / "test_floors.py").read_text()).body
    floors: list[set[str]] = []
    for node in body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "FLOORS":
            floors = ast.literal_eval(node.value)
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", section("Floors"), re.MULTILINE)
    assert len(rows) == len(floors)
    for number, cells in rows:
        names = {Path(path).stem for path in PATH.findall(cells)}
        assert names == floors[int(number) - 1] - {"__init__"}, number


@pytest.mark.parametrize("title", ADDED)
def test_how_to_add_something_names_its_files(title):
    steps = section(title, level=3)
    assert len(PATH.findall(steps)) >= 3
    assert re.search(r"`tests/\w+/", steps)


def test_there_is_no_history_of_plans():
    assert not re.search(r"first plan|issue \d|used to|formerly|no longer", TEXT)

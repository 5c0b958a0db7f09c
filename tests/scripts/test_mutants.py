"""The list of deliberate breakages fits the code, and an entry that does not fit is reported."""

from __future__ import annotations

import mutants
import pytest
from mutants import Mutant, find_misfit
from toys.project import ROOT

CODE = "def double(x):\n    return 2 * x\n"
TEST = "def test_double():\n    pass\n"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    (tmp_path / "test_code.py").write_text(TEST)
    return tmp_path


def entry(**changes):
    fields = {"name": "triples", "file": "code.py", "old": "2 * x", "new": "3 * x"}
    return Mutant(**{**fields, "test": "test_code.py::test_double[1]", **changes})


def test_every_entry_fits_the_code(capsys):
    assert mutants.main(["--fit"]) == 0, capsys.readouterr().out


def test_every_entry_has_a_name_of_its_own():
    names = [mutant.name for mutant in mutants.read_mutants(ROOT)]
    assert len(names) == len(set(names)) > 90


def test_an_entry_that_fits(project, capsys):
    assert find_misfit(entry(), project) == ""
    assert mutants.check_fit([entry()], project) == 0
    assert capsys.readouterr().out == "1 fit, 0 unfit\n"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"file": "gone.py"}, "there is no such file"),
        ({"old": "2 * y"}, "the text of `old` occurs 0 times"),
        ({"old": "x"}, "the text of `old` occurs 2 times"),
        ({"new": "2 * x"}, "`new` is the same as `old`"),
        ({"new": "3 * ("}, "with `new` the file is not valid Python: "),
        ({"test": "test_gone.py::test_double"}, "there is no test_gone.py"),
        ({"test": "test_code.py::test_doubl"}, "test_code.py has no test_doubl"),
    ],
)
def test_an_entry_that_does_not_fit(changes, problem, project, capsys):
    mutant = entry(**changes)
    assert find_misfit(mutant, project).startswith(problem)
    assert mutants.check_fit([entry(), mutant], project) == 1
    printed = capsys.readouterr().out
    assert f"{mutant.file}: triples: {problem}" in printed
    assert printed.endswith("1 fit, 1 unfit\n")

"""Break the code on purpose, one mutant at a time, and run the test that must fail.

    python scripts/mutants.py                 run all of tests/mutants.toml, two at a time
    python scripts/mutants.py --only bias     run those whose name or file contains "bias"
    python scripts/mutants.py --unbroken      first check that these tests pass on the code as it is
    python scripts/mutants.py --fit           only check that every entry fits the code

tests/mutants.toml lists the mutants: what is broken, in words (`name`), the file (`file`), the text
that stands in it exactly once (`old`), the text that replaces it (`new`), and the test that must
fail (`test`, as pytest takes it). The test runs on a copy of the project with this one change.

A mutant is killed if its test fails, it survives if its test passes, and it is unfit if it no
longer fits the code or if pytest can't run its test. The exit status is 1 unless all are killed
(with --fit: unless all fit).

A list written by hand says more than mutants made by rule (`mutmut`, `cosmic-ray`): each is a
mistake that a person could make, each changes a result, and each takes seconds, as its test is
named.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("umemma", "tests", "recipes", "docs", "benchmarks", "scripts", "compare", "examples")
COPIED_HIDDEN = (".dvc", ".ci", ".github")
KILLED = "killed"
SURVIVED = "survived"
UNFIT = "unfit"


class Mutant(NamedTuple):
    """A deliberate breakage, and the test that must notice it."""

    name: str
    file: str
    old: str
    new: str
    test: str


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    mutants = []
    for mutant in read_mutants(ROOT):
        if options.only in mutant.name or options.only in mutant.file:
            mutants.append(mutant)
    if options.fit:
        return check_fit(mutants, ROOT)
    with tempfile.TemporaryDirectory() as folder:
        if options.unbroken:
            tests = sorted({mutant.test for mutant in mutants})
            copy = copy_project(Path(folder) / "unbroken")
            if run_tests(copy, tests) != SURVIVED:
                print("these tests fail on the code as it is")
                return 1
        return run_mutants(mutants, Path(folder), options.jobs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="only mutants whose name or file contains this",
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many run at a time")
    parser.add_argument(
        "--unbroken",
        action="store_true",
        help="first run all these tests on the code as it is",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="check that every entry fits the code, and run no test",
    )
    return parser


def read_mutants(root: Path) -> list[Mutant]:
    """Return the entries of tests/mutants.toml, in the order of the file."""
    text = (root / "tests" / "mutants.toml").read_text(encoding="utf-8")
    return [Mutant(**entry) for entry in tomllib.loads(text)["mutant"]]


def check_fit(mutants: list[Mutant], root: Path) -> int:
    """Print the entries that do not fit the code. Return the exit status."""
    unfit = 0
    for mutant in mutants:
        problem = find_misfit(mutant, root)
        if problem:
            print(f"{mutant.file}: {mutant.name}: {problem}")
            unfit += 1
    print(f"{len(mutants) - unfit} fit, {unfit} {UNFIT}")
    return int(unfit > 0)


def find_misfit(mutant: Mutant, root: Path) -> str:
    """Return why an entry does not fit the code, or "" if it fits.

    An entry fits if `old` stands in the file exactly once, `new` differs from it, the changed file
    is still valid Python, and the named test exists.
    """
    path = root / mutant.file
    if not path.is_file():
        return "there is no such file"
    text = path.read_text(encoding="utf-8")
    count = text.count(mutant.old)
    if count != 1:
        return f"the text of `old` occurs {count} times"
    if mutant.new == mutant.old:
        return "`new` is the same as `old`"
    if path.suffix == ".py":
        try:
            ast.parse(text.replace(mutant.old, mutant.new))
        except SyntaxError as error:
            return f"with `new` the file is not valid Python: {error}"
    return _find_missing_test(mutant, root)


def _find_missing_test(mutant: Mutant, root: Path) -> str:
    file, _, test = mutant.test.partition("::")
    path = root / file
    if not path.is_file():
        return f"there is no {file}"
    function = test.partition("[")[0]
    if function and f"def {function}(" not in path.read_text(encoding="utf-8"):
        return f"{file} has no {function}"
    return ""


def run_mutants(mutants: list[Mutant], folder: Path, jobs: int) -> int:
    """Run every mutant in a folder of its own and print what happened. Return the exit status."""
    places = [folder / str(number) for number in range(len(mutants))]
    results = []
    with ThreadPoolExecutor(jobs) as pool:
        for mutant, result in zip(mutants, pool.map(run_mutant, mutants, places), strict=True):
            print(f"{result:9} {mutant.file}: {mutant.name}", flush=True)
            results.append(result)
    print(", ".join(f"{results.count(result)} {result}" for result in (KILLED, SURVIVED, UNFIT)))
    return int(results.count(KILLED) < len(results))


def run_mutant(mutant: Mutant, place: Path) -> str:
    """Return whether the test of a mutant fails on a copy of the project with this change."""
    if find_misfit(mutant, ROOT):
        return UNFIT
    copy_project(place)
    path = place / mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return run_tests(place, [mutant.test])
    finally:
        shutil.rmtree(place)


def copy_project(place: Path) -> Path:
    """Copy the project without its data to a new folder, and return that folder."""
    place.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "cache", "tmp")
    for name in (*COPIED, *COPIED_HIDDEN):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, place / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    return place


def run_tests(place: Path, tests: list[str]) -> str:
    """Run tests in a copy of the project.

    Returns SURVIVED if all of them pass, KILLED if one fails or the process crashes, and UNFIT if
    pytest can't run them.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q"]
    command += ["-n", "0", "-p", "no:cacheprovider", *tests]
    environment = {
        **os.environ,
        "PYTHONPATH": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.run(
        command,
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode == 0:
        return SURVIVED
    if process.returncode <= 1:  # 1: a test failed. Below 0: a signal ended the process.
        return KILLED
    print(f"pytest can't run {' '.join(tests)}", flush=True)
    print(process.stdout[-2000:], process.stderr[-2000:], flush=True)
    return UNFIT


if __name__ == "__main__":
    sys.exit(main())

"""Do the tests notice? Break the code on purpose, one breakage at a time, and run the test that should fail.

    python scripts/mutants.py                 all of tests/mutants.toml, two at a time
    python scripts/mutants.py --only bias     those whose name or file has this in it
    python scripts/mutants.py --unbroken      first all these tests on the code as it is, which they have to pass

tests/mutants.toml lists them: what is broken, in words (`name`), the file, the text that stands there once (`old`), what
takes its place (`new`), and the test that must fail (`test`, as pytest takes it), which runs on a copy with this one
breakage. Exit status 1 where one survives, or no longer fits the code.

Such a list says more than mutants by rule (`mutmut`, `cosmic-ray`): these are mistakes that somebody could make, each
changes what is true, and each takes seconds, as its near test is named.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PARTS = ("umemma", "tests", "recipes", "docs", "benchmarks", "scripts", "compare", ".dvc", ".ci")
KILLED, SURVIVED, UNFIT = "killed", "survived", "unfit"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--unbroken", action="store_true", help="first run all these tests on the code as it is"
    )
    asked = parser.parse_args()
    listed = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
    mutants = [one for one in listed if asked.only in one["name"] or asked.only in one["file"]]
    with tempfile.TemporaryDirectory() as folder:
        tests = sorted({one["test"] for one in mutants})
        if asked.unbroken and run(copy(Path(folder) / "unbroken"), tests) != SURVIVED:
            print("these tests fail on the code as it is")
            return 1
        with concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool:
            places = [Path(folder) / str(number) for number in range(len(mutants))]
            ends = []
            for mutant, end in zip(mutants, pool.map(judge, mutants, places), strict=True):
                print(f"{end:9} {mutant['file']}: {mutant['name']}", flush=True)
                ends.append(end)
    print(", ".join(f"{ends.count(end)} {end}" for end in (KILLED, SURVIVED, UNFIT)))
    return int(ends.count(KILLED) < len(ends))


def judge(mutant: dict[str, Any], place: Path) -> str:
    """Whether the test of a breakage fails on it."""
    text = (ROOT / mutant["file"]).read_text(encoding="utf-8")
    if text.count(mutant["old"]) != 1:
        return UNFIT
    copy(place)
    (place / mutant["file"]).write_text(
        text.replace(mutant["old"], mutant["new"]), encoding="utf-8"
    )
    try:
        return run(place, [mutant["test"]])
    finally:
        shutil.rmtree(place)


def copy(place: Path) -> Path:
    """The project without its data."""
    place.mkdir()
    for name in PARTS:
        if (ROOT / name).exists():
            shutil.copytree(
                ROOT / name,
                place / name,
                ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"),
            )
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, place)
    return place


def run(place: Path, tests: list[str]) -> str:
    """SURVIVED if all of them pass, KILLED if one fails or the process crashes, UNFIT if pytest can't run them."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *tests,
    ]
    environment = os.environ | {
        "PYTHONPATH": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode > 1:  # pytest's own: 0 passed, 1 failed; below 0 is a signal
        print(
            f"pytest can't run {' '.join(tests)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}",
            flush=True,
        )
        return UNFIT
    return KILLED if done.returncode else SURVIVED


if __name__ == "__main__":
    sys.exit(main())

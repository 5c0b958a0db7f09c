"""Every command killed with -9 twenty times: it ends with the bytes of an undisturbed run."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from toys.commands import copy_pipeline
from toys.drill import (
    COMMANDS,
    choose_moments,
    compare,
    finish,
    kill,
    measure,
    mend_lock_of_dvc,
    prepare,
    read_tree,
    start,
)

pytestmark = [pytest.mark.drill, pytest.mark.slow]

KILLS = 20


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_ends_as_if_undisturbed(trained, tmp_path, name, count):
    fresh = tmp_path / "fresh"
    shutil.copytree(trained, fresh)
    prepare(fresh, name)
    survive(fresh, COMMANDS[name], name, count)


def test_dvc_that_is_killed_ends_as_if_undisturbed(tmp_path, count):
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    copy_pipeline(fresh)
    survive(fresh, ["dvc", "repro"], "dvc repro", count, (0.02, 0.3))  # it resumes after each


def survive(
    fresh: Path,
    command: list[str],
    name: str,
    count,
    reach: tuple[float, float] = (0.3, 1.05),
) -> None:
    """Kill a command KILLS times in copies of the folder `fresh`, and compare what it ends with."""
    undisturbed = fresh.with_name("undisturbed")
    shutil.copytree(fresh, undisturbed)
    seconds = measure(undisturbed, command)
    expected = read_tree(undisturbed)
    disturbed = fresh.with_name("disturbed")
    shutil.copytree(fresh, disturbed)
    wrong = []
    tried = 0
    for number, moment in enumerate(choose_moments(len(name), KILLS, seconds, reach)):
        process = start(disturbed, command)
        time.sleep(moment)
        if kill(process, whole_group=number % 2 == 0):
            tried += 1
            mend_lock_of_dvc(disturbed)
            continue
        wrong += compare(disturbed, expected)
        shutil.rmtree(disturbed)
        shutil.copytree(fresh, disturbed)
    finish(disturbed, command)
    wrong += compare(disturbed, expected)
    count(f"kill -9: {name}", tried, len(wrong))
    assert not wrong

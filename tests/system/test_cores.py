"""The number of cores that a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from umemma.system import cores


@pytest.fixture
def groups(tmp_path, monkeypatch) -> Path:
    """A file system of control groups, with eight cores in the affinity."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(cores, "PROCESS_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "GROUPS", tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_without_a_quota_they_are_those_of_the_affinity(groups):
    assert cores.count_cores() == 8
    write(groups / "cgroup", "0::/job")
    write(groups / "job" / "cpu.max", "max 100000")
    assert cores.count_cores() == 8


@pytest.mark.parametrize(("quota", "expected"), [(200_000, 2), (150_000, 2), (5_000, 1)])
def test_a_quota_of_version_2_counts_rounded_up(groups, quota, expected):
    write(groups / "cgroup", "0::/slice/job")
    write(groups / "slice" / "job" / "cpu.max", f"{quota} 100000")
    assert cores.count_cores() == expected


def test_the_least_quota_of_the_groups_above_counts(groups):
    write(groups / "cgroup", "0::/slice/job")
    write(groups / "slice" / "job" / "cpu.max", "600000 100000")
    write(groups / "slice" / "cpu.max", "300000 100000")
    assert cores.count_cores() == 3


def test_a_quota_of_version_1(groups):
    write(groups / "cgroup", "5:memory:/job\n4:cpu,cpuacct:/job\n0::/")
    write(groups / "cpu" / "job" / "cpu.cfs_quota_us", "400000")
    write(groups / "cpu" / "job" / "cpu.cfs_period_us", "100000")
    assert cores.count_cores() == 4
    write(groups / "cpu" / "job" / "cpu.cfs_quota_us", "-1")
    assert cores.count_cores() == 8


def test_a_container_sees_its_group_at_the_root(groups):
    write(groups / "cgroup", "3:cpu:/docker/only-the-host-knows")
    write(groups / "cpu" / "cpu.cfs_quota_us", "100000")
    write(groups / "cpu" / "cpu.cfs_period_us", "100000")
    assert cores.count_cores() == 1


def test_a_quota_above_the_affinity_adds_no_cores(groups):
    write(groups / "cgroup", "0::/")
    write(groups / "cpu.max", "3200000 100000")
    assert cores.count_cores() == 8


def test_the_processes_of_a_machine_divide_its_cores(groups, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert cores.count_cores_of_process() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert cores.count_cores_of_process() == 1


@pytest.mark.parametrize(
    ("own", "quota", "share"),
    [
        (12, 96, 12),  # bound to cores of its own
        (96, 96, 12),  # not bound
        (48, 96, 12),  # bound to a socket, with three others
        (4, 96, 4),  # bound to fewer than its share
        (96, 48, 6),  # of a node on which the job has 48
    ],
)
def test_tasks_of_slurm_count_their_cores_once(groups, monkeypatch, own, quota, share):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(own)))
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", str(quota))
    assert cores.count_cores_of_process() == min(own, quota)  # in the batch script
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "8(x2),4")
    assert cores.count_cores_of_process() == share
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # torchrun in the task
    assert cores.count_cores_of_process() == own // 2


@pytest.mark.parametrize(
    ("environment", "added"),
    [
        ({}, {"GOMP_SPINCOUNT": str(cores.SPINS)}),
        ({"GOMP_SPINCOUNT": "7"}, {}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {}),
    ],
)
def test_how_threads_wait_is_only_set_where_the_user_does_not_say(environment, added):
    changed = dict(environment)
    cores.limit_spinning(changed)
    assert changed == environment | added

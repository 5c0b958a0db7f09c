"""How many cores this process may use, and how its threads wait for one another.

Whatever chooses a number of threads or of processes asks here, so that the affinity of the process
(taskset, Slurm) and a CPU quota (a container, systemd) hold for all of it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path

PROCESS_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
SPINS = 6000  # about 0.2 ms; `benchmarks/busy.py` compares numbers


def count_cores() -> int:
    """Return the number of cores of the affinity, or of the CPU quota where that is less.

    A quota of 1.5 cores counts as 2: with one thread a third of it would be lost.
    """
    cores = len(os.sched_getaffinity(0))
    for quota in _list_quotas():
        cores = min(cores, math.ceil(quota))
    return cores


def count_cores_of_process() -> int:
    """Return this training process's share of the cores, which those of its machine divide.

    torchrun's processes share the affinity of the node's one task. Each task that srun starts may
    be bound to cores of its own, which are then its share already, or to more, such as a socket. A
    batch script itself is alone, whatever its job asks for. SLURM_STEP_TASKS_PER_NODE: "8(x2),4".
    """
    own = count_cores()
    if "LOCAL_WORLD_SIZE" in os.environ:
        return max(1, own // int(os.environ["LOCAL_WORLD_SIZE"]))
    tasks = int(re.split(r"[(,]", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))[0])
    of_node = int(os.environ.get("SLURM_CPUS_ON_NODE", own))
    return max(1, min(own, of_node // tasks))


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Make a thread of GNU OpenMP that waits for others sleep after SPINS turns of its loop.

    By default it takes 300,000. While another program uses a core, each of the many short
    computations of a step can then waste milliseconds of the cores that are left. Sleeping at once
    would cost a fifth of the speed where no other program runs. OpenMP reads this when torch is
    imported. What the user has set stays. No result depends on it.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", str(SPINS))


def _list_quotas() -> Iterator[float]:
    """Yield the CPU quotas in cores, above 0, of the process's control groups and those above them.

    A group of a container may be mounted at the root, under a path that only its host knows.
    Reference: cgroups(7) of Linux, versions 1 and 2.
    """
    try:
        lines = PROCESS_GROUPS.read_text().splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            if not controllers:
                yield from _read_quota(GROUPS / folder, "cpu.max")
            elif "cpu" in controllers.split(","):
                yield from _read_quota(
                    GROUPS / "cpu" / folder, "cpu.cfs_quota_us", "cpu.cfs_period_us"
                )


def _read_quota(folder: Path, *names: str) -> Iterator[float]:
    """Yield the quota in cores that files hold as "<microseconds> <period>", if there is one."""
    try:
        words = " ".join((folder / name).read_text() for name in names).split()
    except OSError:
        return
    if len(words) == 2 and words[0] not in ("max", "-1"):
        yield int(words[0]) / int(words[1])

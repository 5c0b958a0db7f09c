"""A cluster of two machines, which are both this one: sbatch, srun, scontrol and scancel.

A job runs while it is submitted, so `sbatch` returns when it has ended. Its processes are real, and
have the variables that Slurm sets. What the scripts of `examples/slurm/` do not use is refused.

The folder $SLURM_TOY has, of each job, how it ended (`<job>.state`), the process of its batch
script (`<job>.pid`), those of its step (`<job>.step`) and the wish to run again (`<job>.requeue`).
Of a task of an array, <job> is 7_0.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["SLURM_TOY"])
NODES = "127.0.0.[1-2]"
DEFAULTS = {"nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "1", "array": ""}
SBATCH = {*DEFAULTS, "ntasks", "gpus-per-node", "time", "job-name", "output", "open-mode"}
SBATCH |= {"signal", "requeue", "parsable", "dependency", "kill-on-invalid-dep"}


def fail(message: str) -> None:
    sys.exit(f"{sys.argv[1]}: error: {message}")


def read_options(words: list[str], known: set[str]) -> tuple[dict[str, str], list[str]]:
    """Return {name: value} of the options before the first other word, and what follows them."""
    options = {}
    rest = list(words)
    while rest and rest[0].startswith("--"):
        name, _, value = rest.pop(0)[2:].partition("=")
        if name not in known:
            fail(f"unrecognized option '--{name}'")
        options[name] = value
    return options, rest


def read_directives(script: Path) -> list[str]:
    """Return the options in the #SBATCH lines, which end with the first command."""
    words = []
    for line in script.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if line.startswith("#SBATCH "):
            words += shlex.split(line)[1:]
    return words


def list_hosts(nodes: str) -> list[str]:
    """Return the machines of "127.0.0.[1-2]" or "127.0.0.1"."""
    name, first, last = re.fullmatch(r"([^[]+)(?:\[(\d+)-(\d+)\])?", nodes).groups()
    if first is None:
        return [name]
    return [f"{name}{number}" for number in range(int(first), int(last) + 1)]


# sbatch. ------------------------------------------------------------------------------------------


def sbatch(words: list[str]) -> int:
    given, (script, *arguments) = read_options(words, SBATCH)
    written, _ = read_options(read_directives(Path(script)), SBATCH)
    options = DEFAULTS | written | given
    number = 1 + len(list(STATE.glob("*.job")))
    (STATE / f"{number}.job").write_text(shlex.join([script, *arguments]))
    tasks: list[int | None] = [None]
    if options["array"]:
        first, _, last = options["array"].partition("%")[0].partition("-")
        tasks = list(range(int(first), int(last or first) + 1))
    can_start = is_satisfied(options.get("dependency", ""))
    for task in tasks:
        variables = {"SLURM_JOB_ID": str(number), **describe(options)}
        name = str(number)
        if task is not None:
            name = f"{number}_{task}"
            variables["SLURM_JOB_ID"] = str(number * 100 + task)
            variables["SLURM_ARRAY_JOB_ID"] = str(number)
            variables["SLURM_ARRAY_TASK_ID"] = str(task)
            variables["SLURM_ARRAY_TASK_COUNT"] = str(len(tasks))
        state = "CANCELLED"
        if can_start:
            state = run_job(name, [script, *arguments], options, variables)
        (STATE / f"{name}.state").write_text(state)
    print(number)
    return 0


def is_satisfied(dependency: str) -> bool:
    """Return whether the jobs of afterok:1:2 or afterany:1 ended as it asks."""
    if not dependency:
        return True
    kind, *numbers = dependency.split(":")
    states = []
    for number in numbers:
        paths = [*STATE.glob(f"{number}.state"), *STATE.glob(f"{number}_*.state")]
        if not paths:
            fail("Job dependency problem")
        states += [path.read_text() for path in paths]
    return kind == "afterany" or (kind == "afterok" and set(states) == {"COMPLETED"})


def describe(options: dict[str, str]) -> dict[str, str]:
    """Return the variables of a job. Each machine has one GPU, however many are asked for."""
    nodes = NODES if options["nodes"] == "2" else list_hosts(NODES)[0]
    return {
        "SLURM_NNODES": options["nodes"],
        "SLURM_NTASKS_PER_NODE": options["ntasks-per-node"],
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_SUBMIT_DIR": os.getcwd(),
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }


def run_job(name: str, words: list[str], options: dict[str, str], variables: dict[str, str]) -> str:
    """Run a batch script, again while it asks for it, and return how it ended."""
    spooled = STATE / f"{name}.script"  # Slurm runs a copy, so $0 is elsewhere
    spooled.write_text(Path(words[0]).read_text())
    if "requeue" in options:
        (STATE / f"{name}.requeueable").touch()
    wish = STATE / f"{name}.requeue"
    for restarts in itertools.count():
        environment = {**os.environ, **variables, "SLURM_TOY_JOB": name}
        if restarts:
            environment["SLURM_RESTART_COUNT"] = str(restarts)
        with (STATE / f"{name}.log").open("a") as log:
            command = ["bash", str(spooled), *words[1:]]
            batch = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            (STATE / f"{name}.pid").write_text(str(batch.pid))
            status = batch.wait()
        if not wish.exists():
            return "FAILED" if status else "COMPLETED"
        wish.unlink()
    raise AssertionError


# srun, scancel, scontrol. -------------------------------------------------------------------------


def srun(words: list[str]) -> int:
    """Start the tasks of a step. SIGTERM to srun itself kills them, as that of Slurm does."""
    hosts = list_hosts(os.environ["SLURM_JOB_NODELIST"])
    of_node = int(os.environ["SLURM_NTASKS_PER_NODE"])
    step = {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(len(hosts) * of_node),
        "SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"],
        "SLURM_STEP_TASKS_PER_NODE": f"{of_node}(x{len(hosts)})",
    }
    tasks: list[subprocess.Popen[bytes]] = []
    for node, host in enumerate(hosts):
        for local in range(of_node):
            task = {"SLURM_NODEID": str(node), "SLURMD_NODENAME": host}
            task |= {"SLURM_PROCID": str(len(tasks)), "SLURM_LOCALID": str(local)}
            tasks.append(subprocess.Popen(words, env={**os.environ, **step, **task}))

    def terminate(number: int, frame: object) -> None:
        for one in tasks:
            one.kill()

    signal.signal(signal.SIGTERM, terminate)
    pids = " ".join(str(task.pid) for task in tasks)
    (STATE / f"{os.environ['SLURM_TOY_JOB']}.step").write_text(pids)
    statuses = [task.wait() for task in tasks]
    return max(status if status >= 0 else 128 - status for status in statuses)


def scancel(words: list[str]) -> int:
    """Send a signal to all processes of the step of a job, and not to its batch script."""
    options, (job,) = read_options(words, {"signal"})
    number = signal.Signals[f"SIG{options['signal']}"]
    for pid in (STATE / f"{job}.step").read_text().split():
        for one in [int(pid), *list_descendants(int(pid))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)
    return 0


def list_descendants(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(child) for child in path.read_text().split()] if path.exists() else []
    return children + [below for child in children for below in list_descendants(child)]


def scontrol(words: list[str]) -> int:
    if words[:2] == ["show", "hostnames"]:
        print(*list_hosts(words[2]), sep="\n")
        return 0
    verb, job = words
    if verb != "requeue" or not (STATE / f"{job}.requeueable").exists():
        fail("Requested operation is presently disabled")
    (STATE / f"{job}.requeue").touch()
    return 0


if __name__ == "__main__":
    commands = {"sbatch": sbatch, "srun": srun, "scancel": scancel, "scontrol": scontrol}
    sys.exit(commands[sys.argv[1]](sys.argv[2:]))

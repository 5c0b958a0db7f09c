"""The drill's helpers: commands that are killed, trees that are compared, and what is counted."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from toys.audits import make_rows
from toys.models import write_media
from toys.project import QUICK, ROOT, TESTS

NOT_COMPARED = {"logs", ".git", ".dvc", "tmp"}  # what has times in it, and what is not ours
TIMEOUT = 600.0  # s
SETS = [word for change in QUICK for word in ("--set", change)]
UMEMMA = [sys.executable, "-m", "umemma"]
ALWAYS = [*SETS, "--set", "machine.checkpoint=0"]  # a checkpoint after every step


COMPARE = ["--set", "compare.presets=[ume, ume-mma]", "--set", "compare.seeds=[0]"]
PREDICT = [
    "--model",
    "models/digits/ensemble",
    "--manifest",
    "rows.csv",
    "--out",
    "answers.parquet",
]
COMMANDS = {
    "preprocess": [*UMEMMA, "preprocess", "--workers", "2", *SETS],
    "pretrain-unimodal": [*UMEMMA, "pretrain-unimodal", "--modality", "image", *ALWAYS],
    "finetune-ensemble": [*UMEMMA, "finetune-ensemble", *ALWAYS],
    "evaluate-missing": [*UMEMMA, "evaluate-missing", *SETS],
    "compare": [*UMEMMA, "compare", *SETS, *COMPARE],
    "predict": [*UMEMMA, "predict", *PREDICT],
}

# Commands that are not killed: they take seconds, and begin again.
CORRUPTED = ["--modality", "image", "--kind", "noise", "--severity", "1"]
OTHERS = {
    "init": [*UMEMMA, "init", "digits", "--yes"],
    "download": [*UMEMMA, "download", "digits"],
    "doctor": [*UMEMMA, "doctor", "digits"],
    "verify": [*UMEMMA, "verify", *SETS],
    "export": [*UMEMMA, "export", *SETS],
    "audit": [*UMEMMA, "audit", "answers.csv"],
    "protocol": [*UMEMMA, "protocol", "--ratio", "audio=0.3", "--write-masks", "m.csv", *SETS],
    "evaluate-corrupted": [*UMEMMA, "evaluate-corrupted", *CORRUPTED, *SETS],
    "card": [*UMEMMA, "card", "models/digits/ensemble", *SETS],
    "leaderboard": [*UMEMMA, "leaderboard", "results/digits"],
}
EVALUATED = ("protocol", "evaluate-corrupted", "card", "leaderboard")  # what comes after it
READING = {"doctor", "verify"}  # these write nothing
ALL_COMMANDS = {**COMMANDS, **OTHERS}


def start(folder: Path, command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, with a folder for temporary files."""
    (folder / "tmp").mkdir(exist_ok=True)
    # What a script runs in the background ignores Ctrl-C, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    variables = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder / "tmp"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **environment,
    }
    return subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder: Path, command: list[str]) -> str:
    """Run a command that has to succeed, and return what it printed."""
    with start(folder, command) as process:
        printed, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, printed
    return printed


def kill(process: subprocess.Popen[str], whole_group: bool) -> bool:
    """Kill the process with -9, or its whole group, as a machine that fails does.

    Returns whether it was still running. Waits until its children have ended as well.
    """
    was_running = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.communicate(timeout=TIMEOUT)  # the children have its pipe
    return was_running


def read_tree(folder: Path, without: Iterable[str] = NOT_COMPARED) -> dict[str, bytes]:
    """Return {path: bytes} of all files; of those in runs/ the names only, as they have times."""
    tree = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] not in without:
            tree["/".join(parts)] = b"" if parts[0] == "runs" else path.read_bytes()
    return tree


def list_leftovers(folder: Path) -> list[str]:
    """Return what is left in the folder of temporary files, and our files of shared memory.

    They are those of any process of this machine: run the drill alone.
    """
    left = [str(path) for path in (folder / "tmp").rglob("*") if path.is_file()]
    shared = Path("/dev/shm")
    for pattern in ("torch_*", "sem.umemma-*"):
        left += [str(path) for path in shared.glob(pattern)]
    return left


def mend_lock_of_dvc(folder: Path) -> bool:
    """Remove DVC's lock where a kill left it half-written, as DVC's message says; return whether.

    Nothing else of DVC's has to be mended by hand.
    """
    lock = folder / ".dvc/tmp/rwlock"
    try:
        json.loads(lock.read_text())
    except FileNotFoundError:
        return False
    except ValueError:
        lock.unlink()
        return True
    return False


def choose_moments(
    seed: int, count: int, seconds: float, reach: tuple[float, float] = (0.3, 1.05)
) -> list[float]:
    """Return `count` moments of a command that takes `seconds`.

    reach: the shares of them between which the moments are; most are after the imports.
    """
    chance = random.Random(seed)
    return [chance.uniform(*reach) * seconds for _ in range(count)]


def measure(folder: Path, command: list[str]) -> float:
    """Run a command to its end, and return how many seconds it took."""
    started = time.monotonic()
    finish(folder, command)
    return time.monotonic() - started


def prepare(folder: Path, name: str) -> None:
    """Bring a project with shards and uni-modal models to where the command is the next."""
    shutil.copy(ROOT / "recipes/digits.yaml", folder / "params.yaml")
    if name == "preprocess":
        shutil.rmtree(folder / "data/shards")
    if name == "pretrain-unimodal":
        shutil.rmtree(folder / "models/digits/pretrain/image")
    if name in ("evaluate-missing", "predict", "export", *EVALUATED):
        finish(folder, COMMANDS["finetune-ensemble"])
    if name in EVALUATED:
        finish(folder, COMMANDS["evaluate-missing"])
    if name == "init":
        (folder / "params.yaml").unlink()
    if name == "download":
        shutil.rmtree(folder / "data")
    if name == "audit":
        pyarrow.csv.write_csv(pa.Table.from_pylist(make_rows()), folder / "answers.csv")
    if name == "predict":
        write_media(folder)
        rows = ["x.wav,x.png", "quiet.wav,x.png", "x.wav,", "missing.wav,x.png"] * 100
        (folder / "rows.csv").write_text("\n".join(["audio,image", *rows]) + "\n")


def compare(folder: Path, expected: dict[str, bytes]) -> list[str]:
    """Return the files that differ from an undisturbed run, and what is left over."""
    found = read_tree(folder)
    names = sorted(found.keys() | expected.keys())
    differing = [name for name in names if found.get(name) != expected.get(name)]
    return [*differing, *list_leftovers(folder)]

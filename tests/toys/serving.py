"""A model with a modality of nearly every kind, as a server of its own, and a browser."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from toys.models import save_model
from toys.project import ROOT
from umemma.models.predictor import Predictor
from umemma.serving import server
from umemma.serving.app import make_app
from umemma.serving.limits import Limits

EVIL = "<img src=x onerror=alert(1)>"
CLASSES = ["cat", "dog", EVIL]
PRIOR = (0.5, 0.3, 0.2)
MOMENTS = {"mean": [0.0, 0.0], "std": [1.0, 1.0]}
INPUTS = {
    "chart": {
        "numbers": [{"name": "age", "mean": 50.0, "std": 10.0}],
        "categories": [{"name": "ward", "values": ["north", "south"]}],
    },
    "scan": {"width": 2, **MOMENTS},
    "wrist": {"channels": 2, "rate": 50.0, "steps": 16, **MOMENTS},
}
ENCODERS = {
    "chart": {"name": "mlp:small", "kind": "table"},
    "scan": {"name": "mlp:small", "kind": "vector"},
    "wrist": {"name": "series:tcn", "kind": "series"},
}


def save_wide_model(folder: Path) -> Path:
    """Save a model that was never trained, with six modalities."""
    names = "audio+chart+image+scan+text+wrist"
    return save_model(folder, names, prior=PRIOR, inputs=INPUTS, classes=CLASSES, **ENCODERS)


@contextlib.contextmanager
def start_command(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `umemma serve` as a process; yield it and its address. It is killed if it still runs."""
    command = [sys.executable, "-m", "umemma", "serve", *words, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"http://\S+", line):
                    break
            assert found, "".join(lines)
            yield process, found[0]
        finally:
            process.kill()


@contextlib.contextmanager
def start_thread(model: Predictor, limits: Limits, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve a model in a thread of this process; yield the address."""
    listener = server.listen(host, 0)
    address = server.get_address(listener)
    running = server.make_server(make_app(model, limits, host))
    thread = threading.Thread(target=running.run, args=([listener],))
    thread.start()
    try:
        while not running.started:
            time.sleep(0.01)
        yield address
    finally:
        running.should_exit = True
        thread.join()

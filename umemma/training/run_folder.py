"""The folder of a training in progress: checkpoints to resume from, and the metrics so far.

runs/<dataset>/<name>/ holds the last few `step-000001200.safetensors`, each with everything that
the next step depends on in one file (tensors, and JSON in its header), and metrics.csv (step,
epoch, split, name, value). A checkpoint is written to a temporary file, synced and renamed, so that
neither a kill nor a full disk harms the previous one. It has a checksum, since training would go on
from a weight that a disk has altered without a word. Nothing here is unpickled.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from loguru import logger
from safetensors import SafetensorError, safe_open
from torch import Tensor

from umemma._version import __version__
from umemma.config import Machine
from umemma.models import saved_model
from umemma.system import distributed
from umemma.system.files import new_file, remove_leftovers, save_tensors
from umemma.system.trackers import Point, Tracker, open_tracker
from umemma.validation import fingerprint

METRICS = "metrics.csv"


class MetricRow(NamedTuple):
    """One number of the course of a training."""

    step: int
    epoch: int
    split: str
    name: str
    value: float


@dataclass
class TrainingState:
    """How far a training has come: the part of a checkpoint that is not tensors.

    epoch: in progress, from 1; batch: how many batches of the epoch are done; step: how many steps
    are done; total: the sum of the losses of this epoch, for each process; best, best_epoch: as
    EarlyStopping has them (score and -loss); scaler: the state of the gradient scaler; figures: the
    metrics so far. The names are the keys of the JSON in a checkpoint.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    total: list[float] = field(default_factory=lambda: [0.0])
    best: list[float] = field(default_factory=lambda: [-math.inf, -math.inf])
    best_epoch: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    figures: list[MetricRow] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the state as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrainingState:
        """Return the state that `to_json` wrote."""
        state = cls(**json.loads(text))
        state.figures = [MetricRow(*row) for row in state.figures]
        return state


class Checkpoint(NamedTuple):
    """Everything that the next step depends on."""

    tensors: dict[str, Tensor]
    state: TrainingState


class Run:
    """Checkpoints and metrics of one training. Only the main process writes.

    input_hash: the fingerprint of all settings; a checkpoint with another one is ignored. keep: how
    many checkpoints to keep; seconds: between two checkpoints; tracker: gets the metrics too.
    """

    def __init__(
        self,
        folder: Path,
        input_hash: str,
        *,
        keep: int = 2,
        seconds: float = 60.0,
        tracker: Tracker | None = None,
    ) -> None:
        self.folder = folder
        self.input_hash = input_hash
        self.keep = keep
        self.seconds = seconds
        self.last_checkpoint_time = time.monotonic()
        self.tracker = tracker

    @classmethod
    def from_settings(
        cls,
        folder: Path,
        name: str,
        settings: Mapping[str, Any],
        started_from: Mapping[str, str],
        machine: Machine,
        tracker: str = "",
    ) -> Run:
        """Return the run `name` of a training with `settings`, in a folder of its own.

        started_from: checksums of the weights that the training starts from. Other settings or
        other weights have another folder. tracker: the name of one, "" for none.
        """
        # A checkpoint of other code may not fit.
        code = {
            "umemma": __version__,
            "format": saved_model.FORMAT,
        }
        inputs = {**settings, "started_from": dict(started_from), **code}
        input_hash = fingerprint(inputs)
        own = folder / f"{name}-{input_hash[:8]}"
        return cls(
            own,
            input_hash,
            keep=machine.keep,
            seconds=machine.checkpoint,
            tracker=open_tracker(tracker, own, folder.name, own.name, inputs),
        )

    def is_checkpoint_due(self) -> bool:
        """Whether it is time for a checkpoint, by the clock of the main process."""
        if not distributed.is_main():
            return False
        return time.monotonic() - self.last_checkpoint_time >= self.seconds

    def load_latest_checkpoint(self) -> Checkpoint | None:
        """Return the newest undamaged checkpoint of these settings, None if there is none."""
        for path in reversed(self._list_checkpoints()):
            try:
                checkpoint = self._read_checkpoint(path)
            except (SafetensorError, OSError, KeyError, ValueError, TypeError):
                logger.warning(f"{path} is damaged; the previous checkpoint is used instead.")
                if distributed.is_main():
                    path.unlink(missing_ok=True)  # a damaged one does not count as one of `keep`
                continue
            if checkpoint is not None:
                return checkpoint
        return None

    def _read_checkpoint(self, path: Path) -> Checkpoint | None:
        """Return the checkpoint at `path`, None if it is one of other settings."""
        with safe_open(path, "pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        checksum = about.pop("checksum")
        if checksum != _compute_checksum(tensors, about):
            raise ValueError("not the bytes that were written")
        if about["made_from"] != self.input_hash:
            return None
        return Checkpoint(tensors, TrainingState.from_json(about["state"]))

    def save_checkpoint(self, tensors: Mapping[str, Tensor], state: TrainingState) -> None:
        """Write a checkpoint, and remove the oldest ones.

        If it cannot be written, a warning is logged, and the previous checkpoint stays.
        """
        self.last_checkpoint_time = time.monotonic()
        if not distributed.is_main():
            return
        about = {"made_from": self.input_hash, "state": state.to_json()}
        remove_leftovers(self.folder)
        try:
            with new_file(self.folder / f"step-{state.step:09}.safetensors") as temporary:
                # Tied tensors are copied apart, as safetensors refuses shared memory.
                copies = {}
                for name, x in tensors.items():
                    copies[name] = x.detach().to("cpu", copy=True).contiguous()
                about["checksum"] = _compute_checksum(copies, about)
                save_tensors(copies, temporary, about)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
        except (OSError, SafetensorError) as error:
            logger.warning(
                f"No checkpoint at step {state.step}: {error}. Training continues; the previous "
                "checkpoint is kept."
            )
            return
        for path in self._list_checkpoints()[: -self.keep]:
            path.unlink(missing_ok=True)

    def start_metrics(self, rows: Iterable[MetricRow]) -> None:
        """Create metrics.csv, with the rows that a resumed training already has."""
        if not distributed.is_main():
            return
        rows = list(rows)
        if self.tracker is not None:
            self.tracker.add(_list_points(rows))
        try:
            with new_file(self.folder / METRICS) as temporary:
                temporary.write_text(format_csv(rows), encoding="utf-8")
        except OSError as error:
            logger.warning(f"Cannot write metrics to {self.folder}: {error}")

    def append_metrics(
        self, rows: Iterable[MetricRow], speed: Mapping[str, float] | None = None
    ) -> None:
        """Add rows to metrics.csv and to the tracker.

        speed: numbers about the machine, which only the tracker gets.
        """
        if not distributed.is_main():
            return
        rows = list(rows)
        path = self.folder / METRICS
        # A full disk must not end the training.
        with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(format_csv(rows, header=False))
        if self.tracker is not None and rows:
            step = rows[-1].step
            numbers = [Point(f"machine/{name}", x, step) for name, x in (speed or {}).items()]
            self.tracker.add(_list_points(rows), numbers)

    def finish(self) -> None:
        """Remove the checkpoints, once the trained model is saved elsewhere."""
        if distributed.is_main():
            for path in self._list_checkpoints():
                path.unlink(missing_ok=True)
        if self.tracker is not None:
            self.tracker.finish()

    def _list_checkpoints(self) -> list[Path]:
        """Return the paths of the checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.safetensors"))


def _compute_checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Return the SHA-256 checksum of everything in a checkpoint but itself."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {x.dtype} {list(x.shape)}".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def format_csv(rows: Iterable[MetricRow], header: bool = True) -> str:
    """Return the rows as CSV text."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if header:
        writer.writerow(MetricRow._fields)
    writer.writerows(rows)
    return file.getvalue()


def _list_points(rows: Iterable[MetricRow]) -> list[Point]:
    return [Point(f"{row.split}/{row.name}", row.value, row.step) for row in rows]

"""A training under way, on disk: checkpoints to go on from, and the figures so far.

runs/<dataset>/<what>/ holds the last few `step-000001200.safetensors`, each with everything that the next step depends on
in one file (tensors, and JSON in its header), and metrics.csv (step, epoch, split, name, value). A checkpoint is written
aside, synced and renamed, so that neither a kill nor a full disk harms the one before it. Nothing here is unpickled.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loguru import logger
from safetensors import SafetensorError, safe_open
from torch import Tensor

from umemma._version import __version__
from umemma.config import Machine
from umemma.errors import UserError
from umemma.models import saved_model
from umemma.system import distributed
from umemma.system.files import new_file, save_tensors, sweep
from umemma.validation import fingerprint

Figure = tuple[int, int, str, str, float]  # step, epoch, split, name, value
METRICS = "metrics.csv"


class Run:
    """made_from: the fingerprint of all settings; a checkpoint with another one is no use. keep: so many checkpoints;
    seconds: between two of them; tensorboard: the figures as its events too. Only the main process writes."""

    def __init__(
        self,
        folder: Path,
        made_from: str,
        *,
        keep: int = 2,
        seconds: float = 60.0,
        tensorboard: bool = False,
    ) -> None:
        self.folder, self.made_from, self.keep, self.seconds = folder, made_from, keep, seconds
        self.saved = time.monotonic()
        self.board = _board(folder) if tensorboard else None

    @classmethod
    def of(
        cls,
        folder: Path,
        name: str,
        settings: Mapping[str, Any],
        started_from: Mapping[str, str],
        machine: Machine,
        tensorboard: bool,
    ) -> Run:
        """The run `name` of a training with `settings` that starts from weights with these checksums; others have folders
        of their own."""
        code = {
            "umemma": __version__,
            "format": saved_model.FORMAT,
        }  # a checkpoint of other code may not fit
        made_from = fingerprint({**settings, "started_from": dict(started_from), **code})
        place = folder / f"{name}-{made_from[:8]}"
        return cls(
            place, made_from, keep=machine.keep, seconds=machine.checkpoint, tensorboard=tensorboard
        )

    def due(self) -> bool:
        """Whether it is time for a checkpoint, by the main process's clock."""
        return distributed.is_main() and time.monotonic() - self.saved >= self.seconds

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and the state of the newest checkpoint that is whole, if there is any."""
        for path in reversed(self._checkpoints()):
            try:
                with safe_open(path, "pt") as file:
                    about = file.metadata() or {}
                    if about.get("made_from") != self.made_from:
                        continue
                    return {name: file.get_tensor(name) for name in file.keys()}, json.loads(
                        about["state"]
                    )  # noqa: SIM118
            except (SafetensorError, OSError, KeyError, ValueError):
                logger.warning(f"{path} is damaged; the checkpoint before it is taken")
                if distributed.is_main():
                    path.unlink(missing_ok=True)  # it isn't one of the last few
        return None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """A new checkpoint. Where it can't be written the training goes on, and the previous one stays."""
        self.saved = time.monotonic()
        if not distributed.is_main():
            return
        about = {"made_from": self.made_from, "state": json.dumps(state)}
        sweep(self.folder)
        try:
            with new_file(self.folder / f"step-{step:09}.safetensors") as aside:
                apart = {
                    name: x.detach().to("cpu", copy=True).contiguous()
                    for name, x in tensors.items()
                }  # tied ones too
                save_tensors(apart, aside, about)
                with aside.open("rb") as file:
                    os.fsync(file.fileno())
        except (OSError, SafetensorError) as error:
            logger.warning(
                f"No checkpoint at step {step}: {error}. Training goes on; the previous one stays."
            )
            return
        for path in self._checkpoints()[: -self.keep]:
            path.unlink(missing_ok=True)

    def begin(self, figures: Iterable[Figure]) -> None:
        """Start metrics.csv with the figures that there are already."""
        if distributed.is_main():
            try:
                with new_file(self.folder / METRICS) as aside:
                    aside.write_text(as_csv(figures), encoding="utf-8")
            except OSError as error:
                logger.warning(f"No figures in {self.folder}: {error}")

    def record(self, figures: Iterable[Figure], speed: Mapping[str, float] | None = None) -> None:
        """Add to metrics.csv, and to TensorBoard; speed: figures of the machine, which go to the latter only."""
        if not distributed.is_main():
            return
        figures = list(figures)
        with (
            contextlib.suppress(OSError),
            (self.folder / METRICS).open("a", encoding="utf-8") as file,
        ):  # a full disk
            file.write(as_csv(figures, header=False))
        if self.board:
            for step, _, split, name, value in figures:
                self.board.add_scalar(f"{split}/{name}", value, step)
            for name, value in (speed or {}).items():
                self.board.add_scalar(f"machine/{name}", value, figures[-1][0] if figures else 0)
            self.board.flush()

    def end(self) -> None:
        """The result is saved elsewhere: the checkpoints have done their duty."""
        if distributed.is_main():
            for path in self._checkpoints():
                path.unlink(missing_ok=True)
        if self.board:
            self.board.close()

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))


def as_csv(figures: Iterable[Figure], header: bool = True) -> str:
    """The figures as CSV text, a row each."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([("step", "epoch", "split", "name", "value")] if header else [])
    writer.writerows(figures)
    return file.getvalue()


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "TensorBoard isn't installed", "--tensorboard", "Run: pip install 'umemma[tensorboard]'"
        ) from None
    return SummaryWriter(str(folder)) if distributed.is_main() else None

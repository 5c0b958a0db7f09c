"""One training loop for both trainings, in one process or many, that goes on where it was stopped.

A stage hands `fit` a step (batch -> loss) and a validation (-> figures); the loop knows nothing of modalities. The batches
are the same for any number of processes: `batch_size` counts the samples of a step over all of them, and each takes its
share. All chance belongs to the seed, the step and the sample, so nothing of it needs to be kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from loguru import logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from umemma.data.loader import Split, cut
from umemma.errors import UserError
from umemma.system import distributed
from umemma.system.log import progress
from umemma.system.seeds import derive
from umemma.system.subprocesses import STOPPED
from umemma.training.optimizer import Optimizer
from umemma.training.run_folder import Figure, Run
from umemma.types import Batch

ASK = 4  # steps between two questions to all processes; each costs a switch or two of busy cores
EVERY = 50  # steps between two figures of the loss within an epoch


def prepare(seed: int, *names: str, deterministic: bool | Literal["warn"] = True) -> torch.device:
    """Join the other processes, seed what can't be handed a generator (initial weights), ask for repeatable kernels.

    deterministic: as machine.deterministic.
    """
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # without it cuBLAS is not repeatable
    torch.use_deterministic_algorithms(bool(deterministic), warn_only=deterministic == "warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
    torch.manual_seed(derive(seed, *names))
    _hold_memory()
    return distributed.start()


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """In the block a kernel that can't repeat to the bit, where that is asked for, is a UserError that names the switch."""
    try:
        yield
    except RuntimeError as error:
        what, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not found and "CuBLAS" not in what:
            raise
        reason = f"{what} has no deterministic form" if found else "CuBLAS isn't deterministic here"
        hint = "Set machine.deterministic to warn or false: runs may then differ in rounding. Or take another encoder."
        raise UserError(reason, "machine.deterministic", hint) from error


def _hold_memory() -> None:
    """glibc gives freed memory back to the system and asks for it anew in the next step, page by page, which costs a fifth of
    a step on CPU. Tell it to hold what it has, but for blocks of more than 32 MiB (kept data): see mallopt(3)."""
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**25)


@dataclass
class State:
    """Where a training is; what of it isn't a tensor. epoch: under way, from 1; batch: how many of it are done."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    total: list[float] = field(
        default_factory=lambda: [0.0]
    )  # the sum of the losses of this epoch, by process
    best: list[float] = field(default_factory=lambda: [-math.inf, -math.inf])  # score, -loss
    best_epoch: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)


def fit(
    step: nn.Module,
    model: nn.Module,
    train: Split,
    validate: Callable[[], Mapping[str, float]],
    run: Run,
    *,
    epochs: int,
    batch_size: int,
    patience: int,
    seed: int,
    device: torch.device,
    title: str,
    micro_batch: int | None = None,
    **how: Any,
) -> list[Figure]:
    """Train `model`, a part of `step`, in place, and leave it with the weights of its best epoch on validation.

    Stops after `patience` epochs without a better score (ties: lower loss). micro_batch: samples that a process takes at a
    time, their gradients added up; how: what Optimizer takes. Returns the figures. UserError when the loss is not finite,
    for a batch size below the number of processes, and, after a checkpoint, when the process is asked to stop (SIGTERM,
    Ctrl-C).
    """
    rank, size, _ = distributed.world()
    if batch_size < size:
        hint = "Raise batch_size: it counts the samples of a step over all processes."
        raise UserError(
            f"a batch of {batch_size} leaves some of {size} processes without a sample",
            title,
            hint,
            usage=True,
        )
    steps_per_epoch = math.ceil(len(train) / batch_size)
    steps = epochs * steps_per_epoch
    optimizer = Optimizer(model, steps=steps, device=device, **how)

    # 1. Go on from the last checkpoint, or begin.
    state = State()
    found = run.latest()
    if len(set(distributed.everyone(found and found[1]["step"]))) > 1:
        raise UserError(
            "the processes find different checkpoints",
            str(run.folder),
            "They have to share its disk.",
        )
    if found:
        state = State(**found[1])
        state.total = _mine(state.total)
        optimizer.restore(found[0], state.scaler)
        logger.info(f"{title}: goes on from step {state.step} in epoch {state.epoch}")
    run.begin(state.figures)
    forward = step
    if size > 1:
        some = np.arange(min(len(train), batch_size // size, micro_batch or batch_size))
        forward = _spread(step, next(train.batches([some], device, seed)))
    asked: list[Callable[[], list[float]]] = []  # of all processes
    generator = (
        torch.cuda.default_generators[device.index]
        if device.type == "cuda"
        else torch.default_generator
    )
    pending = torch.zeros(
        (), dtype=torch.float64, device=device
    )  # losses that only the device knows yet

    with progress() as bars, _stop_signals() as signals:
        bar = bars.add_task(title, total=steps, completed=state.step, note="")
        while state.epoch <= epochs and state.epoch - state.best_epoch <= patience:
            # 2. Train: every sample once, in an order that the seed and the epoch decide.
            model.train()
            order = np.random.default_rng(derive(seed, "order", state.epoch)).permutation(
                len(train)
            )
            plan = cut(order, batch_size)[state.batch :]
            shares = [chunk[rank::size] if rank < len(chunk) else chunk[:1] for chunk in plan]
            parts = [cut(share, micro_batch or batch_size) for share in shares]
            batches = train.batches(
                [one for own in parts for one in own], device, derive(seed, "epoch", state.epoch)
            )
            begun, waited, samples = time.perf_counter(), 0.0, 0
            for chunk, own in zip(plan, parts, strict=True):
                losses = torch.zeros((), dtype=torch.float64, device=device)
                for number, part in enumerate(own):
                    before = time.perf_counter()
                    batch = next(batches)
                    waited += time.perf_counter() - before
                    generator.manual_seed(derive(seed, "dropout", state.step, rank, number))
                    weight = (
                        len(part) / len(chunk) if rank < len(chunk) else 0.0
                    )  # no share: takes part for nothing
                    alone = (
                        size == 1 or number == len(own) - 1
                    )  # else gradients are exchanged once, with the last part
                    with contextlib.nullcontext() if alone else forward.no_sync():  # type: ignore[operator]
                        loss = forward(batch)
                        optimizer.backward(loss * (weight * size))
                    losses += loss.detach() * (weight * len(chunk))
                optimizer.step(state.step)
                state.step, state.batch, samples = (
                    state.step + 1,
                    state.batch + 1,
                    samples + len(chunk),
                )
                bars.advance(bar)

                # 3. Account for it, and see to signals and checkpoints. A GPU is only waited for now and then.
                pending += losses
                shown = state.step % EVERY == 0
                if shown or state.batch == steps_per_epoch or device.type == "cpu":
                    _fold(state, pending)
                if shown:
                    value = sum(distributed.everyone(float(losses))) / len(chunk)
                    _note(state, run, {("train", "batch_loss"): value})
                over, told = state.batch == steps_per_epoch, [0.0, 0.0, 0.0]
                if size == 1 or over or state.step % ASK == 0:
                    now = [
                        signals[0] if signals else 0,
                        not math.isfinite(state.total[0]),
                        run.due(),
                    ]
                    asked.append(distributed.largest(now))
                while asked and (
                    size == 1 or over or len(asked) > 1
                ):  # several answer while the next steps are made
                    told = [max(pair) for pair in zip(told, asked.pop(0)(), strict=True)]
                stop, lost, due = told
                if lost:
                    hint = f"The learning rate there is {optimizer.rate:.2g}: lower it, or look for bad input."
                    raise UserError(f"the loss is not finite at step {state.step}", title, hint)
                if stop or due:
                    _fold(state, pending)
                    _save(state, optimizer, run)
                if stop:
                    raise _stopped(int(stop), state, title)
            seconds = time.perf_counter() - begun

            # 4. Validate, and keep the weights if they are the best so far.
            figures, better = optimizer.validated(validate, state.best)
            if better:
                state.best, state.best_epoch = [figures["score"], -figures["loss"]], state.epoch
            loss = sum(distributed.everyone(state.total[0])) / len(train)
            machine = {
                "samples_per_s": samples / seconds,
                "data_wait": waited / seconds,
                "peak_gib": _peak(device),
            }
            _note(
                state,
                run,
                {("train", "loss"): loss} | {("val", n): x for n, x in figures.items()},
                machine,
            )
            note = f"loss {loss:.3f}  val {figures['score']:.1%}  {machine['samples_per_s']:,.0f}/s"
            bars.update(bar, note=note)
            wait = f"{machine['data_wait']:.0%} of the time waiting for data, peak {machine['peak_gib']:.2f} GiB"
            logger.debug(f"{title}: epoch {state.epoch}: {note}, {wait}")
            state.epoch, state.batch, state.total = state.epoch + 1, 0, [0.0]
        bars.update(bar, total=state.step)
        (stop,) = distributed.largest([signals[0] if signals else 0])()
        if stop:  # while it validated the last time
            _save(state, optimizer, run)
            raise _stopped(int(stop), state, title)
    model.load_state_dict(optimizer.best)
    logger.info(
        f"{title}: best of {state.epoch - 1} epochs is {state.best_epoch}, val score {state.best[0]:.1%}"
    )
    return state.figures


def _spread(step: nn.Module, batch: Batch) -> nn.Module:
    """The step over all processes. A trial shows whether parameters go unused (to look for them costs an exchange in every
    step), and lets DDP order its buckets: so a training that goes on adds up in the order of one that wasn't stopped."""
    buffers = [buffer.clone() for buffer in step.buffers()]
    step(batch).backward()
    unused = any(p.grad is None for p in step.parameters() if p.requires_grad)
    look = bool(distributed.largest([unused])()[0])
    forward = DistributedDataParallel(step, find_unused_parameters=look, broadcast_buffers=False)
    forward(batch).backward()
    step.zero_grad()
    for buffer, before in zip(step.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return forward


def _save(state: State, optimizer: Optimizer, run: Run) -> None:
    """A checkpoint of now. All processes take part."""
    tensors, state.scaler = optimizer.state()
    totals = distributed.everyone(state.total[0])
    if all(
        math.isfinite(total) for total in totals
    ):  # else the weights may be lost, which is soon found
        run.save(state.step, tensors, asdict(state) | {"total": totals})


def _stopped(number: int, state: State, title: str) -> UserError:
    what = f"stopped by {signal.Signals(number).name} at step {state.step}"
    return UserError(
        what, title, "Run the same command to go on from there.", status=STOPPED[number]
    )


def _fold(state: State, pending: Tensor) -> None:
    state.total[0] += float(pending)
    pending.zero_()


def _note(
    state: State,
    run: Run,
    values: Mapping[tuple[str, str], float],
    machine: Mapping[str, float] | None = None,
) -> None:
    """Figures of now, {(split, name): value}, into the state and onto the disk."""
    figures: list[Figure] = [
        (state.step, state.epoch, split, name, value) for (split, name), value in values.items()
    ]
    state.figures += figures
    run.record(figures, machine)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The signals to stop that have come, instead of a sudden end; Ctrl-C after that ends at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught and number == signal.SIGINT:
            raise SystemExit(STOPPED[number])
        caught.append(number)  # SIGTERM may come twice: to a process and to its group

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, note) for number in STOPPED}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mine(totals: list[float]) -> list[float]:
    """This process's of the totals that were saved; of another number of processes the main one goes on with the sum."""
    rank, size, _ = distributed.world()
    if len(totals) == size:
        return [totals[rank]]
    return [sum(totals) if rank == 0 else 0.0]


def _peak(device: torch.device) -> float:
    """GiB that the process has held at most, on its GPU or in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

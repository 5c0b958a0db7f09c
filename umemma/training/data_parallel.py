"""What the processes of a training do together: share each step, agree when to stop.

The batches are the same for any number of processes: batch_size counts the samples of a step over
all of them, and each takes its share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from umemma.data.loader import cut_batches
from umemma.errors import UserError
from umemma.system import distributed
from umemma.training.run_folder import Run
from umemma.types import Batch

POLL_INTERVAL = 4  # steps between two polls of all processes; each costs a switch of busy cores


class StepPlan(NamedTuple):
    """The samples of one step.

    total: how many samples the step has over all processes; micro_batches: the sample numbers that
    this process takes, one forward pass for each; has_share: False where there are fewer samples
    than processes and this one gets none. It then takes part with a sample of weight 0, as all
    processes exchange gradients.
    """

    total: int
    micro_batches: list[np.ndarray]
    has_share: bool


def plan_step(batch: np.ndarray, micro_batch_size: int) -> StepPlan:
    """Return what this process does of a batch (n,) of sample numbers."""
    rank, world_size, _ = distributed.world()
    has_share = rank < len(batch)
    share = batch[:1]
    if has_share:
        share = batch[rank::world_size]
    return StepPlan(len(batch), cut_batches(share, micro_batch_size), has_share)


def check_batch_size(batch_size: int, title: str) -> None:
    """Raise UserError for a batch with fewer samples than there are processes."""
    world_size = distributed.world().size
    if batch_size < world_size:
        raise UserError(
            f"a batch of {batch_size} leaves some of {world_size} processes without a sample",
            title,
            "Raise batch_size: it counts the samples of a step over all processes.",
            usage=True,
        )


def wrap_step(step: nn.Module, example: Batch) -> nn.Module:
    """Return the step wrapped in DistributedDataParallel.

    A trial run with `example` shows whether parameters go unused (looking for them costs an
    exchange in every step). A second one lets DDP order its gradient buckets, so that a resumed
    training adds up in the same order as one that was never stopped. Both leave parameters and
    buffers unchanged.
    """
    buffers = [buffer.clone() for buffer in step.buffers()]
    step(example).backward()
    has_unused = any(p.grad is None for p in step.parameters() if p.requires_grad)
    (any_has_unused,) = distributed.all_reduce_max([has_unused])()
    forward = DistributedDataParallel(
        step,
        find_unused_parameters=bool(any_has_unused),
        broadcast_buffers=False,
    )
    forward(example).backward()
    step.zero_grad()
    for buffer, before in zip(step.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return forward


class Decision(NamedTuple):
    """What all processes agreed on. stop_signal: the number of a stop signal, 0 for none."""

    stop_signal: int = 0
    has_diverged: bool = False
    is_checkpoint_due: bool = False


class Poll:
    """Asks all processes whether one of them was told to stop, has diverged or wants a checkpoint.

    Every process has to act on the same answers at the same step. Within an epoch the processes are
    polled every POLL_INTERVAL steps, and the answer is read at the next poll, so that it travels
    while steps are computed. signals: the stop signals received by this process, a list that grows.
    """

    def __init__(self, run: Run, signals: Sequence[int]) -> None:
        self.run = run
        self.signals = signals
        self._is_alone = distributed.world().size == 1
        self._pending: list[Callable[[], list[float]]] = []

    def check(self, step: int, loss_sum: float, is_epoch_end: bool) -> Decision:
        """Poll the processes after `step`, if it is time, and return the answers that arrived.

        loss_sum: of this epoch in this process; the training has diverged if it is not finite.
        """
        reads_now = self._is_alone or is_epoch_end
        if reads_now or step % POLL_INTERVAL == 0:
            request = [
                self._first_signal(),
                not math.isfinite(loss_sum),
                self.run.is_checkpoint_due(),
            ]
            self._pending.append(distributed.all_reduce_max(request))
        answers = [0.0, 0.0, 0.0]
        while self._pending and (reads_now or len(self._pending) > 1):
            read_answer = self._pending.pop(0)
            answers = [max(pair) for pair in zip(answers, read_answer(), strict=True)]
        stop_signal, has_diverged, is_checkpoint_due = answers
        return Decision(int(stop_signal), bool(has_diverged), bool(is_checkpoint_due))

    def check_stop_signal(self) -> int:
        """Return the stop signal that any process received, 0 for none."""
        (stop_signal,) = distributed.all_reduce_max([self._first_signal()])()
        return int(stop_signal)

    def _first_signal(self) -> int:
        if not self.signals:
            return 0
        return self.signals[0]

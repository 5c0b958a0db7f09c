"""One resumable, distributed training loop for pretraining and fine-tuning.

A stage hands `fit` a step (batch -> loss) and a validation (-> scores); the loop knows nothing of
modalities. RNG state is not checkpointed: every step derives its random numbers from (seed, step,
rank), and every sample from (seed, epoch, key).
"""

from __future__ import annotations

import contextlib
import math
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from loguru import logger
from torch import Tensor, nn

from umemma.config import Training
from umemma.data.loader import LoadedSplit, cut_batches
from umemma.errors import UserError
from umemma.system import distributed
from umemma.system.clock import DataClock, GpuDataClock, advise_threads
from umemma.system.log import TrainingProgress
from umemma.system.seeds import derive
from umemma.system.signals import STOP_EXIT_STATUS, catch_stop_signals, make_stop_error
from umemma.training.data_parallel import (
    Decision,
    Poll,
    StepPlan,
    check_batch_size,
    plan_step,
    wrap_step,
)
from umemma.training.early_stopping import EarlyStopping, StartingPoint, Validation
from umemma.training.loss import LossSum
from umemma.training.optimizer import Optimizer, add_prefix, select_prefix, to_device
from umemma.training.run_folder import MetricRow, Run, TrainingState
from umemma.types import Batch

LOG_INTERVAL = 50  # steps between two records of the batch loss within an epoch


def fit(
    step: nn.Module,
    optimizer: Optimizer,
    train: LoadedSplit,
    validation: Validation,
    run: Run,
    *,
    training: Training,
    seed: int,
    title: str,
) -> list[MetricRow]:
    """Train the model of `optimizer`, a part of `step`, in place; it ends with its best weights.

    The best weights are those of the epoch with the best validation score (ties: lower loss). With
    training.keep_start those of the start take their place, unless they are improved on. Returns
    the metrics. UserError when the loss is not finite, for a batch size below the number of
    processes, and, after a checkpoint, when the process is told to stop (SIGTERM, Ctrl-C).
    """
    check_batch_size(training.batch_size, title)
    start = None
    if training.keep_start is not None:
        start = StartingPoint(optimizer.model, validation, training.keep_start)
    trainer = Trainer(step, optimizer, train, run, training, seed, title)

    # 1. Resume from the latest checkpoint, or start from scratch.
    trainer.resume()
    trainer.distribute()
    if validation.mean_over:
        logger.info(f"{title}: the validation {validation.metric} is a {validation.mean_over}")

    done = trainer.state.step
    progress = TrainingProgress(title, training.epochs, optimizer.total_steps, done)
    with progress, catch_stop_signals(_exit_on_second_interrupt) as signals:
        poll = Poll(run, signals)
        while not trainer.is_finished():
            progress.start_epoch(trainer.state.epoch)
            # 2. Train: one epoch takes every sample once.
            speed = trainer.train_epoch(poll, progress.advance)
            # 3. Validate, and keep the weights if they are the best so far.
            progress.end_epoch(trainer.validate_epoch(validation, speed))
        # 4. Stop if a signal came during the last validation.
        trainer.act_on(Decision(stop_signal=poll.check_stop_signal()))

    # 5. Leave the best weights in the model, or those that it started from.
    rows = trainer.restore_best_weights(validation)
    if start is not None and not start.is_improved():
        start.restore(optimizer.model)
        logger.info(
            f"{title}: the start is kept, validation {validation.metric} "
            f"{validation.shown(start.score)}, as training improves on it by less than chance "
            f"(finetune.keep_start: {training.keep_start:g} standard errors)"
        )
    return rows


class Trainer:
    """The parts of `fit`, and what they share: how far training is, and what it works on."""

    def __init__(
        self,
        step: nn.Module,
        optimizer: Optimizer,
        train: LoadedSplit,
        run: Run,
        training: Training,
        seed: int,
        title: str,
    ) -> None:
        self.forward = step
        self.model = optimizer.model
        self.optimizer = optimizer
        self.device = optimizer.device
        self.train = train
        self.run = run
        self.training = training
        self.seed = seed
        self.title = title
        self.rank, self.world_size, _ = distributed.world()
        self.micro_batch_size = training.micro_batch or training.batch_size
        self.steps_per_epoch = count_steps(len(train), training.batch_size)
        self.state = TrainingState()
        self.early_stopping = EarlyStopping(self.model, training.patience)
        self.loss_sum = LossSum(self.device)
        self._has_noted_cores = False
        self._dropout_generator = _default_generator(self.device)

    def resume(self) -> None:
        """Take up the latest checkpoint of the run, if it has one."""
        checkpoint = self.run.load_latest_checkpoint()
        step = None
        if checkpoint is not None:
            step = checkpoint.state.step
        if len(set(distributed.all_gather_object(step))) > 1:
            raise UserError(
                "the processes find different checkpoints",
                str(self.run.folder),
                "All processes need to share the disk that this folder is on.",
            )
        if checkpoint is not None:
            tensors, self.state = checkpoint
            self.optimizer.restore(tensors, self.state.scaler)
            self.early_stopping.best = self.state.best
            self.early_stopping.best_epoch = self.state.best_epoch
            best_weights = select_prefix(tensors, "best")
            self.early_stopping.best_weights = to_device(best_weights, self.device)
            self.loss_sum.total = self._select_loss_sum(self.state.total)
            logger.info(
                f"{self.title}: resumes from step {self.state.step} in epoch {self.state.epoch}"
            )
        self.run.start_metrics(self.state.figures)

    def _select_loss_sum(self, sums: Sequence[float]) -> float:
        """Return this process's sum of losses from those of a checkpoint.

        If the checkpoint is of another number of processes, the main process takes all of it.
        """
        if len(sums) == self.world_size:
            return sums[self.rank]
        if self.rank == 0:
            return sum(sums)
        return 0.0

    def distribute(self) -> None:
        """Wrap the step for several processes, if there are several."""
        if self.world_size == 1:
            return
        share = self.training.batch_size // self.world_size
        size = min(len(self.train), share, self.micro_batch_size)
        example = next(self.train.batches([np.arange(size)], self.device, self.seed))
        self.forward = wrap_step(self.forward, example)

    def is_finished(self) -> bool:
        """Whether all epochs are done, or early stopping ends the training."""
        epoch = self.state.epoch
        return epoch > self.training.epochs or self.early_stopping.is_exhausted(epoch)

    def train_epoch(self, poll: Poll, on_step: Callable[[], None]) -> dict[str, float]:
        """Train for the rest of the epoch, and return the speed: {name: value}.

        After each step the losses are recorded, and stop signals and checkpoints are handled.
        """
        self.model.train()
        plans = self._plan_epoch()
        micro_batches = [indices for plan in plans for indices in plan.micro_batches]
        epoch_seed = derive(self.seed, "epoch", self.state.epoch)
        batches = self.train.batches(micro_batches, self.device, epoch_seed)
        clock = DataClock(batches) if self.device.type == "cpu" else GpuDataClock(batches)
        for plan in plans:
            losses = self._accumulate_gradients(plan, clock)
            self.optimizer.step(self.state.step)
            self.state.step += 1
            self.state.batch += 1
            on_step()

            is_epoch_end = self.state.batch == self.steps_per_epoch
            self._record_losses(losses, plan.total, is_epoch_end)
            self.act_on(poll.check(self.state.step, self.loss_sum.total, is_epoch_end))
        samples = sum(plan.total for plan in plans)
        seconds = clock.read_seconds()
        core_share = clock.read_core_share()
        self._note_taken_cores(core_share, seconds)
        return {
            "samples_per_s": samples / seconds,
            "data_wait": clock.read_waited() / seconds,
            "core_share": core_share,
            "peak_gib": _measure_peak_memory(self.device),
        }

    def _note_taken_cores(self, core_share: float, seconds: float) -> None:
        """Log once per training that other programs use the cores that the steps need.

        Steps on a GPU, and those of several processes, wait for other reasons as well.
        """
        if self._has_noted_cores or self.device.type != "cpu" or self.world_size > 1:
            return
        threads = torch.get_num_threads()
        fewer_threads = advise_threads(threads, core_share, seconds)
        if fewer_threads < threads:
            self._has_noted_cores = True
            logger.info(
                f"{self.title}: the steps have their {threads} cores {core_share:.0%} of the time, "
                f"as other programs use them too; machine.threads={fewer_threads} may be faster"
            )

    def _plan_epoch(self) -> list[StepPlan]:
        """Return the steps that are left of this epoch; its order depends on seed and epoch."""
        generator = np.random.default_rng(derive(self.seed, "order", self.state.epoch))
        order = generator.permutation(len(self.train))
        batches = cut_batches(order, self.training.batch_size)
        remaining = batches[self.state.batch :]
        return [plan_step(batch, self.micro_batch_size) for batch in remaining]

    def _accumulate_gradients(self, plan: StepPlan, batches: Iterator[Batch]) -> Tensor:
        """Add up the gradients of the micro-batches of a step (gradient accumulation).

        Returns the sum of the losses of this process's samples, on the device.
        """
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        last = len(plan.micro_batches) - 1
        for i, indices in enumerate(plan.micro_batches):
            batch = next(batches)
            dropout_seed = derive(self.seed, "dropout", self.state.step, self.rank, i)
            self._dropout_generator.manual_seed(dropout_seed)
            weight = 0.0
            if plan.has_share:
                weight = len(indices) / plan.total
            with self._synchronize_gradients(i == last):
                loss = self.forward(batch)
                self.optimizer.backward(loss * (weight * self.world_size))
            loss_sum += loss.detach() * (weight * plan.total)
        return loss_sum

    def _synchronize_gradients(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """In the block the processes exchange gradients only with the last micro-batch."""
        if self.world_size == 1 or is_last:
            return contextlib.nullcontext()
        return self.forward.no_sync()  # type: ignore[operator]

    def _record_losses(self, losses: Tensor, batch_size: int, is_epoch_end: bool) -> None:
        """Add the losses of a step to those of the epoch; every LOG_INTERVAL steps record them.

        A GPU is only waited for when a number is recorded.
        """
        self.loss_sum.add(losses)
        is_shown = self.state.step % LOG_INTERVAL == 0
        if is_shown or is_epoch_end or self.device.type == "cpu":
            self.loss_sum.synchronize()
        if is_shown:
            rank_losses = distributed.all_gather_object(float(losses))
            self._record("train", {"batch_loss": sum(rank_losses) / batch_size})

    def act_on(self, decision: Decision) -> None:
        """Do what the processes agreed on: end a diverged training, save a checkpoint, stop."""
        step = self.state.step
        if decision.has_diverged:
            rate = self.optimizer.learning_rate
            raise UserError(
                f"the loss is not finite at step {step}",
                self.title,
                f"The learning rate there is {rate:.2g}: lower it, or look for bad input.",
            )
        if decision.stop_signal or decision.is_checkpoint_due:
            self.loss_sum.synchronize()
            self.save_checkpoint()
        if decision.stop_signal:
            raise make_stop_error(decision.stop_signal, f"at step {step}", self.title)

    def save_checkpoint(self) -> None:
        """Save a checkpoint of this step. All processes take part.

        If the loss is not finite the weights may be useless, so none is saved; the next poll ends
        the training.
        """
        loss_sums = distributed.all_gather_object(self.loss_sum.total)
        if not all(math.isfinite(loss_sum) for loss_sum in loss_sums):
            return
        state = replace(
            self.state,
            total=loss_sums,
            best=self.early_stopping.best,
            best_epoch=self.early_stopping.best_epoch,
            scaler=self.optimizer.scaler.state_dict(),
        )
        tensors = self.optimizer.state_tensors()
        tensors |= add_prefix(self.early_stopping.best_weights, "best")
        self.run.save_checkpoint(tensors, state)

    def validate_epoch(self, validation: Validation, speed: Mapping[str, float]) -> str:
        """End the epoch: validate the (averaged) weights and keep them if they are the best.

        Returns the loss and the score in words.
        """
        epoch = self.state.epoch
        with self.optimizer.averaged_weights():
            # The statistics of batch norm differ between processes.
            distributed.broadcast(self.model.buffers())
            scores = validation.run()
            self.early_stopping.update(epoch, scores, self.model)
        rank_losses = distributed.all_gather_object(self.loss_sum.total)
        loss = sum(rank_losses) / len(self.train)
        self._record("train", {"loss": loss})
        self._record("val", scores, speed)
        logger.debug(
            f"{self.title}: epoch {epoch}: {speed['samples_per_s']:,.0f} samples/s, "
            f"{speed['data_wait']:.0%} of the time waiting for data, "
            f"{speed['core_share']:.0%} of the steps on a core, "
            f"peak {speed['peak_gib']:.2f} GiB"
        )
        note = (
            f"loss {loss:.3f}, validation {validation.metric} {validation.shown(scores['score'])}"
        )
        if self.early_stopping.best_epoch not in (0, epoch):
            best = self.early_stopping.best[0]
            note += f" (best {validation.shown(best)} in epoch {self.early_stopping.best_epoch})"
        self.state.epoch += 1
        self.state.batch = 0
        self.loss_sum = LossSum(self.device)
        return note

    def restore_best_weights(self, validation: Validation) -> list[MetricRow]:
        """Put the best weights into the model, and return the metrics of the whole training."""
        self.early_stopping.restore_best(self.model)
        score = f"{validation.metric} {validation.shown(self.early_stopping.best[0])}"
        if validation.mean_over:
            score += f" ({validation.mean_over})"
        logger.info(
            f"{self.title}: best of {self.state.epoch - 1} epochs is "
            f"{self.early_stopping.best_epoch}, validation {score}"
        )
        return self.state.figures

    def _record(
        self,
        split: str,
        values: Mapping[str, float],
        speed: Mapping[str, float] | None = None,
    ) -> None:
        """Add metrics of this step, {name: value}, to the state and to the run's folder."""
        step = self.state.step
        epoch = self.state.epoch
        rows = [MetricRow(step, epoch, split, name, value) for name, value in values.items()]
        self.state.figures += rows
        self.run.append_metrics(rows, speed)


def count_steps(samples: int, batch_size: int, epochs: int = 1) -> int:
    """Return the number of steps; the last batch of an epoch may be smaller than the others."""
    return epochs * math.ceil(samples / batch_size)


def _exit_on_second_interrupt(received: Sequence[int]) -> None:
    """End the process at once on a Ctrl-C that follows another stop signal.

    SIGTERM may come twice: to the process and to its group.
    """
    if len(received) > 1 and received[-1] == signal.SIGINT:
        raise SystemExit(STOP_EXIT_STATUS[signal.SIGINT])


def _default_generator(device: torch.device) -> torch.Generator:
    """Return the generator that dropout on `device` draws from."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index]
    return torch.default_generator


def _measure_peak_memory(device: torch.device) -> float:
    """Return the largest amount of GPU or main memory that this process had, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

"""How the processes of a training share a step, and agree on what to do next."""

from __future__ import annotations

import math

import numpy as np
import pytest
from toys.training import COMPLETE, CPU, fit_toy, toy_model, toy_split

from umemma.errors import UserError
from umemma.system import distributed
from umemma.training.data_parallel import Decision, Poll, plan_step
from umemma.training.run_folder import Run
from umemma.training.step import PatternStep, make_validation


def act_as(monkeypatch, rank: int, size: int) -> None:
    """Take the place of one of several processes."""
    monkeypatch.setattr(distributed, "world", lambda: distributed.World(rank, size))


def test_a_batch_that_leaves_a_process_empty(tmp_path, monkeypatch):
    model = toy_model()
    split = toy_split()
    step = PatternStep(model, COMPLETE, draw_one=False)
    validate = make_validation(model, split, COMPLETE, 32, CPU)
    act_as(monkeypatch, 0, 32)
    message = "a batch of 16 leaves some of 32 processes without a sample"
    with pytest.raises(UserError, match=message) as error:
        fit_toy(step, model, split, validate, Run(tmp_path, "toy"))
    assert error.value.exit_status == 2


@pytest.mark.parametrize(
    ("rank", "micro_batches", "has_share"),
    [
        (0, [[10, 13], [16]], True),
        (1, [[11, 14]], True),
        (2, [[12, 15]], True),
    ],
)
def test_processes_share_a_batch_in_micro_batches(monkeypatch, rank, micro_batches, has_share):
    act_as(monkeypatch, rank, 3)
    plan = plan_step(np.arange(10, 17), micro_batch_size=2)
    assert plan.total == 7
    assert [indices.tolist() for indices in plan.micro_batches] == micro_batches
    assert plan.has_share == has_share


def test_a_process_without_a_share_takes_the_first_sample_for_nothing(monkeypatch):
    act_as(monkeypatch, 2, 3)
    plan = plan_step(np.array([4, 7]), micro_batch_size=2)
    assert [indices.tolist() for indices in plan.micro_batches] == [[4]]
    assert not plan.has_share


@pytest.mark.parametrize(
    ("signals", "loss_sum", "seconds", "decision"),
    [
        ([], 1.0, 1e9, Decision(0, False, False)),
        ([15, 2], 1.0, 1e9, Decision(15, False, False)),
        ([], math.nan, 1e9, Decision(0, True, False)),
        ([], math.inf, 1e9, Decision(0, True, False)),
        ([], 1.0, 0.0, Decision(0, False, True)),
    ],
)
def test_a_single_process_decides_at_every_step(tmp_path, signals, loss_sum, seconds, decision):
    poll = Poll(Run(tmp_path, "toy", seconds=seconds), signals)
    for step in (1, 2, 4):
        assert poll.check(step, loss_sum, is_epoch_end=False) == decision


def test_several_processes_read_an_answer_at_the_next_poll_or_the_end_of_an_epoch(
    tmp_path, monkeypatch
):
    act_as(monkeypatch, 0, 2)
    monkeypatch.setattr(distributed, "all_reduce_max", lambda numbers: lambda: list(numbers))
    signals: list[int] = []
    poll = Poll(Run(tmp_path, "toy", seconds=1e9), signals)
    decisions = []
    for step in range(1, 10):
        if step == 3:
            signals.append(15)
        decisions.append(poll.check(step, 1.0, is_epoch_end=False).stop_signal)
    assert decisions == [0, 0, 0, 0, 0, 0, 0, 15, 0]  # asked after step 4, read after step 8
    assert poll.check(10, 1.0, is_epoch_end=True).stop_signal == 15
    assert poll.check(11, 1.0, is_epoch_end=False).stop_signal == 0

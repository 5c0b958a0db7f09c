"""The loss of each sample by hand, and its sum over an epoch."""

from __future__ import annotations

import math

import pytest
import torch
from toys.training import CPU

from umemma.missing import make_keep_table
from umemma.training.loss import LossSum, rank_more_over_fewer, sample_losses


def test_classes():
    """Logits of log 3 and 0 give the first class a probability of 3/4."""
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    losses = sample_losses(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(losses, torch.tensor([math.log(4 / 3), math.log(4)]))


def test_sets_of_labels_have_the_mean_over_labels():
    logits = torch.tensor([[math.log(3), 0.0]])
    losses = sample_losses(logits, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(losses, torch.tensor([(math.log(4 / 3) + math.log(2)) / 2]))


def test_several_patterns_share_the_target_of_their_sample():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 2, generator=generator)
    for target in (torch.tensor([0, 1, 1, 0]), torch.eye(2)[[0, 1, 1, 0]]):
        losses = sample_losses(logits, target)
        assert losses.shape == (4, 3)
        for i in range(3):
            torch.testing.assert_close(losses[:, i], sample_losses(logits[:, i], target))


def test_more_modalities_should_not_make_the_loss_larger():
    """Three samples: of everything, of what has no third pattern, and of a single modality."""
    losses = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 9.0], [3.0, 1.0, 2.0]])
    keep = torch.tensor(
        [
            [[True, True], [True, False], [False, True]],
            [[True, True], [True, False], [False, False]],
            [[True, False], [True, False], [False, False]],
        ]
    )
    expected = torch.tensor([((3 - 1) + (3 - 2.5)) / 2, 3.0 - 1.0, 0.0])
    torch.testing.assert_close(rank_more_over_fewer(losses, keep), expected)
    # What gets better with more is no loss.
    torch.testing.assert_close(rank_more_over_fewer(-losses, keep)[:2], torch.tensor([0.0, 0.0]))


def test_every_pair_of_three_modalities_counts():
    """Of a, b, c: the complete one has six subsets, each pair two."""
    keep = torch.from_numpy(make_keep_table("abc"))[None]
    losses = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert rank_more_over_fewer(losses, keep).item() == pytest.approx(6 / 12)


def test_a_sum_counts_every_loss_once():
    loss_sum = LossSum(CPU)
    for value in (1.0, 2.0):
        loss_sum.add(torch.tensor(value, dtype=torch.float64))
    assert loss_sum.total == 0.0  # not known yet
    loss_sum.synchronize()
    loss_sum.synchronize()
    assert loss_sum.total == 3.0

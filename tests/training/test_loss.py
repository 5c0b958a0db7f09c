"""The loss of each sample by hand, and its sum over an epoch."""

from __future__ import annotations

import math

import pytest
import torch
from toys.training import CPU

from umemma.config import Training
from umemma.errors import UserError
from umemma.missing import make_keep_table
from umemma.training.loss import (
    LossSum,
    TrainingLoss,
    make_training_loss,
    rank_more_over_fewer,
    sample_losses,
)


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


TARGET = torch.tensor([0, 0, 0, 1])  # the third class has no sample


def make_loss(target: torch.Tensor = TARGET, task: str = "multiclass", **settings) -> TrainingLoss:
    classes = ["a", "b", "c"][: target.shape[1]] if target.ndim == 2 else ["a", "b", "c"]
    return make_training_loss(Training(**settings), target, classes, task, "toy")


def test_without_settings_it_is_the_loss_of_each_sample():
    logits = torch.randn(4, 2, 3)
    loss = make_loss()
    assert torch.equal(loss(logits, TARGET), sample_losses(logits, TARGET))
    assert loss.natural_shift() is None


def test_balanced_classes_count_the_same_and_the_mean_stays():
    """Three samples of a and one of b: weights 2/3 and 2, of mean 1."""
    logits = torch.randn(4, 2, 3)
    loss = make_loss(class_weights="balanced")
    factors = torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0])
    expected = sample_losses(logits, TARGET) * factors[:, None]
    torch.testing.assert_close(loss(logits, TARGET), expected)
    a, b, c = loss.natural_shift()
    assert (a - b, a - c) == pytest.approx((math.log(3), math.log(6)))  # c as half a sample
    named = make_loss(class_weights={"b": 3.0})
    torch.testing.assert_close(named.sample_factors[:2], torch.tensor([2 / 3, 2.0]))


def test_the_logits_are_adjusted_by_the_shares():
    """Menon et al., equation 10: the logarithms of 3/4, 1/4 and, for no sample, of half of one."""
    logits = torch.randn(4, 3)
    loss = make_loss(logit_adjustment=2.0)
    shift = 2 * torch.tensor([3 / 4, 1 / 4, 1 / 8]).log()
    torch.testing.assert_close(loss(logits, TARGET), sample_losses(logits + shift, TARGET))
    assert loss.natural_shift() == pytest.approx(shift.numpy())


def test_present_labels_weigh_more():
    """One of 4 samples has the first label, none the second, all but one the third."""
    target = torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]])
    loss = make_loss(target, "multilabel", pos_weight="balanced")
    assert loss.positive_weights.tolist() == [3.0, 4.0, 1.0]
    logits = torch.zeros(4, 2, 3)
    both = math.log(2)
    losses = loss(logits, target)
    assert losses[:, 0].tolist() == pytest.approx([both * 5 / 3, both, both, both])
    assert loss.natural_shift() == pytest.approx([-math.log(3), -math.log(4), 0])
    assert make_loss(target, "multilabel", pos_weight=2.5).positive_weights.tolist() == [2.5] * 3
    named = make_loss(target, "multilabel", pos_weight={"c": 7.0})
    assert named.positive_weights.tolist() == [1, 1, 7]
    many = torch.zeros(1000, 1)
    many[0] = 1
    bounded = make_loss(many, "multilabel", pos_weight="balanced")
    assert bounded.positive_weights.tolist() == [20.0]


def test_samples_weigh_by_their_share_of_the_mean_weight():
    weight = torch.tensor([1.0, 3.0, 4.0, 0.0])
    loss = make_training_loss(Training(), TARGET, ["a", "b"], "multiclass", "toy", weight)
    logits = torch.randn(4, 3, 2)
    expected = sample_losses(logits, TARGET) * torch.tensor([0.5, 1.5, 2.0, 0.0])[:, None]
    torch.testing.assert_close(loss(logits, TARGET, weight), expected)


@pytest.mark.parametrize(
    ("settings", "task", "message"),
    [
        ({"class_weights": {"bb": 2.0}}, "multiclass", "toy: class_weights: unknown class 'bb'"),
        ({"pos_weight": 2.0}, "multiclass", "toy: pos_weight: pos_weight is for multilabel tasks"),
        ({"class_weights": "balanced"}, "multilabel", "class_weights is for multiclass tasks"),
        ({"logit_adjustment": 1.0}, "multilabel", "logit_adjustment is for multiclass tasks"),
    ],
)
def test_a_weight_that_does_not_fit_is_refused(settings, task, message):
    with pytest.raises(UserError, match=message):
        make_loss(torch.zeros(2, 3) if task == "multilabel" else TARGET, task, **settings)

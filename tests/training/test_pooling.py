"""The weights of the uni-modal models in the start of an ensemble."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from toys.training import CPU, toy_model, toy_split

from umemma.training import pooling
from umemma.training.pooling import fit_weights, pool_heads
from umemma.training.step import predict_pattern_logits

SAMPLES = 4000


def draw_experts(overconfidence: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, 2, 2) of two experts with independent noise, and the (N,) classes.

    An observation s + noise, where s is -1 or 1 by class and the noise has variance v, makes
    2 * observation / v the logit of class 1. The first expert (v = 1) is right about that; the
    second one (v = 4) claims `overconfidence` times as much.
    """
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(SAMPLES) % 2
    sign = 2.0 * target - 1
    logits = torch.zeros(SAMPLES, 2, 2)
    for m, (variance, claim) in enumerate([(1.0, 1.0), (4.0, overconfidence)]):
        noise = variance**0.5 * torch.randn(SAMPLES, generator=generator)
        logits[:, m, 1] = claim * 2 * (sign + noise) / variance
    return logits, target


def measure_accuracy(logits: torch.Tensor, target: torch.Tensor) -> float:
    return (logits.argmax(1) == target).double().mean().item()


@pytest.mark.parametrize("overconfidence", [1.0, 10.0])
def test_the_weights_undo_what_a_modality_claims_too_much(overconfidence):
    """Independent evidence adds up: of the mean of two, the right weights are 2 and 2 / claim."""
    logits, target = draw_experts(overconfidence)
    weights = fit_weights(logits, torch.ones(SAMPLES, 2, dtype=torch.bool), target)
    assert weights == pytest.approx([2.0, 2.0 / overconfidence], rel=0.1)


def test_an_overconfident_modality_no_longer_drowns_the_better_one():
    logits, target = draw_experts(10.0)
    present = torch.ones(SAMPLES, 2, dtype=torch.bool)
    weights = torch.tensor(fit_weights(logits, present, target))
    best_alone = measure_accuracy(logits[:, 0], target)
    assert measure_accuracy(logits.mean(1), target) < best_alone - 0.05
    pooled = (logits * weights[:, None]).mean(1)
    assert measure_accuracy(pooled, target) > best_alone + 0.01


def test_only_samples_with_two_modalities_count():
    """A modality alone says nothing of its weight beside another; absent logits may be NaN."""
    logits, target = draw_experts(10.0)
    present = torch.ones(SAMPLES, 2, dtype=torch.bool)
    present[::3, 0] = False
    has_both = present.all(1)
    expected = fit_weights(logits[has_both], present[has_both], target[has_both])
    logits[::3, 0] = float("nan")
    assert fit_weights(logits, present, target) == pytest.approx(expected, rel=1e-3)


def test_too_few_samples_say_nothing():
    logits, target = draw_experts(10.0)
    few = pooling.FEWEST_SAMPLES - 1
    present = torch.ones(few, 2, dtype=torch.bool)
    assert fit_weights(logits[:few], present, target[:few]) == [1.0, 1.0]


def test_separable_samples_leave_the_weights_finite():
    """Without the ridge they would grow for ever; two modalities that are alike weigh alike."""
    target = torch.arange(100) % 2
    alone = functional.one_hot(target, 2).float()
    weights = fit_weights(torch.stack([alone, alone], 1), torch.ones(100, 2).bool(), target)
    assert weights[0] == weights[1]
    assert 2 < weights[0] < 20


def test_sets_of_labels():
    logits, target = draw_experts(10.0)
    labels = functional.one_hot(target, 2).float()
    weights = fit_weights(logits, torch.ones(SAMPLES, 2, dtype=torch.bool), labels)
    assert weights[0] > 5 * weights[1]


def test_the_weights_are_folded_into_the_heads():
    model = toy_model()
    val = toy_split()
    alone = torch.eye(2, dtype=torch.bool)
    before = predict_pattern_logits(model, val, alone, 16, CPU)
    weights = fit_weights(before, val.present, val.target)
    pool_heads(model, val, 16, CPU)
    after = predict_pattern_logits(model, val, alone, 16, CPU)
    for m in range(2):
        torch.testing.assert_close(after[:, m], weights[m] * before[:, m])
    assert weights[0] != weights[1]

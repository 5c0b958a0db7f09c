from __future__ import annotations

import pytest
import torch

from umemma.models.fusions import EmbraceNet, FilledLinear, PatternHead

DIMS = {"a": 1, "b": 2}
FEATURES = {"a": torch.tensor([[2.0]]), "b": torch.tensor([[3.0, 5.0]])}
KEEP = torch.tensor([[[True, True], [True, False], [False, True]]])  # (1, S, M)


def test_an_absent_modality_is_filled_with_zero_or_the_stored_mean():
    fusion = FilledLinear(DIMS, 1)
    fusion.linear.weight.data = torch.tensor([[1.0, 10.0, 100.0]])
    fusion.linear.bias.data = torch.tensor([0.5])
    assert fusion(FEATURES, KEEP).flatten().tolist() == [532.5, 2.5, 530.5]
    training = {"a": torch.tensor([[4.0], [99.0]]), "b": torch.tensor([[1.0, 0.0], [3.0, 2.0]])}
    fusion.set_fill(training, torch.tensor([[True, True], [False, True]]))
    assert fusion(FEATURES, KEEP).flatten().tolist() == [532.5, 122.5, 534.5]


def test_each_pattern_has_its_own_head():
    fusion = PatternHead(DIMS, 1)
    for i, head in enumerate(fusion.heads):
        head.weight.data.fill_(i + 1)
        head.bias.data.fill_(0.25)
    # Heads by bits: a is 1, b is 2, both are 3.
    assert fusion(FEATURES, KEEP).flatten().tolist() == [30.25, 2.25, 16.25]


def make_embracenet():
    fusion = EmbraceNet(DIMS, 1, width=1)
    fusion.docking["a"].weight.data = torch.tensor([[1.0]])
    fusion.docking["b"].weight.data = torch.tensor([[1.0, 1.0]])
    fusion.linear.weight.data = torch.tensor([[1.0]])
    for layer in [*fusion.docking.values(), fusion.linear]:
        layer.bias.data.zero_()
    return fusion


def test_embracenet_predicts_by_the_expectation_and_trains_by_draws():
    fusion = make_embracenet().eval()
    assert fusion(FEATURES, KEEP).flatten().tolist() == [5.0, 2.0, 8.0]
    fusion.train()
    torch.manual_seed(0)
    draws = torch.stack([fusion(FEATURES, KEEP).flatten() for _ in range(400)])
    assert set(draws[:, 0].tolist()) == {2.0, 8.0}
    assert draws[:, 0].mean().item() == pytest.approx(5.0, abs=0.6)
    assert set(draws[:, 1].tolist()) == {2.0}
    assert set(draws[:, 2].tolist()) == {8.0}


@pytest.mark.parametrize("make", [FilledLinear, PatternHead, EmbraceNet])
def test_an_absent_input_changes_nothing(make):
    fusion = make(DIMS, 3).eval()
    keep = torch.tensor([[True, False]])
    expected = fusion(FEATURES, keep)
    changed = FEATURES | {"b": torch.full((1, 2), float("nan"))}
    assert torch.equal(fusion(changed, keep), expected)

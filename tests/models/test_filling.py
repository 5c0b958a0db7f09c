"""Four ways to fill a hole, computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from umemma.models.filling import FillMean, FillNeighbour, FillZero, Retrieve

DIMS = {"a": 1, "b": 2}


def set_weights(fusion: FillZero) -> FillZero:
    """The logit of a, b1, b2 is a + 10 b1 + 100 b2 + 0.5."""
    fusion.linear.weight.data = torch.tensor([[1.0, 10.0, 100.0]])
    fusion.linear.bias.data = torch.tensor([0.5])
    return fusion


def make_features(a: list[float], b: list[list[float]]) -> dict[str, Tensor]:
    return {"a": torch.tensor(a)[:, None], "b": torch.tensor(b)}


ONE = make_features([2.0], [[3.0, 5.0]])
COMPLETE = torch.tensor([[True, True]])
KEEP = torch.tensor([[[True, True], [True, False], [False, True]]])  # (1, S, M)


def test_a_hole_is_filled_with_zeros():
    fusion = set_weights(FillZero(DIMS, 1))
    assert fusion(ONE, KEEP, COMPLETE).flatten().tolist() == [532.5, 2.5, 530.5]


def test_a_hole_is_filled_with_the_running_mean_of_training():
    fusion = set_weights(FillMean(DIMS, 1))
    nan = float("nan")
    features = make_features([4.0, nan], [[1.0, 0.0], [3.0, 2.0]])
    present = torch.tensor([[True, True], [False, True]])
    fusion.train()(features, present, present)
    # A tenth of the mean of those that have it: a = 0.4, b = (0.2, 0.1).
    torch.testing.assert_close(fusion.fill_a, torch.tensor([0.4]))
    torch.testing.assert_close(fusion.fill_b, torch.tensor([0.2, 0.1]))
    filled = fusion.eval()(ONE, KEEP, COMPLETE).flatten().tolist()
    assert filled == pytest.approx([532.5, 2.5 + 2 + 10, 530.5 + 0.4])
    fusion.train()(features, present, present)
    torch.testing.assert_close(fusion.fill_a, torch.tensor([0.76]))
    # A step without the modality leaves its mean as it is.
    nobody = present & torch.tensor([False, True])
    fusion(features, nobody, nobody)
    torch.testing.assert_close(fusion.fill_a, torch.tensor([0.76]))


def test_a_hole_is_filled_with_the_next_sample_that_has_the_modality():
    fusion = set_weights(FillNeighbour(DIMS, 1)).train()
    nan = float("nan")
    features = make_features([1.0, nan, 3.0, 4.0], [[0.0, 0.0]] * 4)
    present = torch.tensor([[True, True], [False, True], [True, True], [True, True]])
    keep = present & torch.tensor([False, True])
    # Row 0 passes over row 1, which has no a; row 3 is followed by row 0.
    assert fusion(features, keep, present).flatten().tolist() == [3.5, 3.5, 4.5, 1.5]
    # Where only one row has it, it is the neighbour of the others and has none itself.
    only_third = present & torch.tensor([[False], [False], [True], [False]])
    keep_b = only_third & torch.tensor([False, True])
    assert fusion(features, keep_b, only_third).flatten().tolist() == [3.5, 3.5, 0.5, 3.5]
    nobody = present & False
    assert fusion(features, nobody, nobody).flatten().tolist() == [0.5] * 4


def test_in_evaluation_the_next_sample_is_one_of_training_in_random_order():
    """Test samples that follow one another may be of one class or one picture: a label for free."""
    fusion = set_weights(FillNeighbour(DIMS, 1)).eval()
    size = 40
    features = make_features([-1.0] * size, [[0.0, 0.0]] * size)
    present = torch.ones(size, 2, dtype=torch.bool)
    keep = present & torch.tensor([False, True])
    # Before there is a bank, zeros.
    assert fusion(features, keep, present).flatten().tolist() == [0.5] * size
    bank = make_features(list(range(1, 11)), [[0.0, 0.0]] * 10)
    bank_present = torch.ones(10, 2, dtype=torch.bool)
    bank_present[0, 0] = False
    fusion.store_training_features(bank, bank_present)
    fills = (fusion(features, keep, present).flatten() - 0.5).tolist()
    assert set(fills) == set(range(2, 11))  # of those that have it, and none of the batch
    assert fills[:9] == fills[9:18]
    assert fills[:9] != sorted(fills[:9])


def make_bank(lacks_last: bool = False) -> Retrieve:
    """Ten samples: a is -5 to -1 with b = (-1, -10), and 1 to 5 with b = (a, 10 a).

    With one number a cosine is 1 on the same side of the mean, and -1 on the other. lacks_last: the
    sample with a = 5 has no b.
    """
    fusion = set_weights(Retrieve(DIMS, 1)).eval()
    a = torch.tensor([-5.0, -4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    first = a.clamp(min=-1)
    b = torch.stack([first, 10 * first], 1)
    present = torch.ones(10, 2, dtype=torch.bool)
    if lacks_last:
        present[9, 1] = False
        b[9] = float("nan")
    fusion.store_training_features({"a": a[:, None], "b": b}, present)
    return fusion


@pytest.mark.parametrize(
    ("lacks_last", "a", "expected"),
    [
        (False, 0.1, (1 + 2 + 3 + 4 + 5) / 5),
        (False, -0.1, -1.0),
        (True, 0.1, (1 + 2 + 3 + 4 - 1) / 5),
    ],
)
def test_a_hole_is_filled_with_the_mean_of_the_five_nearest_training_samples(
    lacks_last, a, expected
):
    """One that lacks the modality too is no neighbour; the next nearest takes its place."""
    features = make_features([a], [[float("nan")] * 2])
    present = torch.tensor([[True, False]])
    (fill,) = make_bank(lacks_last).make_fills(features, present, present)["b"].tolist()
    assert fill == pytest.approx([expected, 10 * expected])


def test_features_are_standardized_before_they_are_compared():
    """(1, 100) and (-1, 104) are (1, -1) and (-1, 1) then, and (-0.2, 98) is (-0.2, -2).

    As they are, all features point nearly the same way, and the first number alone would decide.
    """
    fusion = set_weights(Retrieve(DIMS, 1)).eval()
    a = torch.tensor([1.0, 2.0] * 5)[:, None]
    b = torch.tensor([[1.0, 100.0], [-1.0, 104.0]] * 5)
    fusion.store_training_features({"a": a, "b": b}, torch.ones(10, 2, dtype=torch.bool))
    features = make_features([0.0, 0.0], [[-0.2, 98.0], [0.2, 106.0]])
    keep = torch.tensor([[False, True]]).expand(2, -1)
    assert fusion.make_fills(features, keep, keep)["a"].flatten().tolist() == [1.0, 2.0]


def test_in_training_the_neighbours_are_other_samples_of_the_batch():
    """A modality that a pattern hides is not its own neighbour, and there is no bank yet."""
    fusion = set_weights(Retrieve(DIMS, 1))
    features = make_features([1.0, 2.0, 3.0], [[7.0, 0.0], [8.0, 0.0], [9.0, 0.0]])
    present = torch.ones(3, 2, dtype=torch.bool)
    keep = present & torch.tensor([True, False])
    fills = fusion.train().make_fills(features, keep, present)["b"]
    assert fills[:, 0].tolist() == [8.5, 8.0, 7.5]
    nobody = present & torch.tensor([True, False])
    assert fusion.make_fills(features, keep, nobody)["b"].tolist() == [[0.0, 0.0]] * 3
    assert fusion.eval().make_fills(features, keep, present) is None  # zeros

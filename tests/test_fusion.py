"""LateFusion with encoders small enough to compute by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from umemma.contracts import Batch
from umemma.fusion import LateFusion
from umemma.missing import keep_table


def linear(weight: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight.data = torch.tensor(weight)
    return layer


def model(absent: str = "zero") -> LateFusion:
    """Features: audio doubled, image tripled; the head adds them up for class 0 and subtracts them for class 1."""
    encoders = {"image": linear([[3.0]]), "audio": linear([[2.0]])}
    blanks = {"audio": torch.tensor([10.0]), "image": torch.tensor([20.0])}
    fusion = LateFusion(encoders, {"audio": 1, "image": 1}, blanks, classes=2, absent=absent)
    fusion.head.weight.data = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    fusion.head.bias.data = torch.tensor([0.5, 0.0])
    return fusion.eval()


def batch(audio: list[float], image: list[float], present: list[list[bool]] | None = None) -> Batch:
    size = len(audio)
    inputs = {"audio": torch.tensor(audio)[:, None], "image": torch.tensor(image)[:, None]}
    there = torch.ones(size, 2, dtype=torch.bool) if present is None else torch.tensor(present)
    return Batch(inputs, there, torch.zeros(size, dtype=torch.int64))


def test_complete_logits_by_hand():
    assert model()(batch([1.0], [1.0])).tolist() == [[5.5, -5.0]]  # 2 + 3 + 0.5, -(2 + 3)


@pytest.mark.parametrize(
    ("absent", "expected"),
    [("zero", 2.5), ("blank", 62.5), ("learned", 6.5)],  # 2 + 0 + 0.5, 2 + 3 * 20 + 0.5, 2 + 4 + 0.5
)
def test_what_absence_becomes(absent, expected):
    fusion = model(absent)
    if absent == "learned":
        fusion.vectors["image"].data = torch.tensor([4.0])
    assert fusion(batch([1.0], [999.0], [[True, False]]))[0, 0].item() == expected


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
@pytest.mark.parametrize("poison", [1e9, float("inf"), float("nan")])
def test_an_absent_input_changes_nothing(absent, poison):
    present = [[True, False], [False, True]]
    fusion = model(absent)
    clean = fusion(batch([1.0, 0.0], [0.0, 1.0], present))
    assert torch.equal(fusion(batch([1.0, poison], [poison, 1.0], present)), clean)


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_pattern_logits_are_each_pattern_run_alone(absent):
    fusion = model(absent)
    one = batch([1.0, 2.0], [3.0, 4.0], [[True, True], [True, False]])
    logits = fusion.eval().pattern_logits(one, torch.from_numpy(keep_table(["audio", "image"])))
    for s, row in enumerate([[True, True], [True, False], [False, True]]):
        alone = fusion(one._replace(present=one.present & torch.tensor(row)))
        assert torch.equal(logits[0, s], alone[0])
    assert logits[1, 2].isnan().all()  # the second sample has no image: nothing is left to answer from
    assert not logits[1, :2].isnan().any()


def test_untrained_ensemble_is_the_average_of_the_unimodal_logits():
    torch.manual_seed(0)
    blanks = {"audio": torch.zeros(4), "image": torch.zeros(6)}
    sizes = {"audio": 4, "image": 6}
    alone = {m: LateFusion({m: nn.Linear(n, 5)}, {m: 5}, {m: blanks[m]}, 3) for m, n in sizes.items()}
    fusion = LateFusion({m: nn.Linear(n, 5) for m, n in sizes.items()}, {"audio": 5, "image": 5}, blanks, 3)
    fusion.start_from(alone)
    inputs = {"audio": torch.randn(7, 4), "image": torch.randn(7, 6)}
    both = Batch(inputs, torch.ones(7, 2, dtype=torch.bool), torch.zeros(7, dtype=torch.int64))
    ones = torch.ones(7, 1, dtype=torch.bool)
    average = sum(alone[m](Batch({m: inputs[m]}, ones, both.target)) for m in alone) / 2
    assert torch.allclose(fusion(both), average, atol=1e-6)


def test_frozen_encoders_stay_in_evaluation_mode_and_get_no_gradient():
    fusion = LateFusion({"a": nn.BatchNorm1d(2)}, {"a": 2}, {"a": torch.zeros(2)}, 2)
    fusion.freeze(["a"])
    fusion.train()
    before = fusion.encoders["a"].running_mean.clone()
    fusion(Batch({"a": torch.randn(8, 2) + 5}, torch.ones(8, 1, dtype=torch.bool), torch.zeros(8))).sum().backward()
    assert fusion.head.training
    assert torch.equal(fusion.encoders["a"].running_mean, before)
    assert fusion.encoders["a"].weight.grad is None
    assert fusion.head.weight.grad is not None


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_on_features_of_an_encoder_the_answer_is_the_same(absent):
    fusion = model(absent)
    one = batch([1.0, 2.0], [3.0, 4.0], [[True, True], [True, False]])
    whole = fusion(one)
    features, _ = fusion.encode(one.inputs)
    with fusion.on_features({"image": fusion.encode_one("image", fusion.blank_image)[0]}):
        assert torch.equal(fusion(one._replace(inputs={**one.inputs, "image": features["image"]})), whole)
    assert torch.equal(fusion(one), whole)


def test_encoders_compute_in_the_precision_and_the_head_in_float32():
    fusion = model()
    fusion.precision = torch.bfloat16
    features, _ = fusion.encode(batch([1.001], [1.0]).inputs)
    assert features["audio"].dtype == torch.float32
    assert features["audio"].item() == 2.0  # bfloat16 has 8 bits: 1.001 is 1


def test_blank_goes_with_the_model_but_not_into_its_weights():
    assert not [name for name in model().state_dict() if "blank" in name]

"""LateFusion with encoders small enough to compute by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from umemma.missing import average_present, list_patterns, make_keep_table
from umemma.models.late_fusion import LateFusion
from umemma.training.step import PatternStep
from umemma.types import Batch


def linear(weight: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight.data = torch.tensor(weight)
    return layer


def model(absent: str = "zero") -> LateFusion:
    """Return a model whose features are the input doubled (audio) or tripled (image).

    Each head adds its feature to class 0 and subtracts it from class 1. Audio's bias is (4, 0),
    image's (0, 8).
    """
    encoders = {"image": linear([[3.0]]), "audio": linear([[2.0]])}
    blanks = {"audio": torch.tensor([10.0]), "image": torch.tensor([20.0])}
    fusion = LateFusion(encoders, {"audio": 1, "image": 1}, blanks, classes=2, absent=absent)
    for m, bias in (("audio", [4.0, 0.0]), ("image", [0.0, 8.0])):
        fusion.heads[m].weight.data = torch.tensor([[1.0], [-1.0]])
        fusion.heads[m].bias.data = torch.tensor(bias)
    return fusion.eval()


def batch(audio: list[float], image: list[float], present: list[list[bool]] | None = None) -> Batch:
    size = len(audio)
    inputs = {"audio": torch.tensor(audio)[:, None], "image": torch.tensor(image)[:, None]}
    there = torch.ones(size, 2, dtype=torch.bool) if present is None else torch.tensor(present)
    return Batch(inputs, there, torch.zeros(size, dtype=torch.int64))


def test_complete_logits_by_hand():
    assert model()(batch([1.0], [1.0])).tolist() == [
        [4.5, 1.5]
    ]  # the means of 2 + 4 and 3, of -2 and -3 + 8


@pytest.mark.parametrize(
    ("absent", "expected"),
    # Audio alone; its mean with the logits of the blank picture; its mean with what the head makes
    # of the vector.
    [("zero", [6.0, -2.0]), ("blank", [33.0, -27.0]), ("learned", [11.0, -7.0])],
)
def test_what_absence_becomes(absent, expected):
    fusion = model(absent)
    if absent == "learned":
        fusion.vectors["image"].data = torch.tensor([5.0])
    assert fusion(batch([1.0], [999.0], [[True, False]]))[0].tolist() == expected


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
    logits = fusion.eval().pattern_logits(
        one, torch.from_numpy(make_keep_table(["audio", "image"]))
    )
    for s, row in enumerate([[True, True], [True, False], [False, True]]):
        alone = fusion(one._replace(present=one.present & torch.tensor(row)))
        assert torch.equal(logits[0, s], alone[0])
    assert (
        logits[1, 2].isnan().all()
    )  # the second sample has no image: nothing is left to answer from
    assert not logits[1, :2].isnan().any()


SIZES = {"audio": 4, "image": 6, "text": 3}


def started(absent: str, classes: int = 5) -> tuple[LateFusion, dict[str, LateFusion]]:
    """Return an ensemble that has just started from uni-modal models, and these.

    Their biases are far apart.
    """
    torch.manual_seed(0)
    blanks = {m: torch.randn(n) for m, n in SIZES.items()}
    alone = {
        m: LateFusion({m: nn.Linear(n, 7)}, {m: 7}, {m: blanks[m]}, classes)
        for m, n in SIZES.items()
    }
    for one in alone.values():
        for head in one.heads.values():
            nn.init.normal_(head.bias, std=2)
    encoders = {m: nn.Linear(n, 7) for m, n in SIZES.items()}
    fusion = LateFusion(encoders, dict.fromkeys(SIZES, 7), blanks, classes, absent)
    fusion.start_from(alone)
    return fusion.eval(), alone


@pytest.mark.parametrize("absent", ["zero", "learned"])
@pytest.mark.parametrize("pattern", list_patterns(list(SIZES)))
def test_the_untrained_ensemble_answers_every_subset_as_the_average_of_its_unimodal_models(
    absent, pattern
):
    """In logits, so for single classes and for sets of labels alike."""
    fusion, alone = started(absent)
    inputs = {m: torch.randn(9, n) for m, n in SIZES.items()}
    present = torch.tensor([[m in pattern for m in sorted(SIZES)]]).expand(9, -1)
    ones, target = torch.ones(9, 1, dtype=torch.bool), torch.zeros(9, dtype=torch.int64)
    average = sum(alone[m](Batch({m: inputs[m]}, ones, target)) for m in pattern) / len(pattern)
    torch.testing.assert_close(fusion(Batch(inputs, present, target)), average, rtol=0, atol=1e-6)
    table = torch.from_numpy(make_keep_table(list(SIZES)))
    whole = Batch(inputs, torch.ones(9, 3, dtype=torch.bool), target)
    torch.testing.assert_close(
        fusion.pattern_logits(whole, table)[:, list_patterns(list(SIZES)).index(pattern)], average
    )


def test_with_blank_the_untrained_ensemble_answers_the_blank_input_too():
    fusion, alone = started("blank")
    x = torch.randn(2, 4)
    inputs = {
        "audio": x,
        "image": torch.full((2, 6), float("nan")),
        "text": torch.full((2, 3), float("nan")),
    }
    present = torch.tensor([[True, False, False]] * 2)
    logits = fusion(Batch(inputs, present, torch.zeros(2)))
    blanks = {m: alone[m].get_buffer(f"blank_{m}").expand(2, -1) for m in SIZES} | {"audio": x}
    ones = torch.ones(2, 1, dtype=torch.bool)
    torch.testing.assert_close(
        logits, sum(alone[m](Batch({m: blanks[m]}, ones, logits)) for m in SIZES) / 3
    )


def test_the_average_of_answers_by_hand():
    answers = {"a": torch.tensor([[3.0], [5.0]]), "b": torch.tensor([[float("nan")], [9.0]])}
    instead = {"a": torch.tensor([1.0]), "b": torch.tensor([1.0])}
    keep = torch.tensor([[True, False], [True, True]])
    assert average_present(answers, instead, keep, imputed=False).tolist() == [
        [4.0],
        [7.0],
    ]  # 3 + 1; (5 + 9) / 2
    assert average_present(answers, instead, keep, imputed=True).tolist() == [[2.0], [7.0]]
    several = torch.stack([keep, torch.tensor([[False, False], [False, True]])], 1)
    assert average_present(answers, instead, several, imputed=False).tolist() == [
        [[4.0], [2.0]],
        [[7.0], [10.0]],
    ]


class Counting(nn.Module):
    """Batch norm that notes what enters it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.seen = nn.BatchNorm1d(width), list[torch.Tensor]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach().clone())
        return self.norm(x)


def normed() -> LateFusion:
    torch.manual_seed(0)
    encoders = {"a": Counting(3), "b": Counting(2)}
    return LateFusion(
        encoders, {"a": 3, "b": 2}, {"a": torch.zeros(3), "b": torch.zeros(2)}, 2, "learned"
    )


PRESENT = torch.tensor([[True, True], [True, False], [False, True], [True, False], [True, False]])


@pytest.mark.parametrize("one_drawn", [False, True])
def test_what_is_absent_never_enters_an_encoder_nor_its_statistics(one_drawn):
    """The weights and running means after a step do not depend on the content of absent rows."""
    after = []
    for poison in (0.0, 1e6, float("nan")):
        model = normed().train()
        inputs = {"a": torch.arange(15.0).reshape(5, 3), "b": torch.arange(10.0).reshape(5, 2) ** 2}
        for i, m in enumerate("ab"):
            inputs[m][~PRESENT[:, i]] = poison
        chance = np.arange(5, dtype=np.uint64)
        step = PatternStep(model, np.array([0.5, 0.25, 0.25]), one_drawn)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            step(Batch(inputs, PRESENT, torch.tensor([0, 1, 0, 1, 1]), chance)).backward()
            optimizer.step()
        after.append({name: x for name, x in model.state_dict().items() if "probe" not in name})
        for i, m in enumerate("ab"):
            rows = [len(x) for x in model.encoders[m].seen]
            assert max(rows) <= PRESENT[:, i].sum()
            assert one_drawn or rows == [int(PRESENT[:, i].sum())] * 2
    for other in after[1:]:
        assert all(torch.equal(after[0][name], other[name]) for name in after[0])


def test_a_batch_without_a_modality_gives_its_encoder_a_gradient_of_zeros_and_no_statistics():
    """As DistributedDataParallel wants the same parameters in every step."""
    model = normed().train()
    inputs = {"a": torch.randn(5, 3), "b": torch.full((5, 2), float("nan"))}
    present = torch.tensor([[True, False]] * 5)
    before = model.encoders["b"].norm.running_mean.clone()
    model(Batch(inputs, present, torch.zeros(5))).sum().backward()
    assert torch.equal(model.encoders["b"].norm.weight.grad, torch.zeros(2))
    assert torch.equal(model.encoders["b"].norm.running_mean, before)
    assert not any(x.isnan().any() for x in model.encoders["b"].seen)
    with torch.no_grad():
        count = len(model.encoders["b"].seen)
        model(Batch(inputs, present, torch.zeros(5)))
    assert len(model.encoders["b"].seen) == count


def test_of_a_single_sample_batch_norm_takes_its_own_statistics():
    model = normed().train()
    model.encoders["a"].norm.running_mean.fill_(1.0)
    there = torch.ones(1, dtype=torch.bool)
    features = model.encode_one("a", torch.tensor([[3.0, 1.0, 1.0]]), there)
    torch.testing.assert_close(features, torch.tensor([[2.0, 0.0, 0.0]]), atol=1e-4, rtol=0)
    assert model.encoders["a"].norm.training


def test_batch_norms_that_come_from_unimodal_training_keep_their_statistics():
    alone = {
        m: LateFusion({m: Counting(n)}, {m: n}, {m: torch.zeros(n)}, 2)
        for m, n in (("a", 3), ("b", 2))
    }
    for one in alone.values():
        for encoder in one.encoders.values():
            encoder.norm.running_mean.fill_(7.0)
    fusion = normed()
    fusion.start_from(alone)
    fusion.train()
    inputs = {"a": torch.randn(5, 3), "b": torch.randn(5, 2)}
    fusion(Batch(inputs, torch.ones(5, 2, dtype=torch.bool), torch.zeros(5))).sum().backward()
    assert fusion.encoders["a"].norm.running_mean.tolist() == [7.0] * 3
    assert fusion.encoders["a"].norm.weight.grad is not None  # they still learn their scale
    assert fusion.heads.training


def test_frozen_encoders_stay_in_evaluation_mode_and_get_no_gradient():
    fusion = LateFusion({"a": nn.BatchNorm1d(2)}, {"a": 2}, {"a": torch.zeros(2)}, 2)
    fusion.freeze(["a"])
    fusion.train()
    before = fusion.encoders["a"].running_mean.clone()
    fusion(
        Batch({"a": torch.randn(8, 2) + 5}, torch.ones(8, 1, dtype=torch.bool), torch.zeros(8))
    ).sum().backward()
    assert fusion.heads.training
    assert torch.equal(fusion.encoders["a"].running_mean, before)
    assert fusion.encoders["a"].weight.grad is None
    assert fusion.heads["a"].weight.grad is not None


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_on_features_of_an_encoder_the_answer_is_the_same(absent):
    fusion = model(absent)
    one = batch([1.0, 2.0], [3.0, 4.0], [[True, True], [True, False]])
    whole = fusion(one)
    features, _ = fusion.encode(one.inputs, one.present)
    with fusion.on_features({"image": fusion.encoders["image"](fusion.blank_image)[0]}):
        assert torch.equal(
            fusion(one._replace(inputs={**one.inputs, "image": features["image"]})), whole
        )
    assert torch.equal(fusion(one), whole)


def test_encoders_compute_in_the_precision_and_the_head_in_float32():
    fusion = model()
    fusion.precision = torch.bfloat16
    one = batch([1.001], [1.0])
    features, _ = fusion.encode(one.inputs, one.present)
    assert features["audio"].dtype == torch.float32
    assert features["audio"].item() == 2.0  # bfloat16 has 8 bits: 1.001 is 1


def test_blank_goes_with_the_model_but_not_into_its_weights():
    assert not [name for name in model().state_dict() if "blank" in name]

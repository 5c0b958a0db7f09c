"""The fusions of the field, on features of one or two numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from umemma.errors import UserError
from umemma.missing import make_keep_table
from umemma.models import fusions
from umemma.models.fusions import (
    FUSIONS,
    EmbraceNet,
    GatedExperts,
    PatternHead,
    build_fusion,
    check_exports,
    check_predicts_alone,
)
from umemma.models.late_fusion import LateFusion

DIMS = {"a": 1, "b": 2}
FEATURES = {"a": torch.tensor([[2.0]]), "b": torch.tensor([[3.0, 5.0]])}
COMPLETE = torch.tensor([[True, True]])
KEEP = torch.tensor([[[True, True], [True, False], [False, True]]])  # (1, S, M)
SEEDS = np.arange(400, dtype=np.uint64)

WIDE = {"a": 3, "b": 4, "c": 2}
PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]) == 1


def make_wide_features(absent: float = 0.0) -> dict[str, Tensor]:
    """Features of five samples; those of absent modalities have the value `absent`."""
    generator = torch.Generator().manual_seed(1)
    features = {}
    for i, (m, width) in enumerate(WIDE.items()):
        x = torch.randn(len(PRESENT), width, generator=generator)
        features[m] = x.where(PRESENT[:, i, None], absent)
    return features


def make_wide_fusion(name: str, is_training: bool):
    torch.manual_seed(0)
    fusion = build_fusion(name, WIDE, 5)
    if not is_training:
        bank = {m: torch.randn(20, width) for m, width in WIDE.items()}
        fusion.store_training_features(bank, torch.rand(20, 3) > 0.3)
    for parameter in fusion.parameters():
        nn.init.normal_(parameter)
    return fusion.train(is_training)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("name", FUSIONS)
def test_several_patterns_at_once_are_each_pattern_alone(name, is_training):
    features = make_wide_features()
    table = torch.from_numpy(make_keep_table(list(WIDE)))
    keep = PRESENT[:, None] & table
    together = make_wide_fusion(name, is_training)(features, keep, PRESENT, SEEDS[:5])
    assert together.shape == (5, 7, 5)
    for s in range(len(table)):
        alone = make_wide_fusion(name, is_training)(features, keep[:, s], PRESENT, SEEDS[:5])
        torch.testing.assert_close(together[:, s], alone)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("name", FUSIONS)
def test_absent_features_may_be_anything(name, is_training):
    logits = []
    for absent in (0.0, 1e3, math.nan):
        features = make_wide_features(absent)
        fusion = make_wide_fusion(name, is_training)
        logits.append(fusion(features, PRESENT, PRESENT, SEEDS[:5]))
    assert logits[0].isfinite().all()
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("name", FUSIONS)
def test_a_hidden_modality_has_no_influence_on_any_answer(name):
    keep = PRESENT & torch.tensor([True, True, False])
    features = make_wide_features()
    expected = make_wide_fusion(name, False)(features, keep, PRESENT)
    features["c"] += 1.0
    assert torch.equal(make_wide_fusion(name, False)(features, keep, PRESENT), expected)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_loaded_fusion_answers_the_same(name):
    fusion = make_wide_fusion(name, False)
    features = make_wide_features()
    loaded = build_fusion(name, WIDE, 5).eval()
    loaded.load_state_dict(load(save(fusion.state_dict())))
    expected = fusion(features, PRESENT, PRESENT)
    assert torch.equal(loaded(features, PRESENT, PRESENT), expected)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_parameter_has_a_gradient_with_any_pattern(name):
    """DistributedDataParallel needs it."""
    fusion = make_wide_fusion(name, True)
    fusion(make_wide_features(), PRESENT, PRESENT, SEEDS[:5]).sum().backward()
    assert all(parameter.grad is not None for parameter in fusion.parameters())


def test_each_pattern_has_its_own_head():
    fusion = PatternHead(DIMS, 1)
    for i, head in enumerate(fusion.heads):
        head.weight.data.fill_(i + 1)
        head.bias.data.fill_(0.25)
    # Heads by bits: a is 1, b is 2, both are 3.
    assert fusion(FEATURES, KEEP, COMPLETE).flatten().tolist() == [30.25, 2.25, 16.25]
    assert fusion(FEATURES, KEEP[:, :1] & False, COMPLETE).flatten().tolist() == [0.0]


def make_embracenet(width: int = 1) -> EmbraceNet:
    """a is docked as 2, b as 8; the logit is the mean of the components."""
    fusion = EmbraceNet(DIMS, 1, width=width)
    fusion.docking["a"].weight.data.fill_(1.0)
    fusion.docking["b"].weight.data.fill_(1.0)
    fusion.linear.weight.data.fill_(1 / width)
    for layer in [*fusion.docking.values(), fusion.linear]:
        layer.bias.data.zero_()
    return fusion


@pytest.mark.parametrize("shape", [(6,), (6, 4)])
def test_of_many_heads_each_sees_its_own_rows_only(shape, monkeypatch):
    names = "abcde"
    torch.manual_seed(0)
    fusion = PatternHead(dict.fromkeys(names, 3), 2)
    assert len(fusion.heads) == 31 > fusions.FEW_HEADS
    features = {m: torch.randn(6, 3) for m in names}
    keep = torch.rand(*shape, 5) > 0.5
    keep[0] = False  # nothing is left of a sample
    present = torch.ones(6, 5, dtype=torch.bool)
    seen = []
    for i, head in enumerate(fusion.heads):
        head.register_forward_hook(lambda _, inputs, __, i=i: seen.append((i, len(inputs[0]))))
    logits = fusion(features, keep, present)
    logits.sum().backward()
    gradients = [head.weight.grad for head in fusion.heads]
    assert sum(rows for _, rows in seen) == int(keep.any(-1).sum())  # not 31 times as many
    monkeypatch.setattr(fusions, "FEW_HEADS", 31)
    fusion.zero_grad()
    expected = fusion(features, keep, present)
    expected.sum().backward()
    torch.testing.assert_close(logits, expected)
    for own, head in zip(gradients, fusion.heads, strict=True):
        torch.testing.assert_close(own, head.weight.grad)


def test_embracenet_predicts_by_the_expectation():
    assert make_embracenet().eval()(FEATURES, KEEP, COMPLETE).flatten().tolist() == [5.0, 2.0, 8.0]


def test_embracenet_draws_a_modality_for_each_component_in_training():
    fusion = make_embracenet().train()
    features = {m: x.expand(400, -1) for m, x in FEATURES.items()}
    logits = fusion(features, KEEP.expand(400, -1, -1), COMPLETE.expand(400, -1), SEEDS)[..., 0]
    assert set(logits[:, 0].tolist()) == {2.0, 8.0}
    assert logits[:, 0].mean().item() == pytest.approx(5.0, abs=0.6)
    assert set(logits[:, 1].tolist()) == {2.0}
    assert set(logits[:, 2].tolist()) == {8.0}
    # Of one sample the components differ: their mean is near the expectation.
    wide = make_embracenet(width=400).train()
    assert wide(FEATURES, COMPLETE, COMPLETE, SEEDS[:1]).item() == pytest.approx(5.0, abs=0.6)


def test_a_draw_of_embracenet_belongs_to_the_sample_and_not_to_its_batch():
    fusion = make_embracenet(width=8).train()
    features = {m: x.expand(4, -1) for m, x in FEATURES.items()}
    complete = COMPLETE.expand(4, -1)
    torch.manual_seed(0)
    together = fusion(features, complete, complete, SEEDS[:4])
    alone = [fusion(FEATURES, COMPLETE, COMPLETE, SEEDS[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert len(set(together.flatten().tolist())) > 1


def make_gated() -> GatedExperts:
    """The expert of a answers 2, that of b 8."""
    fusion = GatedExperts(DIMS, 1)
    for head in fusion.heads.values():
        head.weight.data.fill_(1.0)
        head.bias.data.zero_()
    return fusion


def test_the_gate_starts_as_the_mean_of_the_experts():
    assert make_gated()(FEATURES, KEEP, COMPLETE).flatten().tolist() == [5.0, 2.0, 8.0]


def test_the_gate_weighs_the_experts_by_what_is_there():
    fusion = make_gated()
    # Scores: a has 0, b has ln 3 per unit of a, so with a = 2 it weighs 9 times as much.
    fusion.gate.weight.data = torch.tensor([[0.0, 0.0, 0.0], [math.log(3), 0.0, 0.0]])
    logits = fusion(FEATURES, KEEP, COMPLETE).flatten().tolist()
    assert logits == pytest.approx([0.1 * 2 + 0.9 * 8, 2.0, 8.0])
    assert fusion(FEATURES, KEEP & False, COMPLETE).flatten().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["mean", *FUSIONS])
def test_a_model_starts_from_unimodal_encoders_and_those_heads_that_it_has(name):
    def make(dims: dict[str, int], fusion: str) -> LateFusion:
        encoders = {m: nn.Linear(1, width) for m, width in dims.items()}
        blanks = {m: torch.zeros(1) for m in dims}
        return LateFusion(encoders, dims, blanks, 2, "learned", fusion)

    unimodal = {m: make({m: width}, "mean") for m, width in DIMS.items()}
    model = make(DIMS, name)
    model.start_from(unimodal)
    x = {m: torch.ones(1, 1) for m in DIMS}
    features, absent = model.encode(x, COMPLETE)
    logits = model.eval().fuse(features, absent, COMPLETE, COMPLETE)
    alone = []
    for m, single in unimodal.items():
        assert torch.equal(model.encoders[m].weight, single.encoders[m].weight)
        alone.append(single.heads[m](features[m]))
    is_mean = torch.allclose(logits, torch.stack(alone).mean(0))
    assert is_mean == (name in ("mean", "gated"))
    assert (len(model.vectors) > 0) == (name == "mean")


def test_who_has_no_answer_to_a_sample_alone_and_who_is_no_onnx():
    check_predicts_alone("retrieve", "models")
    with pytest.raises(UserError, match="preset fill-neighbour has no answer to a sample alone"):
        check_predicts_alone("fill-neighbour", "models")
    check_exports(build_fusion("gated", DIMS, 2), "models")
    with pytest.raises(UserError, match="preset retrieve can't be exported"):
        check_exports(build_fusion("retrieve", DIMS, 2), "models")

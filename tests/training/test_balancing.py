"""The two balancing methods: their effect on gradients and losses by hand, and resuming with them."""

from __future__ import annotations

import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from toys.project import quick
from toys.training import (
    COMPLETE,
    CPU,
    TRAINING,
    fit_toy,
    freeze_encoders,
    have_same_weights,
    toy_data,
    toy_model,
    toy_split,
)

from umemma.data import shard_reader
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.models import factory
from umemma.models.late_fusion import LateFusion
from umemma.stages import finetune
from umemma.training.balancing import (
    GradientModulation,
    Teachers,
    modulation_coefficients,
    predict_target_probability,
)
from umemma.training.run_folder import Run, format_csv
from umemma.training.step import PatternStep, make_validation
from umemma.training.train import train_model
from umemma.types import Batch


def fusion(audio: nn.Module, image: nn.Module, dim: int = 1) -> LateFusion:
    """Two classes; audio's share of the logits speaks for class 0 with 3 : 1 per unit of its feature, image's for class 1."""
    encoders = {"audio": audio, "image": image}
    model = LateFusion(
        encoders, dict.fromkeys(encoders, dim), dict.fromkeys(encoders, torch.zeros(dim)), 2
    )
    with torch.no_grad():
        for i, m in enumerate(("audio", "image")):
            model.heads[m].weight.zero_()
            model.heads[m].weight[i, 0] = 2 * math.log(3)  # of which the mean of two takes a half
            model.heads[m].bias.zero_()
    return model


def batch(audio: list, image: list, target: list, present: list | None = None) -> Batch:
    inputs = {"audio": torch.tensor(audio), "image": torch.tensor(image)}
    there = (
        torch.ones(len(target), 2, dtype=torch.bool) if present is None else torch.tensor(present)
    )
    return Batch(inputs, there, torch.tensor(target))


def test_what_a_modality_alone_answers():
    model = fusion(nn.Identity(), nn.Identity())
    with torch.no_grad():
        for head in model.heads.values():
            head.bias[0] = 2 * math.log(2)
    given = batch([[1.0], [1.0]], [[1.0], [1.0]], [0, 1])
    expected = torch.tensor([[6 / 7, 2 / 5], [1 / 7, 3 / 5]])  # odds of 3 * 2 : 1, and of 2 : 3
    torch.testing.assert_close(
        predict_target_probability(model, given.inputs, given.target), expected
    )


def test_of_sets_of_labels_it_is_the_geometric_mean():
    model = fusion(nn.Identity(), nn.Identity())
    given = batch([[1.0]], [[1.0]], [[1.0, 0.0]])
    expected = torch.tensor([[math.sqrt(3 / 4 * 1 / 2), math.sqrt(1 / 2 * 1 / 4)]])
    torch.testing.assert_close(
        predict_target_probability(model, given.inputs, given.target), expected
    )


@pytest.mark.parametrize(
    ("right", "present", "expected"),
    [
        ([[0.9, 0.3], [0.3, 0.1]], [[1, 1], [1, 1]], [1 - math.tanh(1.5), 1.0]),  # 0.6 : 0.2
        ([[0.9, 0.3], [0.3, 0.1]], [[1, 1], [0, 1]], [1 - math.tanh(2.25), 1.0]),  # 0.9 : 0.2
        ([[0.5, 0.5]], [[1, 1]], [1.0, 1.0]),
        ([[0.1, 0.9]], [[1, 0]], [1.0, 1.0]),  # nothing to compare with
        (
            [[0.75, 0.25, 0.125]],
            [[1, 1, 1]],
            [1 - math.tanh(2), 1.0, 1.0],
        ),  # 0.75 : the mean of 0.25 and 0.125
        ([[0.75, 0.25, 0.125]], [[1, 0, 1]], [1 - math.tanh(3), 1.0, 1.0]),
        ([[0.7]], [[1]], [1.0]),
    ],
)
def test_the_one_that_is_ahead_is_held_back(right, present, expected):
    k = modulation_coefficients(
        torch.tensor(right), torch.tensor(present, dtype=torch.bool), alpha=0.5
    )
    torch.testing.assert_close(k, torch.tensor(expected))


def gradients(
    given: list[Batch], noise: bool | None, dim: int = 1
) -> tuple[LateFusion, list[Tensor]]:
    """Return the model after a backward pass of each batch, and the coefficients of each.

    noise None: without gradient modulation.
    """
    torch.manual_seed(0)
    model = fusion(nn.Linear(dim, dim), nn.Linear(dim, dim), dim)
    modulation = None
    if noise is not None:
        modulation = GradientModulation(model, 0.5, noise)
    step = PatternStep(model, COMPLETE, False, modulation)
    coefficients = []
    for one_batch in given:
        step(one_batch).backward()
        if modulation is None:
            coefficients.append(torch.ones(2))
        else:
            coefficients.append(modulation.coefficients)
    return model, coefficients


def test_gradients_of_encoders_are_multiplied_and_those_of_the_head_are_not():
    given = batch([[1.0], [2.0]], [[0.5], [-1.0]], [0, 0])
    (plain, _), (held, (k,)) = gradients([given], None), gradients([given], False)
    assert sorted((k < 1).tolist()) == [False, True]
    for i, m in enumerate(plain.modalities):
        assert torch.equal(held.encoders[m].weight.grad, plain.encoders[m].weight.grad * k[i])
        assert torch.equal(
            held.encoders[m].bias.grad, plain.encoders[m].bias.grad
        )  # of one dimension
    for m in plain.modalities:
        assert torch.equal(held.heads[m].weight.grad, plain.heads[m].weight.grad)


def test_parts_whose_gradients_are_added_up_have_each_their_own():
    parts = [batch([[1.0]], [[0.5]], [0]), batch([[-1.0]], [[2.0]], [1])]
    alone = [gradients([part], False) for part in parts]
    both, ks = gradients(parts, False)
    assert not torch.equal(*ks)
    summed = sum(model.encoders["audio"].weight.grad for model, _ in alone)
    torch.testing.assert_close(both.encoders["audio"].weight.grad, summed)


def test_the_noise_is_as_wide_as_the_gradient_before_and_comes_from_the_seed():
    rows = torch.randn(4, 64, generator=torch.Generator().manual_seed(1)).tolist()
    given = [batch(rows, rows[::-1], [0, 1, 1, 1])]
    (plain, _), (held, (k,)), (again, _) = (
        gradients(given, noise, 64) for noise in (None, True, True)
    )
    for i, m in enumerate(plain.modalities):
        before, after = plain.encoders[m].weight.grad, held.encoders[m].weight.grad
        noise = after - before * k[i]
        assert noise.std().item() == pytest.approx(before.std().item(), rel=0.05)  # of 4096 numbers
        assert abs(noise.mean().item()) < 0.1 * before.std().item()
        assert torch.equal(after, again.encoders[m].weight.grad)
    step = PatternStep(plain, COMPLETE, False, GradientModulation(plain, 0.5, True))
    torch.manual_seed(1)
    plain.zero_grad()
    step(given[0]).backward()
    assert not torch.equal(plain.encoders["audio"].weight.grad, held.encoders["audio"].weight.grad)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_a_teachers_loss_by_hand():
    """The student's features are the inputs, audio's teacher doubles them, image's trebles them; what is absent is 0."""
    teachers = {
        m: fusion(Times(factor), Times(factor), 2) for m, factor in (("audio", 2.0), ("image", 3.0))
    }
    given = batch(
        [[1.0, 3.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]], [0, 1], [[True, True], [False, True]]
    )
    audio = (1 + 9) / 2 / 2  # over two features; the second of the two samples lacks it
    image = (4 + (4 + 4) / 2 - 4 + 4 / 2) / 2
    assert Teachers(teachers, 10.0)(given.inputs, given).item() == pytest.approx(
        10 * (audio + image)
    )
    only = {"image": teachers["image"]}
    assert Teachers(only, 1.0)(given.inputs, given).item() == pytest.approx(image)
    assert Teachers({}, 1.0)(given.inputs, given).item() == 0.0


def test_a_teacher_stays_as_it_is_and_outside_of_the_model():
    model, taught = fusion(nn.Linear(1, 1), nn.Linear(1, 1)), fusion(Times(2.0), Times(3.0))
    step = PatternStep(model, COMPLETE, False, Teachers({"audio": taught}, 1.0))
    given = batch([[1.0]], [[1.0]], [0])
    step.train()
    step(given).backward()
    assert not any(module.training for module in taught.modules())
    assert not any(p.requires_grad or p.grad is not None for p in taught.parameters())
    assert {id(p) for p in step.parameters()} == {id(p) for p in model.parameters()}
    feature = model.encoders["audio"](given.inputs["audio"])
    (plain,) = torch.autograd.grad(
        PatternStep(model, COMPLETE, False)(given), model.encoders["audio"].bias
    )
    expected = plain + 2 * (feature[0] - 2.0)  # of the squared distance
    torch.testing.assert_close(model.encoders["audio"].bias.grad, expected)


def train(folder: Path, name: str, stop: int = 0, **changes) -> tuple[LateFusion, str]:
    """Of toy data that lacks some; `stop`: by a signal, at that step."""
    split, model = toy_split(), toy_model()
    present = torch.ones(len(split), 2, dtype=torch.bool)
    present[::3, 0] = False
    split = replace(split, present=present)
    balancing = None
    if name == "ogm-ge":
        balancing = GradientModulation(model, 0.5, True)
    if name == "umt":
        torch.manual_seed(7)
        balancing = Teachers({m: toy_model() for m in model.dims}, 3.0)
        for teacher in balancing.teachers.values():
            weights = teacher.encoders.state_dict()
            teacher.encoders.load_state_dict({name: x + 1 for name, x in weights.items()})
    step = PatternStep(model, COMPLETE, False, balancing)
    passed = []

    def interrupting(module: nn.Module, given: object) -> None:
        passed.append(None)
        if len(passed) == stop:
            signal.raise_signal(signal.SIGTERM)

    step.register_forward_pre_hook(interrupting)
    run = Run(folder, "toy", seconds=1e9)
    validate = make_validation(model, split, COMPLETE, 32, CPU)
    rows = fit_toy(step, model, split, validate, run, epochs=3, **changes)
    return model, format_csv(rows)


@pytest.mark.parametrize("name", ["ogm-ge", "umt"])
@pytest.mark.parametrize("stop", [4, 6])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, name, stop):
    whole, figures = train(tmp_path / "whole", name)
    with pytest.raises(UserError, match=f"stopped by SIGTERM at step {stop}"):
        train(tmp_path / "cut", name, stop)
    again, others = train(tmp_path / "cut", name)
    assert have_same_weights(again, whole)
    assert others == figures
    assert not have_same_weights(whole, train(tmp_path / "plain", "")[0])


def test_being_taught_in_parts_is_being_taught_the_whole_batch(tmp_path):
    whole, _ = train(tmp_path / "a", "umt")
    parts, _ = train(tmp_path / "b", "umt", micro_batch=5)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(
            parts.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, equal_nan=True
        )


def test_taught_from_scratch_by_the_unimodal_models(project):
    params = quick("finetune.preset=umt")
    finetune.run(params)
    about = json.loads((params.paths.ensemble / "model.json").read_text())
    alone = {
        m: json.loads((params.paths.pretrain(m) / "model.json").read_text())
        for m in params.modalities
    }
    assert about["settings"]["starts_from"] == {m: one["fingerprint"] for m, one in alone.items()}
    assert about["started_from"] == {
        f"teacher of {m}": one["weights_sha256"] for m, one in alone.items()
    }
    saved = load_file(params.paths.ensemble / "model.safetensors")
    assert {name.split(".")[0] for name in saved} == {"encoders", "heads", "probes", "vectors"}
    before = torch.get_rng_state()
    finetune._load_unimodal(
        params,
        "audio",
        shard_reader.read_index(Store(params.paths.shards), params.shard_settings()),
    )
    assert torch.equal(torch.get_rng_state(), before)  # initial weights are those of late fusion
    shutil.rmtree(params.paths.pretrain("audio"))
    with pytest.raises(UserError, match="pretrain-unimodal --modality audio"):
        finetune.run(params, again=True)


def test_a_frozen_encoder_needs_no_teacher(tmp_path):
    """It trains on kept features, which no teacher could read; the other one is taught."""
    data = toy_data(tmp_path / "s")
    encoders = freeze_encoders("image")
    models = []
    for name, weight in (("a", 1.0), ("b", 2.0)):
        torch.manual_seed(0)
        model = factory.build(encoders, data.specs, data.index.classes)
        teacher = factory.build(encoders, data.specs, data.index.classes)
        step = PatternStep(model, COMPLETE, False, Teachers({"text": teacher}, weight))
        train_model(
            step,
            data,
            Run(tmp_path / name, "toy"),
            training=TRAINING,
            cache_folder=tmp_path / "features",
            device=CPU,
            title="toy",
        )
        models.append(model)
    assert not have_same_weights(*models)


@pytest.mark.parametrize("balance", ["ogm-ge", "umt"])
@pytest.mark.parametrize("preset", ["ume", "frozen"])
def test_without_an_encoder_to_train_there_is_nothing_to_balance(preset, balance):
    with pytest.raises(UserError, match="has no encoder to balance") as error:
        quick(f"finetune.preset={preset}", f"finetune.balance={balance}").finetune.switches()
    assert error.value.exit_status == 2

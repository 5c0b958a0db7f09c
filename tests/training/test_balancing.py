"""The two balancing methods: gradients and losses by hand, and resuming with them."""

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
from umemma.errors import UserError
from umemma.models import factory
from umemma.models.late_fusion import LateFusion
from umemma.stages import finetune
from umemma.system.storage import Store
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


def make_fusion(audio: nn.Module, image: nn.Module, dim: int = 1) -> LateFusion:
    """A model of two classes with given encoders.

    Audio's share of the logits speaks for class 0 with 3 : 1 per unit of its feature, image's for
    class 1.
    """
    encoders = {"audio": audio, "image": image}
    dims = dict.fromkeys(encoders, dim)
    blanks = dict.fromkeys(encoders, torch.zeros(dim))
    model = LateFusion(encoders, dims, blanks, 2)
    with torch.no_grad():
        for i, m in enumerate(("audio", "image")):
            model.heads[m].weight.zero_()
            model.heads[m].bias.zero_()
            model.heads[m].weight[i, 0] = 2 * math.log(3)  # the mean of two takes half of it
    return model


def make_batch(audio: list, image: list, target: list, present: list | None = None) -> Batch:
    """A batch in which everything is present, unless `present` says otherwise."""
    inputs = {"audio": torch.tensor(audio), "image": torch.tensor(image)}
    if present is None:
        present = [[True, True]] * len(target)
    return Batch(inputs, torch.tensor(present), torch.tensor(target))


def test_what_a_modality_alone_answers():
    model = make_fusion(nn.Identity(), nn.Identity())
    with torch.no_grad():
        for head in model.heads.values():
            head.bias[0] = 2 * math.log(2)
    batch = make_batch([[1.0], [1.0]], [[1.0], [1.0]], [0, 1])
    probability = predict_target_probability(model, batch.inputs, batch.target)
    expected = torch.tensor([[6 / 7, 2 / 5], [1 / 7, 3 / 5]])  # odds of 3 * 2 : 1, and of 2 : 3
    torch.testing.assert_close(probability, expected)


def test_of_sets_of_labels_it_is_the_geometric_mean():
    model = make_fusion(nn.Identity(), nn.Identity())
    batch = make_batch([[1.0]], [[1.0]], [[1.0, 0.0]])
    probability = predict_target_probability(model, batch.inputs, batch.target)
    expected = torch.tensor([[math.sqrt(3 / 4 * 1 / 2), math.sqrt(1 / 2 * 1 / 4)]])
    torch.testing.assert_close(probability, expected)


@pytest.mark.parametrize(
    ("probability", "present", "expected"),
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
def test_the_one_that_is_ahead_is_held_back(probability, present, expected):
    coefficients = modulation_coefficients(
        torch.tensor(probability),
        torch.tensor(present, dtype=torch.bool),
        alpha=0.5,
    )
    torch.testing.assert_close(coefficients, torch.tensor(expected))


def compute_gradients(
    batches: list[Batch], noise: bool | None, dim: int = 1
) -> tuple[LateFusion, list[Tensor]]:
    """Return the model after a backward pass of each batch, and the coefficients of each.

    noise None: without gradient modulation.
    """
    torch.manual_seed(0)
    model = make_fusion(nn.Linear(dim, dim), nn.Linear(dim, dim), dim)
    modulation = None
    if noise is not None:
        modulation = GradientModulation(model, 0.5, noise)
    step = PatternStep(model, COMPLETE, False, modulation)
    coefficients = []
    for batch in batches:
        step(batch).backward()
        if modulation is None:
            coefficients.append(torch.ones(2))
        else:
            coefficients.append(modulation.coefficients)
    return model, coefficients


def test_gradients_of_encoders_are_multiplied_and_those_of_the_head_are_not():
    batch = make_batch([[1.0], [2.0]], [[0.5], [-1.0]], [0, 0])
    plain, _ = compute_gradients([batch], None)
    modulated, (k,) = compute_gradients([batch], False)
    assert sorted((k < 1).tolist()) == [False, True]
    for i, m in enumerate(plain.modalities):
        encoder = plain.encoders[m]
        assert torch.equal(modulated.encoders[m].weight.grad, encoder.weight.grad * k[i])
        # A bias has one dimension only.
        assert torch.equal(modulated.encoders[m].bias.grad, encoder.bias.grad)
        assert torch.equal(modulated.heads[m].weight.grad, plain.heads[m].weight.grad)


def test_parts_whose_gradients_are_added_up_have_each_their_own():
    first = make_batch([[1.0]], [[0.5]], [0])
    second = make_batch([[-1.0]], [[2.0]], [1])
    both, coefficients = compute_gradients([first, second], False)
    assert not torch.equal(*coefficients)
    first_model, _ = compute_gradients([first], False)
    second_model, _ = compute_gradients([second], False)
    first_gradient = first_model.encoders["audio"].weight.grad
    second_gradient = second_model.encoders["audio"].weight.grad
    total = both.encoders["audio"].weight.grad
    torch.testing.assert_close(total, first_gradient + second_gradient)


def test_the_noise_is_as_wide_as_the_gradient_before_and_comes_from_the_seed():
    rows = torch.randn(4, 64, generator=torch.Generator().manual_seed(1)).tolist()
    batch = make_batch(rows, rows[::-1], [0, 1, 1, 1])
    plain, _ = compute_gradients([batch], None, 64)
    noisy, (k,) = compute_gradients([batch], True, 64)
    repeated, _ = compute_gradients([batch], True, 64)
    for i, m in enumerate(plain.modalities):
        before = plain.encoders[m].weight.grad
        after = noisy.encoders[m].weight.grad
        noise = after - before * k[i]
        assert noise.std().item() == pytest.approx(before.std().item(), rel=0.05)  # of 4096 numbers
        assert abs(noise.mean().item()) < 0.1 * before.std().item()
        assert torch.equal(after, repeated.encoders[m].weight.grad)
    step = PatternStep(plain, COMPLETE, False, GradientModulation(plain, 0.5, True))
    torch.manual_seed(1)
    plain.zero_grad()
    step(batch).backward()
    assert not torch.equal(plain.encoders["audio"].weight.grad, noisy.encoders["audio"].weight.grad)


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_a_teachers_loss_by_hand():
    """The student's features are the inputs; audio's teacher doubles them, image's trebles them.

    The feature of an absent modality is 0.
    """
    teachers = {
        "audio": make_fusion(Scale(2.0), Scale(2.0), 2),
        "image": make_fusion(Scale(3.0), Scale(3.0), 2),
    }
    batch = make_batch(
        audio=[[1.0, 3.0], [0.0, 0.0]],
        image=[[1.0, 1.0], [1.0, 0.0]],
        target=[0, 1],
        present=[[True, True], [False, True]],
    )
    audio = (1 + 9) / 2 / 2  # over two features; the second of the two samples lacks it
    image = (4 + (4 + 4) / 2 - 4 + 4 / 2) / 2
    both = Teachers(teachers, 10.0)(batch.inputs, batch)
    assert both.item() == pytest.approx(10 * (audio + image))
    only_image = Teachers({"image": teachers["image"]}, 1.0)(batch.inputs, batch)
    assert only_image.item() == pytest.approx(image)
    assert Teachers({}, 1.0)(batch.inputs, batch).item() == 0.0


def test_a_teacher_stays_as_it_is_and_outside_of_the_model():
    model = make_fusion(nn.Linear(1, 1), nn.Linear(1, 1))
    teacher = make_fusion(Scale(2.0), Scale(3.0))
    step = PatternStep(model, COMPLETE, False, Teachers({"audio": teacher}, 1.0))
    batch = make_batch([[1.0]], [[1.0]], [0])
    step.train()
    step(batch).backward()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert {id(p) for p in step.parameters()} == {id(p) for p in model.parameters()}
    encoder = model.encoders["audio"]
    feature = encoder(batch.inputs["audio"])
    task_loss = PatternStep(model, COMPLETE, False)(batch)
    (task_gradient,) = torch.autograd.grad(task_loss, encoder.bias)
    expected = task_gradient + 2 * (feature[0] - 2.0)  # of the squared distance
    torch.testing.assert_close(encoder.bias.grad, expected)


def train(folder: Path, name: str, stop: int = 0, **changes) -> tuple[LateFusion, str]:
    """Train with the balancing method `name` on data that lacks some audio.

    stop: the step at which a signal stops the training. Returns the model and its metrics.
    """
    split = toy_split()
    model = toy_model()
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
    steps = 0

    def interrupt(module: nn.Module, arguments: object) -> None:
        nonlocal steps
        steps += 1
        if steps == stop:
            signal.raise_signal(signal.SIGTERM)

    step.register_forward_pre_hook(interrupt)
    run = Run(folder, "toy", seconds=1e9)
    validate = make_validation(model, split, COMPLETE, 32, CPU)
    rows = fit_toy(step, model, split, validate, run, epochs=3, **changes)
    return model, format_csv(rows)


@pytest.mark.parametrize("name", ["ogm-ge", "umt"])
@pytest.mark.parametrize("stop", [4, 6])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, name, stop):
    whole, whole_metrics = train(tmp_path / "whole", name)
    with pytest.raises(UserError, match=f"stopped by SIGTERM at step {stop}"):
        train(tmp_path / "cut", name, stop)
    resumed, resumed_metrics = train(tmp_path / "cut", name)
    assert have_same_weights(resumed, whole)
    assert resumed_metrics == whole_metrics
    plain, _ = train(tmp_path / "plain", "")
    assert not have_same_weights(whole, plain)


def test_being_taught_in_parts_is_being_taught_the_whole_batch(tmp_path):
    whole, _ = train(tmp_path / "a", "umt")
    parts, _ = train(tmp_path / "b", "umt", micro_batch=5)
    torch.testing.assert_close(
        parts.state_dict(),
        whole.state_dict(),
        rtol=1e-4,
        atol=1e-5,
        equal_nan=True,
    )


@pytest.mark.slow
def test_taught_from_scratch_by_the_unimodal_models(project):
    params = quick("finetune.preset=umt")
    finetune.run(params)
    about = json.loads((params.paths.ensemble / "model.json").read_text())
    fingerprints = {}
    checksums = {}
    for m in params.modalities:
        unimodal = json.loads((params.paths.pretrain(m) / "model.json").read_text())
        fingerprints[m] = unimodal["fingerprint"]
        checksums[f"teacher of {m}"] = unimodal["weights_sha256"]
    assert about["settings"]["starts_from"] == fingerprints
    assert about["started_from"] == checksums
    weights = load_file(params.paths.ensemble / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"encoders", "heads", "probes", "vectors"}
    # A teacher draws nothing, so the initial weights are those of late fusion.
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    before = torch.get_rng_state()
    finetune._load_unimodal(params, "audio", index)
    assert torch.equal(torch.get_rng_state(), before)
    shutil.rmtree(params.paths.pretrain("audio"))
    with pytest.raises(UserError, match="pretrain-unimodal --modality audio"):
        finetune.run(params, force=True)


def test_a_frozen_encoder_needs_no_teacher(tmp_path):
    """It trains on cached features, which no teacher can read; the other encoder is taught."""
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
    params = quick(f"finetune.preset={preset}", f"finetune.balance={balance}")
    with pytest.raises(UserError, match="has no encoder to balance") as error:
        params.finetune.switches()
    assert error.value.exit_status == 2

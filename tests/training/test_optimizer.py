"""One step after another, by hand: who learns how fast, what decays, the schedule, the clipping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from toys.project import quick

from umemma.config import Training
from umemma.errors import UserError
from umemma.models import factory
from umemma.training.optimizer import Optimizer


def make_optimizer(
    model: nn.Module,
    rates: dict[str, tuple[float, float]] | None = None,
    **changes: float,
) -> Optimizer:
    training = Training(
        learning_rate=0.1,
        weight_decay=0.0,
        warmup=0.0,
        clip_norm=1e9,
    )
    training = training.model_copy(update=changes)
    return Optimizer(model, training, total_steps=10, rates=rates)


class Parts(nn.Module):
    """A matrix and a vector of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))


def step(model: nn.Module, own: Optimizer, done: int, gradient: float = 1.0) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    own.step(done)


def test_the_first_step_of_adamw_goes_as_far_as_the_learning_rate():
    model = Parts()
    step(model, make_optimizer(model), 0, gradient=123.0)
    torch.testing.assert_close(model.matrix.data, torch.full((2, 2), 0.9))


def test_matrices_decay_and_vectors_do_not():
    model = Parts()
    step(model, make_optimizer(model, weight_decay=0.5), 0)
    torch.testing.assert_close(model.matrix.data, torch.full((2, 2), 1 - 0.1 * 0.5 - 0.1))
    torch.testing.assert_close(model.vector.data, torch.full((2,), 0.9))


def test_parameters_with_rates_of_their_own():
    model = Parts()
    own = make_optimizer(model, weight_decay=0.5, rates={"matrix": (0.01, 0.2)})
    step(model, own, 0)
    torch.testing.assert_close(model.matrix.data, torch.full((2, 2), 1 - 0.01 * 0.2 - 0.01))
    torch.testing.assert_close(model.vector.data, torch.full((2,), 0.9))


@pytest.mark.parametrize("done", [0, 1, 2, 5, 9])
def test_the_rates_rise_in_a_line_and_fall_along_a_cosine(done):
    """Warm-up over 2 of 10 steps; every rate in proportion to its own peak."""
    model = Parts()
    own = make_optimizer(model, warmup=0.2, rates={"vector": (0.01, 0.0)})
    step(model, own, done)
    share = (
        max(done / 10, 1e-3) / 0.2 if done < 2 else 0.5 * (1 + math.cos(math.pi * (done - 2) / 8))
    )
    assert sorted(group["lr"] for group in own.adamw.param_groups) == pytest.approx(
        [0.01 * share, 0.1 * share]
    )
    assert own.learning_rate == pytest.approx(0.1 * share)


def test_large_gradients_are_clipped_to_the_norm_of_all():
    """A gradient of six times 6, whose norm is clipped to 2, does what six times 2 / sqrt(6) does; the next is within it."""
    ends = []
    for first, clip_norm in ((6.0, 2.0), (2 / math.sqrt(6), 1e9), (6.0, 1e9)):
        model = Parts()
        own = make_optimizer(model, clip_norm=clip_norm)
        for done, gradient in enumerate((first, 0.5)):
            step(model, own, done, gradient)
        ends.append(model.matrix.data[0, 0].item())
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)
    assert abs(ends[0] - ends[2]) > 1e-3


def test_rates_survive_a_checkpoint_whatever_their_order():
    """Three groups in another order than the parameters: each gets its own moments back."""
    torch.manual_seed(0)
    models_ = [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for _ in range(2)]
    models_[1].load_state_dict(models_[0].state_dict())
    rates = {"1.weight": (0.05, 0.0), "0.bias": (0.02, 0.0)}
    one, other = (make_optimizer(model, rates=rates, weight_decay=0.1) for model in models_)
    for done in range(3):
        step(models_[0], one, done, gradient=0.1 * done + 0.1)
    tensors = {name: x.clone() for name, x in one.state_tensors().items()}
    other.restore(tensors, one.scaler.state_dict())
    for model, own in zip(models_, (one, other), strict=True):
        step(model, own, 3, gradient=-0.2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(models_[0].parameters(), models_[1].parameters(), strict=True)
    )


def rates(
    *sets: str, names: tuple[str, ...] = ("audio", "image")
) -> dict[str, tuple[float, float]]:
    params = quick("finetune.learning_rate=1e-3", "finetune.weight_decay=0.1", *sets)
    chosen = {m: params.encoder(m) for m in names}
    model = factory.build(chosen, factory.input_specs(chosen), ["a", "b"], "learned")
    return factory.assign_learning_rates(model, params.finetune)


def test_every_part_of_a_model_has_the_rates_of_the_nearest_setting():
    found = rates(
        "finetune.encoder={learning_rate: 1e-5}",
        "finetune.head={weight_decay: 0.3}",
        "finetune.absence={learning_rate: 2e-2}",
        "finetune.modalities={image: {learning_rate: 5e-4, weight_decay: 0.0, encoder: {learning_rate: 2e-5}}}",
    )
    kinds = {tuple(name.split(".")[:2]): own for name, own in found.items()}
    assert kinds == {
        ("encoders", "audio"): (1e-5, 0.1),
        ("heads", "audio"): (1e-3, 0.3),
        ("vectors", "audio"): (2e-2, 0.0),
        ("encoders", "image"): (2e-5, 0.0),
        ("heads", "image"): (5e-4, 0.0),  # of the modality rather than of all heads
        ("vectors", "image"): (5e-4, 0.0),
    }


def test_adapters_have_rates_of_their_own_and_probes_none():
    found = rates("encoders.image={name: timm:vit_tiny_patch16_224, tune: lora, weights: none, input: {size: 224}}",
                  "finetune.adapters={learning_rate: 3e-4}", "finetune.encoder={learning_rate: 1e-6}")  # fmt: skip
    adapted = {name: own for name, own in found.items() if name.startswith("encoders.image")}
    assert adapted
    assert all("lora_" in name for name in adapted)
    assert set(adapted.values()) == {(3e-4, 0.1)}
    assert not [name for name in found if "probe" in name]


def test_what_an_encoder_says_never_to_decay_does_not():
    found = rates(
        "encoders.image={name: timm:vit_tiny_patch16_224, weights: none, input: {size: 224}}"
    )
    assert found["encoders.image.pos_embed"] == (1e-3, 0.0)
    assert found["encoders.image.blocks.0.attn.qkv.weight"] == (1e-3, 0.1)


def test_pretraining_takes_any_setting_for_one_modality():
    own = quick(
        "pretrain.modalities={image: {epochs: 3, head: {learning_rate: 1e-2}}}", "pretrain.epochs=7"
    ).pretrain
    assert (own.of("image").epochs, own.of("audio").epochs) == (3, 7)
    assert own.of("image").rate("head", "image") == (1e-2, own.weight_decay)
    assert own.of("image").rate("encoder", "image") == own.of("audio").rate("head", "audio")
    assert quick("pretrain.modalities={image: {epochs: 3}}").unimodal_settings(
        "audio", "s"
    ) == quick().unimodal_settings("audio", "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "pretrain.modalities={image: {epoch: 3}}",
            "pretrain.modalities.image.epoch' (Did you mean 'epochs'?",
        ),
        ("pretrain.modalities={image: {epochs: 0}}", "pretrain.modalities.image.epochs"),
        (
            "finetune.modalities={image: {epochs: 3}}",
            "unknown key 'finetune.modalities.image.epochs'",
        ),
        ("finetune.absence={weight_decay: 0.1}", "unknown key 'finetune.absence.weight_decay'"),
        ("finetune.head={learning_rate: -1}", "finetune.head.learning_rate"),
    ],
)
def test_rates_that_make_no_sense(change, message):
    with pytest.raises(UserError) as error:
        quick(change)
    assert message in str(error.value)
    assert error.value.exit_status == 2


@pytest.mark.parametrize("section", ["pretrain", "finetune"])
def test_rates_of_a_modality_that_is_not_there(section):
    with pytest.raises(UserError, match=f"{section}.modalities: unknown modality 'imgae'") as error:
        quick(f"{section}.modalities={{imgae: {{learning_rate: 1e-5}}}}").check_modalities(
            ["audio", "image"]
        )
    assert "Did you mean 'image'" in error.value.hint

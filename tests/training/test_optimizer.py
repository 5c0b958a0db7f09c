"""The optimizer step by step, by hand: learning rates, weight decay, schedule and clipping."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from toys.project import ROOT

from umemma.config import Training
from umemma.training import optimizer as optimizers
from umemma.training.optimizer import Optimizer, copy_weights, warmup_cosine


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


class MatrixAndVector(nn.Module):
    """A matrix and a vector of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(2, 2))
        self.vector = nn.Parameter(torch.ones(2))


def take_step(optimizer: Optimizer, step_index: int, gradient: float = 1.0) -> None:
    """Take a step with the same gradient for every number."""
    for parameter in optimizer.model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step(step_index)


def check_values(model: MatrixAndVector, matrix: float, vector: float) -> None:
    torch.testing.assert_close(model.matrix.data, torch.full((2, 2), matrix))
    torch.testing.assert_close(model.vector.data, torch.full((2,), vector))


def test_frozen_weights_are_in_no_copy_and_in_no_checkpoint():
    """Of a model whose second matrix is frozen and has a second name, and with a batch norm."""

    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trained = nn.Linear(2, 2, bias=False)
            self.frozen = nn.Linear(2, 2, bias=False).requires_grad_(False)
            self.tied = self.frozen
            self.norm = nn.BatchNorm1d(2).requires_grad_(False)

    model = Partly()
    optimizer = make_optimizer(model, ema=0.5)
    model.trained.weight.grad = torch.ones(2, 2)
    optimizer.step(0)
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert set(copy_weights(model)) == set(optimizer.average) == {"trained.weight", *statistics}
    tensors = {name: x.clone() for name, x in optimizer.state_tensors().items()}
    parts = [name.split(".", 1)[1] for name in tensors if not name.startswith("adamw")]
    assert set(parts) == {"trained.weight", *statistics}

    after = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.trained.weight.zero_()
        model.norm.running_mean.fill_(9.0)
    optimizer.restore(tensors, optimizer.scaler.state_dict())
    torch.testing.assert_close(model.state_dict(), after)
    with optimizer.averaged_weights():
        torch.testing.assert_close(model.frozen.weight, after["frozen.weight"])
        assert not torch.equal(model.trained.weight, after["trained.weight"])
    torch.testing.assert_close(model.state_dict(), after)
    del tensors["model.trained.weight"]
    with pytest.raises(AssertionError):
        optimizer.restore(tensors, optimizer.scaler.state_dict())


def test_the_first_step_of_adamw_goes_as_far_as_the_learning_rate():
    model = MatrixAndVector()
    take_step(make_optimizer(model), 0, gradient=123.0)
    check_values(model, matrix=0.9, vector=0.9)


def test_matrices_decay_and_vectors_do_not():
    model = MatrixAndVector()
    take_step(make_optimizer(model, weight_decay=0.5), 0)
    check_values(model, matrix=1 - 0.1 * 0.5 - 0.1, vector=0.9)


def test_parameters_with_rates_of_their_own():
    model = MatrixAndVector()
    optimizer = make_optimizer(model, weight_decay=0.5, rates={"matrix": (0.01, 0.2)})
    take_step(optimizer, 0)
    check_values(model, matrix=1 - 0.01 * 0.2 - 0.01, vector=0.9)


@pytest.mark.parametrize(
    ("step_index", "factor"),
    [
        (0, 1e-3 / 0.2),
        (1, 0.5),
        (2, 1.0),
        (5, 0.5 * (1 + math.cos(math.pi * 3 / 8))),
        (9, 0.5 * (1 + math.cos(math.pi * 7 / 8))),
    ],
)
def test_the_rates_rise_in_a_line_and_fall_along_a_cosine(step_index, factor):
    """Warm-up over 2 of 10 steps; every rate in proportion to its own peak."""
    optimizer = make_optimizer(
        MatrixAndVector(),
        warmup=0.2,
        rates={"vector": (0.01, 0.0)},
    )
    take_step(optimizer, step_index)
    rates = sorted(group["lr"] for group in optimizer.adamw.param_groups)
    assert rates == pytest.approx([0.01 * factor, 0.1 * factor])
    assert optimizer.learning_rate == pytest.approx(0.1 * factor)


def test_large_gradients_are_clipped_to_the_norm_of_all():
    """A gradient of six times 6 with a norm clipped to 2 acts as six times 2 / sqrt(6).

    The gradient of the next step is within the norm.
    """
    ends = []
    for first_gradient, clip_norm in ((6.0, 2.0), (2 / math.sqrt(6), 1e9), (6.0, 1e9)):
        model = MatrixAndVector()
        optimizer = make_optimizer(model, clip_norm=clip_norm)
        take_step(optimizer, 0, first_gradient)
        take_step(optimizer, 1, 0.5)
        ends.append(model.matrix.data[0, 0].item())
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)
    assert abs(ends[0] - ends[2]) > 1e-3


def test_rates_survive_a_checkpoint_whatever_their_order():
    """Three groups in another order than the parameters: each gets its own moments back."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    second = copy.deepcopy(first)
    rates = {"1.weight": (0.05, 0.0), "0.bias": (0.02, 0.0)}
    first_optimizer = make_optimizer(first, rates=rates, weight_decay=0.1)
    second_optimizer = make_optimizer(second, rates=rates, weight_decay=0.1)
    for step_index in range(3):
        take_step(first_optimizer, step_index, gradient=0.1 * step_index + 0.1)
    tensors = {name: x.clone() for name, x in first_optimizer.state_tensors().items()}
    second_optimizer.restore(tensors, first_optimizer.scaler.state_dict())
    take_step(first_optimizer, 3, gradient=-0.2)
    take_step(second_optimizer, 3, gradient=-0.2)
    for parameter, expected in zip(second.parameters(), first.parameters(), strict=True):
        assert torch.equal(parameter, expected)


def minimize(optimizer_class: type, **options: float | bool | str) -> list[torch.Tensor]:
    """Return the weights after three steps, of which the last has a copy of the optimizer."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x = torch.randn(8, 3)
    optimizer = optimizer_class(model.parameters(), lr=0.1, **options)

    def compute_loss() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(x) - 1).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(compute_loss)
    state = optimizer.state_dict()
    optimizer = optimizer_class(model.parameters(), lr=0.1, **options)
    optimizer.load_state_dict(state)
    optimizer.step(compute_loss)
    return [weights.detach().clone() for weights in model.parameters()]


@pytest.mark.parametrize(
    ("name", "options"),
    [("AdamW", {"fused": True}), ("LBFGS", {"line_search_fn": "strong_wolfe"})],
)
def test_without_dynamo_an_optimizer_gives_the_bits_of_torchs(name, options):
    found = minimize(getattr(optimizers, name), **options)
    assert all(map(torch.equal, found, minimize(getattr(torch.optim, name), **options)))


@pytest.mark.slow
def test_no_step_imports_dynamo():
    lines = [
        "import sys, torch",
        "sys.path[:0] = ['tests', 'tests/training']",
        "import test_optimizer as t",
        "t.test_rates_survive_a_checkpoint_whatever_their_order()",
        "t.minimize(t.optimizers.LBFGS)",
        "sys.exit('torch._dynamo' in sys.modules)",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=ROOT)


def test_the_average_of_the_weights_is_in_the_model_within_the_block_only():
    model = MatrixAndVector()
    optimizer = make_optimizer(model, ema=0.5)
    take_step(optimizer, 0)
    check_values(model, matrix=0.9, vector=0.9)
    with optimizer.averaged_weights():
        check_values(model, matrix=0.95, vector=0.95)
    check_values(model, matrix=0.9, vector=0.9)


@pytest.mark.parametrize(
    ("progress", "factor"),
    [
        (0.0, 1e-3 / 0.2),  # the first step learns something
        (0.1, 0.5),
        (0.2, 1.0),
        (0.6, 0.5),  # halfway through the decay
        (1.0, 0.0),
    ],
)
def test_warm_up_is_linear_and_decay_a_cosine(progress, factor):
    assert warmup_cosine(progress, warmup=0.2) == pytest.approx(factor, abs=1e-12)


def test_without_warm_up_the_decay_starts_at_the_peak():
    assert warmup_cosine(0.0, warmup=0.0) == 1.0


def test_all_steps_may_be_warm_up():
    assert warmup_cosine(0.5, warmup=1.0) == 0.5

"""The loss of a regression, and every fusion with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn
from toys.regression import make_outputs

from umemma.data.loader import LoadedSplit
from umemma.evaluation.regression import gaussian, measures
from umemma.models.fusion_head import BoundedMeans
from umemma.models.fusions import FUSIONS
from umemma.models.late_fusion import LateFusion
from umemma.training.loss import sample_losses
from umemma.training.pooling import fit_weights
from umemma.training.step import PatternStep, make_validation
from umemma.types import Batch


def test_the_loss_is_that_of_the_metric():
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(6, 4))
    target = generator.normal(size=(6, 2))
    losses = sample_losses(torch.from_numpy(outputs), torch.from_numpy(target))
    np.testing.assert_allclose(losses, measures.negative_log_likelihood(outputs, target))
    mean, precision = gaussian.to_gaussian(outputs)
    np.testing.assert_allclose(losses, -norm.logpdf(target, mean, precision**-0.5).mean(1))
    patterns = torch.from_numpy(np.stack([outputs, 2 * outputs], 1))
    by_pattern = sample_losses(patterns.float(), torch.from_numpy(target))
    assert by_pattern.shape == (6, 2)
    np.testing.assert_allclose(by_pattern[:, 0], losses, rtol=1e-5)


def test_a_modality_that_knows_nothing_gets_no_weight():
    """The one that knows is halved by the mean, so its weight is 2."""
    generator = np.random.default_rng(0)
    z = generator.normal(size=(4000, 1))
    x = z + generator.normal(size=z.shape) / 2
    knows = make_outputs(x * 0.8, 5.0)
    nothing = make_outputs(generator.normal(size=z.shape), 1.0)
    outputs = torch.from_numpy(np.stack([knows, nothing], 1))
    present = torch.ones(len(z), 2, dtype=torch.bool)
    first, second = fit_weights(outputs, present, torch.from_numpy(z))
    assert first == pytest.approx(2.0, rel=0.1)
    assert second < 0.1


def test_a_regression_starts_from_about_the_training_samples():
    torch.manual_seed(0)
    encoders = {"image": nn.Linear(2, 8)}
    for fusion in ("mean", "gated", "pattern-head", "retrieve"):
        model = LateFusion(encoders, {"image": 8}, {"image": torch.zeros(2)}, 4, fusion=fusion)
        model.prepare_regression()
        present = torch.ones(50, 1, dtype=torch.bool)
        outputs = model.eval()(Batch({"image": torch.randn(50, 2) / 3}, present, torch.zeros(50)))
        _, precision = gaussian.to_gaussian(outputs.detach().numpy())
        assert 0.4 < precision.mean() < 1.6, fusion  # 0.1 to 0.4 without


def test_a_regression_answers_near_the_targets_of_training():
    bound = BoundedMeans(2)
    bound.fit(torch.tensor([[1.0, -2.0], [-4.0, 0.5]], dtype=torch.float64))
    assert bound.reach.tolist() == [6.0, 3.0]  # 1.5 times the farthest
    far = torch.tensor([[-2.5, 3.0, 0.05, 0.1]])  # means of -50 and 30
    mean, _ = gaussian.to_gaussian(bound(far).numpy())
    assert -6 <= mean[0, 0] < -5
    assert 2.5 < mean[0, 1] <= 3
    # A weight of the head, which pooling gives, changes neither mean.
    weighted, _ = gaussian.to_gaussian(bound(3 * far).numpy())
    assert weighted == pytest.approx(mean, rel=0.05)
    near = torch.tensor([[-2.5, 3.0, 0.5, 1.5]])
    assert bound(near).equal(near)


def make_split(size: int = 80) -> LoadedSplit:
    """The target is what both inputs hold, but for noise."""
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    inputs = {}
    for m in ("audio", "image"):
        inputs[m] = target.float() + 0.3 * torch.randn(size, 2, generator=generator)
    keys = [f"k{i}" for i in range(size)]
    present = torch.ones(size, 2, dtype=torch.bool)
    return LoadedSplit(inputs, present, target, keys, {"sample": keys})


@pytest.mark.parametrize("fusion", ["mean", *sorted(FUSIONS)])
def test_every_fusion_learns_numbers(fusion):
    torch.manual_seed(0)
    split = make_split()
    encoders = {m: nn.Linear(2, 8) for m in ("audio", "image")}
    blanks = dict.fromkeys(encoders, torch.zeros(2))
    model = LateFusion(encoders, {"audio": 8, "image": 8}, blanks, 4, fusion=fusion)
    step = PatternStep(model, np.full(3, 1 / 3), draw_one=False)
    seeds = np.arange(len(split), dtype=np.uint64)
    batch = Batch(split.in_memory, split.present, split.target, seeds)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    model.prepare_regression()
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        step(batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # as is the default
        optimizer.step()
    validation = make_validation(model, split, np.array([1.0, 0.0, 0.0]), 40, torch.device("cpu"))
    assert validation.metric == "R2"
    assert validation.run()["score"] > 0.8

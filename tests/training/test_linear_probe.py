"""The probe of an ensemble's features, beside scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional
from toys.training import toy, trained

from umemma.data.loader import LoadedSplit
from umemma.models.late_fusion import LateFusion
from umemma.training import linear_probe

CPU = torch.device("cpu")


def blobs(seed: int, samples: int = 300, noise: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 4) features of three classes, of very unequal scales."""
    chance = np.random.default_rng(seed)
    target = np.arange(samples) % 3
    x = np.eye(3, 4)[target] * 3 + noise * chance.standard_normal((samples, 4))
    return torch.from_numpy(x * [1.0, 10.0, 0.1, 1.0] + [0, 5, 0, 0]).float(), torch.from_numpy(
        target
    )


@pytest.mark.parametrize("decay", [1e-1, 1e-3])
def test_it_is_logistic_regression_of_standardised_features(monkeypatch, decay):
    monkeypatch.setattr(linear_probe, "DECAYS", (decay,))
    x, y = blobs(0)
    found = linear_probe.fit((x, y), blobs(1), 3)
    z = ((x - x.mean(0)) / x.std(0)).numpy()
    expected = LogisticRegression(C=1 / (decay * len(y)), tol=1e-8, max_iter=1000).fit(z, y.numpy())
    np.testing.assert_allclose(found(x).softmax(1).detach(), expected.predict_proba(z), atol=2e-3)


def test_the_decay_is_what_the_held_out_samples_like_best():
    """Twelve samples can't be trusted: a strong decay is chosen; of many a weak one."""
    few, many, held_out = blobs(0, 12), blobs(0, 3000), blobs(1)
    norms = [linear_probe.fit(known, held_out, 3).weight.norm().item() for known in (few, many)]
    losses = {}
    for decay in linear_probe.DECAYS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(linear_probe, "DECAYS", (decay,))
            layer = linear_probe.fit(few, held_out, 3)
            losses[decay] = functional.cross_entropy(layer(held_out[0]), held_out[1]).item()
    chosen = linear_probe.fit(few, held_out, 3)
    assert (
        functional.cross_entropy(chosen(held_out[0]), held_out[1]).item()
        <= min(losses.values()) + 1e-2
    )
    assert norms[0] < norms[1]


def test_sets_of_labels():
    x, y = blobs(0, noise=0.1)
    labels = torch.stack([y == 0, y != 1], 1).float()
    found = linear_probe.fit((x, labels), (x, labels), 2)
    assert ((found(x) > 0).float() == labels).all()


def halves(target: torch.Tensor, present: torch.Tensor) -> LoadedSplit:
    """Audio's feature is the class, image's is noise where it is there and would give the class away where it isn't."""
    chance = torch.Generator().manual_seed(0)
    tell, noise = 2.0 * target[:, None] - 1, torch.randn(len(target), 1, generator=chance)
    inputs = {"audio": tell, "image": noise.where(present[:, 1, None], 10 * tell)}
    keys = [f"k{i}" for i in range(len(target))]
    specs = dict.fromkeys(("audio", "image"))
    return LoadedSplit(inputs, present, target, keys, keys, specs)  # type: ignore[arg-type]


@pytest.fixture
def identity(monkeypatch) -> LateFusion:
    monkeypatch.setattr(LoadedSplit, "batches", plain_batches)
    modules = {m: torch.nn.Identity() for m in ("audio", "image")}
    return LateFusion(modules, dict.fromkeys(modules, 1), dict.fromkeys(modules, torch.zeros(1)), 2)


def plain_batches(split: LoadedSplit, plan, device, seed=None):
    """As Split.batches, of tensors that no modality has to finish."""
    from umemma.types import Batch

    for numbers in plan:
        rows = torch.from_numpy(numbers)
        yield Batch(
            {m: x[rows] for m, x in split.in_memory.items()},
            split.present[rows],
            split.target[rows],
        )


def test_only_samples_that_have_it_are_fitted_to(identity):
    target = torch.arange(80) % 2
    present = torch.ones(80, 2, dtype=torch.bool)
    present[::3, 1] = False
    split = halves(target, present)
    linear_probe.fit_all(identity, split, split, 16, CPU)
    assert ((identity.probes["audio"](split.in_memory["audio"]).argmax(1)) == target).all()
    there = present[:, 1]
    right = (
        (identity.probes["image"](split.in_memory["image"]).argmax(1) == target)[there]
        .float()
        .mean()
    )
    assert 0.3 < right < 0.75  # noise
    assert identity.probes["image"].weight.abs().max() < 1


def test_it_is_fitted_to_training_and_not_to_validation(identity):
    target, there = torch.arange(80) % 2, torch.ones(80, 2, dtype=torch.bool)
    train, val = halves(target, there), halves(target, there)
    val.in_memory["audio"].neg_()  # in validation the feature says the opposite
    linear_probe.fit_all(identity, train, val, 16, CPU)
    assert (identity.probes["audio"](train.in_memory["audio"]).argmax(1) == target).all()


def test_of_one_class_there_is_no_probe_and_it_says_so(identity, messages):
    target, present = torch.arange(80) % 2, torch.ones(80, 2, dtype=torch.bool)
    present[target == 0, 1] = False  # whatever has an image is of class 1
    split = halves(target, present)
    linear_probe.fit_all(identity, split, split, 16, CPU)
    assert identity.probes["image"].weight.isnan().all()
    assert not identity.probes["audio"].weight.isnan().any()
    assert any("image: its training samples are of one class" in message for message in messages)


def test_after_a_training_the_probe_tells_what_the_features_hold(tmp_path):
    model, _ = trained(tmp_path, toy(tmp_path / "s"), epochs=6, learning_rate=3e-2)
    assert not any(x.isnan().any() for x in model.probes.state_dict().values())

"""The linear probes of an ensemble, compared with scikit-learn and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional
from toys.project import quick
from toys.training import CPU, toy_data, train_toy

from umemma.data.loader import LoadedSplit
from umemma.models.late_fusion import LateFusion
from umemma.stages import evaluate, finetune
from umemma.training import linear_probe
from umemma.types import Batch


def blobs(seed: int, samples: int = 300, noise: float = 2.0) -> tuple[Tensor, Tensor]:
    """(N, 4) features of three classes, of very unequal scales."""
    generator = np.random.default_rng(seed)
    target = np.arange(samples) % 3
    x = np.eye(3, 4)[target] * 3 + noise * generator.standard_normal((samples, 4))
    scaled = x * [1.0, 10.0, 0.1, 1.0] + [0, 5, 0, 0]
    return torch.from_numpy(scaled).float(), torch.from_numpy(target)


@pytest.mark.parametrize("decay", [1e-1, 1e-3])
def test_it_is_logistic_regression_of_standardised_features(monkeypatch, decay):
    monkeypatch.setattr(linear_probe, "DECAYS", (decay,))
    x, target = blobs(0)
    probe = linear_probe.fit((x, target), blobs(1), 3)
    standardised = ((x - x.mean(0)) / x.std(0)).numpy()
    reference = LogisticRegression(C=1 / (decay * len(target)), tol=1e-8, max_iter=1000)
    reference.fit(standardised, target.numpy())
    probabilities = probe(x).softmax(1).detach()
    expected = reference.predict_proba(standardised)
    np.testing.assert_allclose(probabilities, expected, atol=2e-3)


def compute_loss(probe: nn.Linear, held_out: tuple[Tensor, Tensor]) -> float:
    features, target = held_out
    return functional.cross_entropy(probe(features), target).item()


def test_the_decay_is_the_best_one_on_the_held_out_samples():
    """Twelve samples can't be trusted, so a strong decay is chosen; of many a weak one."""
    few = blobs(0, 12)
    many = blobs(0, 3000)
    held_out = blobs(1)
    losses = []
    for decay in linear_probe.DECAYS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(linear_probe, "DECAYS", (decay,))
            losses.append(compute_loss(linear_probe.fit(few, held_out, 3), held_out))
    few_probe = linear_probe.fit(few, held_out, 3)
    many_probe = linear_probe.fit(many, held_out, 3)
    assert compute_loss(few_probe, held_out) <= min(losses) + 1e-2
    assert few_probe.weight.norm() < many_probe.weight.norm()


def test_sets_of_labels():
    x, target = blobs(0, noise=0.1)
    labels = torch.stack([target == 0, target != 1], 1).float()
    probe = linear_probe.fit((x, labels), (x, labels), 2)
    assert ((probe(x) > 0).float() == labels).all()


def make_split(target: Tensor, present: Tensor) -> LoadedSplit:
    """Audio's feature is the class; image's is noise, and the class where the image is absent."""
    generator = torch.Generator().manual_seed(0)
    sign = 2.0 * target[:, None] - 1
    noise = torch.randn(len(target), 1, generator=generator)
    inputs = {
        "audio": sign,
        "image": noise.where(present[:, 1, None], 10 * sign),
    }
    keys = [f"k{i}" for i in range(len(target))]
    specs = dict.fromkeys(("audio", "image"))
    return LoadedSplit(inputs, present, target, keys, keys, specs)  # type: ignore[arg-type]


@pytest.fixture
def identity(monkeypatch) -> LateFusion:
    """A model whose features are its inputs."""
    monkeypatch.setattr(LoadedSplit, "batches", plain_batches)
    modules = {m: nn.Identity() for m in ("audio", "image")}
    dims = dict.fromkeys(modules, 1)
    blanks = dict.fromkeys(modules, torch.zeros(1))
    return LateFusion(modules, dims, blanks, 2)


def plain_batches(split: LoadedSplit, plan, device, seed=None):
    """As LoadedSplit.batches, of tensors that no modality has to finish."""
    for indices in plan:
        rows = torch.from_numpy(indices)
        inputs = {m: x[rows] for m, x in split.in_memory.items()}
        yield Batch(inputs, split.present[rows], split.target[rows])


def predict_classes(model: LateFusion, modality: str, split: LoadedSplit) -> Tensor:
    """(N,) classes from a probe."""
    return model.probes[modality](split.in_memory[modality]).argmax(1)


def test_only_samples_that_have_it_are_fitted_to(identity):
    target = torch.arange(80) % 2
    present = torch.ones(80, 2, dtype=torch.bool)
    present[::3, 1] = False
    split = make_split(target, present)
    linear_probe.fit_all(identity, split, split, 16, CPU)
    assert (predict_classes(identity, "audio", split) == target).all()
    is_correct = predict_classes(identity, "image", split) == target
    has_image = present[:, 1]
    assert 0.3 < is_correct[has_image].float().mean() < 0.75  # noise
    assert identity.probes["image"].weight.abs().max() < 1


def test_it_is_fitted_to_training_and_not_to_validation(identity):
    target = torch.arange(80) % 2
    present = torch.ones(80, 2, dtype=torch.bool)
    train = make_split(target, present)
    val = make_split(target, present)
    val.in_memory["audio"].neg_()  # in validation the feature is the other class
    linear_probe.fit_all(identity, train, val, 16, CPU)
    assert (predict_classes(identity, "audio", train) == target).all()


def test_of_one_class_there_is_no_probe_and_it_says_so(identity, messages):
    target = torch.arange(80) % 2
    present = torch.ones(80, 2, dtype=torch.bool)
    present[target == 0, 1] = False  # every sample with an image is of class 1
    split = make_split(target, present)
    linear_probe.fit_all(identity, split, split, 16, CPU)
    assert identity.probes["image"].weight.isnan().all()
    assert not identity.probes["audio"].weight.isnan().any()
    warning = "image: its training samples are all of one class"
    assert any(warning in message for message in messages)


def test_after_a_training_the_probe_tells_what_the_features_hold(tmp_path):
    model, _ = train_toy(tmp_path, toy_data(tmp_path / "s"), epochs=6, learning_rate=3e-2)
    assert not any(x.isnan().any() for x in model.probes.state_dict().values())


@pytest.mark.slow
def test_the_probe_of_each_modality_is_fitted_and_belongs_to_the_model(project):
    finetune.run(quick("finetune.preset=ume"))
    weights = load_file("models/digits/ensemble/model.safetensors")
    assert {name for name in weights if name.startswith("probes")} == {
        "probes.audio.weight",
        "probes.audio.bias",
        "probes.image.weight",
        "probes.image.bias",
    }
    assert not any(x.isnan().any() for x in weights.values())
    about = json.loads(Path("models/digits/ensemble/model.json").read_text())
    assert {"probe/audio", "probe/image"} < about["calibration"].keys()
    evaluate.run(quick("finetune.preset=ume"))
    information = json.loads(Path("results/digits/information.json").read_text())
    assert [row["modality"] for row in information["encoder_gaps"]] == ["audio", "image"]
    scores = {}
    for name in ("gaps", "encoder_gaps", "fusion_gaps"):
        scores[name] = [row["score"] for row in information[name]]
    parts = np.add(scores["encoder_gaps"], scores["fusion_gaps"])
    np.testing.assert_allclose(parts, scores["gaps"])

"""The feature cache of frozen encoders: the same training, and nothing out of date."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys.training import CPU, ENCODERS, freeze_encoders, have_same_weights, toy_data, train_toy

from umemma.config import Machine
from umemma.models import factory
from umemma.training import feature_cache


def count_passes(messages: list[str]) -> int:
    """How many splits were encoded, as the log says."""
    return sum("features of" in message for message in messages)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["image"], ["image", "text"]])
@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_training_on_cached_features_is_training_with_the_frozen_encoder(
    tmp_path, monkeypatch, messages, names, memory
):
    data = replace(toy_data(tmp_path / "s"), machine=Machine(memory=memory, workers=0))
    encoders = freeze_encoders(*names)
    cached, scores = train_toy(tmp_path / "a", data, encoders)
    assert count_passes(messages) == 2  # train and val
    repeated, _ = train_toy(tmp_path / "a", data, encoders)
    assert have_same_weights(cached, repeated, with_probes=False)
    # The same features serve another training.
    train_toy(tmp_path / "a", data, encoders, learning_rate=1e-3)
    assert count_passes(messages) == 2

    monkeypatch.setattr(feature_cache, "find_frozen", lambda model, augments: [])
    uncached, uncached_scores = train_toy(tmp_path / "b", data, encoders)
    assert count_passes(messages) == 2
    torch.testing.assert_close(cached.state_dict(), uncached.state_dict(), rtol=1e-4, atol=1e-5)
    assert scores["val_score"] == uncached_scores["val_score"]
    # The encoders are in the model again.
    fresh = factory.build(ENCODERS, data.specs, ["no", "yes"], "learned")
    assert cached.encoders.state_dict().keys() == fresh.encoders.state_dict().keys()


def test_features_of_other_weights_are_not_taken(tmp_path, messages):
    data = toy_data(tmp_path / "s")
    cache = tmp_path / "cache"
    for seed in range(2):
        torch.manual_seed(seed)
        model = factory.build(freeze_encoders("image"), data.specs, ["no", "yes"])
        with contextlib.ExitStack() as stay:
            splits = {"val": data.load("val", stay, "toy", ["image"])}
            (batch,) = splits["val"].batches([np.arange(20)], CPU)
            features = model.encode_one("image", batch.inputs["image"], batch.present[:, 0])
            on_features = stay.enter_context(
                feature_cache.cache_features(model, splits, ["image"], cache, {}, 8, CPU)
            )
            torch.testing.assert_close(on_features["val"].in_memory["image"], features.detach())
    assert count_passes(messages) == 2
    # The files have the mode of any new file.
    new_file = tmp_path / "new"
    new_file.touch()
    modes = {path.stat().st_mode for path in cache.iterdir()}
    assert modes == {new_file.stat().st_mode}


def test_features_of_samples_that_had_lost_it_are_not_taken(tmp_path, messages):
    """A share of the images is taken away, then none: the keys stay, what is present changes."""
    whole = toy_data(tmp_path / "s")
    encoders = freeze_encoders("image")
    for ratio in (0.5, 0.0):
        data = replace(whole, missing={"train": {"image": ratio}})
        model, _ = train_toy(tmp_path / "a", data, encoders)
        shutil.rmtree(tmp_path / "a" / "run")
    expected, _ = train_toy(tmp_path / "b", whole, encoders)
    assert have_same_weights(model, expected, with_probes=False)


def test_an_augmented_encoder_has_no_cached_features(tmp_path):
    specs = toy_data(tmp_path).specs
    model = factory.build(freeze_encoders("image"), specs, ["no", "yes"])
    assert feature_cache.find_frozen(model, {}) == ["image"]
    assert feature_cache.find_frozen(model, {"image": object()}) == []


def test_a_damaged_file_is_encoded_again(tmp_path, messages):
    data = toy_data(tmp_path / "s")
    encoders = freeze_encoders("image")
    expected, _ = train_toy(tmp_path / "a", data, encoders)
    for path in (tmp_path / "a" / "features").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    shutil.rmtree(tmp_path / "a" / "run")
    model, _ = train_toy(tmp_path / "a", data, encoders)
    assert count_passes(messages) == 4
    assert have_same_weights(model, expected)

"""The feature cache of frozen encoders: the same training, and nothing out of date."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
import pytest
import torch
from toys.training import CPU, ENCODERS, freeze_encoders, have_same_weights, toy_data, train_toy

from umemma.config import Machine
from umemma.models import factory
from umemma.training import feature_cache
from umemma.training.train import DataSource


@pytest.mark.parametrize("names", [["image"], ["image", "text"]])
@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_training_on_kept_features_is_training_with_the_frozen_encoder(
    tmp_path, monkeypatch, messages, names, memory
):
    data = toy_data(tmp_path / "s")
    data = DataSource(data.store, data.index, data.specs, Machine(memory=memory, workers=0), 0)
    kept, scores = train_toy(tmp_path / "a", data, freeze_encoders(*names))
    assert sum("features of" in message for message in messages) == 2  # train and val
    again, _ = train_toy(tmp_path / "a", data, freeze_encoders(*names))
    assert sum("features of" in message for message in messages) == 2
    assert have_same_weights(kept, again, with_probes=False)
    train_toy(
        tmp_path / "a", data, freeze_encoders(*names), learning_rate=1e-3
    )  # the same features serve another training
    assert sum("features of" in message for message in messages) == 2
    monkeypatch.setattr(feature_cache, "find_frozen", lambda model, augments: [])
    slow, others = train_toy(tmp_path / "b", data, freeze_encoders(*names))
    assert sum("features of" in message for message in messages) == 2
    for name, tensor in kept.state_dict().items():
        torch.testing.assert_close(tensor, slow.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert scores["val_score"] == others["val_score"]
    fresh = factory.build(ENCODERS, data.specs, ["no", "yes"], "learned").encoders
    assert (
        kept.encoders.state_dict().keys() == fresh.state_dict().keys()
    )  # the encoders are in the model again


def test_features_of_other_weights_are_not_taken(tmp_path, messages):
    data = toy_data(tmp_path / "s")
    for seed in range(2):
        torch.manual_seed(seed)
        model = factory.build(freeze_encoders("image"), data.specs, ["no", "yes"])
        with contextlib.ExitStack() as stay:
            splits = {"val": data.load("val", stay, "toy", ["image"])}
            (plain,) = splits["val"].batches([np.arange(20)], CPU)
            expected = model.encode_one(
                "image", plain.inputs["image"], plain.present[:, 0]
            ).detach()
            with feature_cache.cache_features(
                model, splits, ["image"], tmp_path / "f", {}, 8, CPU
            ) as seen:
                torch.testing.assert_close(seen["val"].kept["image"], expected)
    assert sum("features of" in message for message in messages) == 2
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in [*(tmp_path / "f").iterdir(), tmp_path / "new"]}
    assert len(modes) == 1  # they may be read as any new file may


def test_features_of_samples_that_had_lost_it_are_not_taken(tmp_path, messages):
    """Frozen pictures, a share of them taken away, then another: the keys stay, what is there doesn't."""
    whole = toy_data(tmp_path / "s")
    for ratio in (0.5, 0.0):
        data = DataSource(
            whole.store,
            whole.index,
            whole.specs,
            whole.machine,
            0,
            missing={"train": {"image": ratio}},
        )
        model, _ = train_toy(tmp_path / "a", data, freeze_encoders("image"))
        shutil.rmtree(tmp_path / "a" / "run")
    assert have_same_weights(
        model, train_toy(tmp_path / "b", whole, freeze_encoders("image"))[0], with_probes=False
    )


def test_an_augmented_encoder_has_no_kept_features(tmp_path):
    model = factory.build(freeze_encoders("image"), toy_data(tmp_path).specs, ["no", "yes"])
    assert feature_cache.find_frozen(model, {}) == ["image"]
    assert feature_cache.find_frozen(model, {"image": object()}) == []

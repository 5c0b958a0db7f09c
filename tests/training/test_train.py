"""Training as the stages do it: absences, streaming, calibration, bad data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys.project import quick
from toys.training import ENCODERS, have_same_weights, toy_data, train_toy

from umemma.config import Machine
from umemma.errors import UserError
from umemma.missing import draw_training_absences
from umemma.stages import finetune, pretrain
from umemma.training import train
from umemma.training.train import DataSource


@pytest.mark.parametrize("modality", ["image", "both"])
def test_taking_away_is_as_if_it_had_never_been_there(tmp_path, modality):
    """`missing.train` against shards that really lack the media: the same weights, alone and together."""
    ratios = {"image": 0.4, "text": 0.3}
    whole = toy_data(tmp_path / "whole")
    keys = [f"k{i}" for i in range(40)]
    gone = {
        (k, m)
        for m, away in draw_training_absences(keys, 0, ratios).items()
        for k, lacks in zip(keys, away, strict=True)
        if lacks
    }
    assert 15 < len(gone) < 45
    lacking = toy_data(tmp_path / "lacking", gone)
    simulated = DataSource(
        whole.store, whole.index, whole.specs, whole.machine, 0, missing={"train": ratios}
    )
    chosen = {"image": ENCODERS["image"]} if modality == "image" else ENCODERS
    first, scores = train_toy(tmp_path / "a", simulated, chosen)
    second, others = train_toy(tmp_path / "b", lacking, chosen)
    assert have_same_weights(first, second, with_probes=False)
    assert scores == others
    assert not have_same_weights(
        first, train_toy(tmp_path / "c", whole, chosen)[0], with_probes=False
    )


def test_streaming_trains_to_the_same_weights(tmp_path):
    data = toy_data(tmp_path / "s")
    kept, _ = train_toy(tmp_path / "a", data)
    streamed = DataSource(data.store, data.index, data.specs, Machine(memory=0.0, workers=1), 0)
    assert have_same_weights(kept, train_toy(tmp_path / "b", streamed)[0], with_probes=False)


def test_one_class_only(tmp_path):
    with pytest.raises(UserError, match="all 40 samples are of one class"):
        train_toy(tmp_path, toy_data(tmp_path / "s", labels=1))


def test_labels_out_of_range(tmp_path):
    data = toy_data(tmp_path / "s")
    narrow = data.index.model_copy(update={"classes": ["no"]})
    with pytest.raises(UserError, match="has no description, or one that makes no sense"):
        train_toy(tmp_path, DataSource(data.store, narrow, data.specs, data.machine, 0))


def test_training_never_opens_the_test_split(project):
    for file in Path("data/shards/digits").glob("test-*.tar"):
        file.unlink()
    pretrain.run(quick(), "image", again=True)
    finetune.run(quick())


def test_calibration_is_fitted_on_validation(tmp_path, monkeypatch):
    seen = []
    fit = train.calibration.fit

    def noted(logits: np.ndarray, target: np.ndarray, *rest: Any) -> Any:
        seen.append(target.tolist())
        return fit(logits, target, *rest)

    monkeypatch.setattr(train.calibration, "fit", noted)
    train_toy(tmp_path / "run", toy_data(tmp_path / "s", flip_val=True))
    assert len(seen) == 5  # three subsets and two probes
    assert all(target == [1 - i % 2 for i in range(40, 60)] for target in seen)

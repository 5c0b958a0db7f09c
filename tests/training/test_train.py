"""Training as the stages do it: absences, streaming, calibration, bad data."""

from __future__ import annotations

from dataclasses import replace
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


@pytest.mark.parametrize("modality", ["image", "both"])
def test_taking_away_is_as_if_it_had_never_been_there(tmp_path, modality):
    """`missing.train` trains to the same weights as shards that really lack the media."""
    ratios = {"image": 0.4, "text": 0.3}
    whole = toy_data(tmp_path / "whole")
    keys = [f"k{i}" for i in range(40)]
    absent = set()
    for m, is_absent in draw_training_absences(keys, 0, ratios).items():
        absent |= {(keys[i], m) for i in np.flatnonzero(is_absent)}
    assert 15 < len(absent) < 45
    lacking = toy_data(tmp_path / "lacking", absent)
    simulated = replace(whole, missing={"train": ratios})
    encoders = dict(ENCODERS)
    if modality == "image":
        del encoders["text"]
    first, first_scores = train_toy(tmp_path / "a", simulated, encoders)
    second, second_scores = train_toy(tmp_path / "b", lacking, encoders)
    assert have_same_weights(first, second, with_probes=False)
    assert first_scores == second_scores
    third, _ = train_toy(tmp_path / "c", whole, encoders)
    assert not have_same_weights(first, third, with_probes=False)


@pytest.mark.slow
def test_streaming_trains_to_the_same_weights(tmp_path):
    data = toy_data(tmp_path / "s")
    in_memory, _ = train_toy(tmp_path / "a", data)
    streaming_data = replace(data, machine=Machine(memory=0.0, workers=1))
    streamed, _ = train_toy(tmp_path / "b", streaming_data)
    assert have_same_weights(in_memory, streamed, with_probes=False)


def test_one_class_only(tmp_path):
    with pytest.raises(UserError, match="all 40 samples are of one class"):
        train_toy(tmp_path, toy_data(tmp_path / "s", labels=1))


def test_labels_out_of_range(tmp_path):
    data = toy_data(tmp_path / "s")
    narrow = data.index.model_copy(update={"classes": ["no"]})
    with pytest.raises(UserError, match="the table has a sample that makes no sense"):
        train_toy(tmp_path, replace(data, index=narrow))


@pytest.mark.slow
def test_training_never_opens_the_test_split(project):
    for file in Path("data/shards/digits").glob("test-*.tar"):
        file.unlink()
    pretrain.run(quick(), "image", force=True)
    finetune.run(quick())


def test_calibration_is_fitted_on_validation(tmp_path, monkeypatch):
    targets = []
    fit = train.calibration.fit

    def note_target(logits: np.ndarray, target: np.ndarray, *rest: Any) -> Any:
        targets.append(target.tolist())
        return fit(logits, target, *rest)

    monkeypatch.setattr(train.calibration, "fit", note_target)
    train_toy(tmp_path / "run", toy_data(tmp_path / "s", flip_val=True))
    flipped = [1 - i % 2 for i in range(40, 60)]
    assert targets == [flipped] * 5  # three subsets and two probes

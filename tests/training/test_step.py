"""The missing-modality step and its validation on toy data."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from toys.training import (
    COMPLETE,
    CPU,
    toy_data,
    toy_model,
    toy_split,
    train_toy,
)

from umemma.data.loader import LoadedSplit, cut_batches
from umemma.missing import normalize_pattern_weights
from umemma.training.step import PatternStep, make_validation, predict_pattern_logits
from umemma.types import Batch


def one_batch(split: LoadedSplit, seed: int | None = None) -> Batch:
    return next(split.batches(cut_batches(range(len(split)), len(split)), CPU, seed))


def test_all_is_the_expectation_of_drop():
    model, weights = (
        toy_model(),
        normalize_pattern_weights(["audio", "image"], {"audio+image": 2, "audio": 1, "image": 1}),
    )
    exact = PatternStep(model, weights, draw_one=False)(one_batch(toy_split()))
    drop = PatternStep(model, weights, draw_one=True)
    drawn = torch.stack([drop(one_batch(toy_split(), seed)) for seed in range(400)])
    assert drawn.mean().item() == pytest.approx(exact.item(), abs=4 * drawn.std().item() / 20)


def test_what_is_drawn_belongs_to_the_sample_and_not_to_its_batch():
    """The loss of a batch is the mean of the losses of its samples alone."""
    model, weights, split = (
        toy_model(),
        normalize_pattern_weights(["audio", "image"], None),
        toy_split(8),
    )
    drop = PatternStep(model, weights, draw_one=True)
    alone = [drop(batch).item() for batch in split.batches(cut_batches(range(8), 1), CPU, seed=3)]
    assert drop(one_batch(split, 3)).item() == pytest.approx(np.mean(alone))


def test_no_mma_is_plain_cross_entropy():
    model, batch = toy_model(), one_batch(toy_split())
    plain = nn.functional.cross_entropy(model(batch), batch.target)
    assert PatternStep(model, COMPLETE, draw_one=False)(batch).item() == pytest.approx(plain.item())


def test_logits_come_in_stored_order_whatever_the_batch():
    model, split = toy_model(), toy_split(10)
    table = torch.tensor([[True, True]])
    torch.testing.assert_close(
        predict_pattern_logits(model, split, table, 3, CPU),
        predict_pattern_logits(model, split, table, 10, CPU),
    )


def test_validation_weighs_the_patterns_as_training_does(tmp_path):
    """All weight on the text: only its answers count, in the score and in the loss."""
    data = toy_data(tmp_path / "s")
    model, _ = train_toy(tmp_path, data, epochs=1)
    with contextlib.ExitStack() as stay:
        val = data.load("val", stay, "toy")
        found = make_validation(
            model, val, np.array([0.0, 0.0, 1.0]), 8, CPU
        )()  # audio+text, image, text
        (batch,) = val.batches(cut_batches(range(20), 20), CPU)
    text = torch.tensor([[False, True]]).expand(20, -1)
    with torch.no_grad():
        logits = model.eval()(batch._replace(present=text))
    assert found["score"] == pytest.approx((logits.argmax(1) == batch.target).float().mean().item())
    assert found["loss"] == pytest.approx(
        functional.cross_entropy(logits, batch.target).item(), rel=1e-5
    )
    whole = make_validation(model, val, np.array([1.0, 0.0, 0.0]), 8, CPU)()
    assert whole["loss"] != pytest.approx(found["loss"], rel=1e-3)

"""The missing-modality step and its validation on toy data."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch.nn import functional
from toys.training import COMPLETE, CPU, toy_data, toy_model, toy_split, train_toy

from umemma.data.loader import LoadedSplit, cut_batches
from umemma.evaluation.tables import mapped
from umemma.missing import make_keep_table, normalize_pattern_weights
from umemma.training.loss import rank_more_over_fewer, sample_losses
from umemma.training.step import (
    PatternStep,
    make_validation,
    predict_logits,
    predict_pattern_logits,
    predict_tables,
)
from umemma.types import Batch


def make_batch(split: LoadedSplit, seed: int | None = None) -> Batch:
    """All samples of a split in one batch."""
    size = len(split)
    return next(split.batches(cut_batches(range(size), size), CPU, seed))


def test_all_is_the_expectation_of_drop():
    model = toy_model()
    given = {"audio+image": 2, "audio": 1, "image": 1}
    weights = normalize_pattern_weights(["audio", "image"], given)
    exact = PatternStep(model, weights, draw_one=False)(make_batch(toy_split()))
    drop = PatternStep(model, weights, draw_one=True)
    losses = torch.stack([drop(make_batch(toy_split(), seed)) for seed in range(400)])
    standard_error = losses.std().item() / 20
    assert losses.mean().item() == pytest.approx(exact.item(), abs=4 * standard_error)


def test_the_ranking_loss_is_added_with_its_weight_where_there_are_pairs_of_patterns():
    model = toy_model(fusion="gated")
    batch = make_batch(toy_split(), 1)
    every_pattern = normalize_pattern_weights(["audio", "image"], None)
    with torch.no_grad():
        model.fusion.heads["audio"].weight.mul_(-9.0)  # so that more is not always better
        keep = batch.present[:, None] & torch.from_numpy(make_keep_table(model.modalities))
        features, absent = model.encode(batch.inputs, batch.present)
        losses = sample_losses(model.fuse(features, absent, keep, batch.present), batch.target)
    ranking_loss = rank_more_over_fewer(losses, keep).mean().item()
    assert ranking_loss > 0.1
    for weights, draw_one, expected in (
        (every_pattern, False, 0.5 * ranking_loss),
        (every_pattern, True, 0.0),
        (COMPLETE, False, 0.0),
    ):
        with_ranking = PatternStep(model, weights, draw_one, ranking_weight=0.5)(batch)
        without = PatternStep(model, weights, draw_one)(batch)
        assert (with_ranking - without).item() == pytest.approx(expected, abs=1e-5)


def test_what_is_drawn_belongs_to_the_sample_and_not_to_its_batch():
    """The loss of a batch is the mean of the losses of its samples alone."""
    model = toy_model()
    split = toy_split(8)
    weights = normalize_pattern_weights(["audio", "image"], None)
    drop = PatternStep(model, weights, draw_one=True)
    single_batches = split.batches(cut_batches(range(8), 1), CPU, seed=3)
    losses = [drop(batch).item() for batch in single_batches]
    assert drop(make_batch(split, 3)).item() == pytest.approx(np.mean(losses))


def test_no_mma_is_plain_cross_entropy():
    model = toy_model()
    batch = make_batch(toy_split())
    loss = PatternStep(model, COMPLETE, draw_one=False)(batch)
    expected = functional.cross_entropy(model(batch), batch.target)
    assert loss.item() == pytest.approx(expected.item())


def test_logits_come_in_stored_order_whatever_the_batch():
    model = toy_model()
    split = toy_split(10)
    complete = torch.tensor([[True, True]])
    torch.testing.assert_close(
        predict_pattern_logits(model, split, complete, 3, CPU),
        predict_pattern_logits(model, split, complete, 10, CPU),
    )


def test_logits_in_blocks_are_those_of_one_pass(tmp_path, monkeypatch):
    """In tables of their own, for each pattern and each probe, and as one tensor."""
    model, split = toy_model(), toy_split(10)
    keep = torch.tensor([[True, True], [True, False]])
    for probe in model.probes.values():
        torch.nn.init.ones_(probe.weight)
    (expected,) = predict_logits([(model, keep)], split, 2, CPU, probes=True)
    monkeypatch.setattr(mapped, "LARGE", 1)
    monkeypatch.setattr(
        mapped, "BLOCK", 4
    )  # 8 of them: two batches of 2 samples x 4 outputs x 2 classes
    (in_blocks,) = predict_logits([(model, keep)], split, 2, CPU, probes=True)
    (tables,) = predict_tables([(model, keep)], split, 2, CPU, tmp_path, probes=True)
    assert in_blocks.numpy().tobytes() == expected.numpy().tobytes()
    for table, column in zip(tables, expected.unbind(1), strict=True):
        assert mapped.find_map(table) is not None
        np.testing.assert_array_equal(table, column.numpy())


def test_validation_weighs_the_patterns_as_training_does(tmp_path):
    """All weight on the text: only its logits count, in the score and in the loss."""
    only_text = np.array([0.0, 0.0, 1.0])  # of image+text, image, text
    data = toy_data(tmp_path / "s")
    model, _ = train_toy(tmp_path, data, epochs=1)
    with contextlib.ExitStack() as stay:
        val = data.load("val", stay, "toy")
        text_scores = make_validation(model, val, only_text, 8, CPU).run()
        (batch,) = val.batches(cut_batches(range(20), 20), CPU)
    has_text = torch.tensor([[False, True]]).expand(20, -1)
    with torch.no_grad():
        logits = model.eval()(batch._replace(present=has_text))
    accuracy = (logits.argmax(1) == batch.target).float().mean()
    loss = functional.cross_entropy(logits, batch.target)
    assert text_scores["score"] == pytest.approx(accuracy.item())
    assert text_scores["loss"] == pytest.approx(loss.item(), rel=1e-5)
    complete_scores = make_validation(model, val, COMPLETE, 8, CPU).run()
    assert complete_scores["loss"] != pytest.approx(text_scores["loss"], rel=1e-3)

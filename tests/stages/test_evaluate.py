"""Evaluation with frozen encoders: cached features, and the same predictions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from toys.project import quick

from umemma.config import Params
from umemma.encoders.cnn import SmallCNN
from umemma.stages import evaluate, finetune, pretrain

PREDICTIONS = Path("results/digits/predictions.parquet")


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """The number of samples in each batch that an encoder gets."""
    sizes: list[int] = []
    forward = SmallCNN.forward

    def note_batch(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(SmallCNN, "forward", note_batch)
    return sizes


def evaluate_without_cache(params: Params, monkeypatch: pytest.MonkeyPatch) -> bytes:
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_find_frozen", lambda params: [])
        evaluate.run(params)
    return PREDICTIONS.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sets", "first", "second"),
    [
        # The encoders of the ensemble are those of the uni-modal models.
        (["finetune.preset=frozen"], 2, 0),
        # The encoder of audio is trained, so both models run theirs.
        (["encoders.image.tune=frozen", "finetune.absent=blank"], 3, 2),
    ],
)
def test_a_second_evaluation_runs_no_frozen_encoder_and_predicts_the_same(
    project, monkeypatch, encoded, sets, first, second
):
    params = quick(*sets)
    for m in params.modalities:
        pretrain.run(params, m)
    finetune.run(params)
    expected = evaluate_without_cache(params, monkeypatch)

    for passes in (first, second):
        encoded.clear()
        outcome = evaluate.run(params)
        assert PREDICTIONS.read_bytes() == expected
        # Blank inputs are encoded one by one.
        assert sum(size for size in encoded if size > 1) == passes * outcome.settings.samples


@pytest.mark.slow
def test_features_of_another_batch_size_are_not_taken(project, encoded):
    """Rounding may depend on it."""
    params = quick("finetune.preset=frozen")
    finetune.run(params)
    evaluate.run(params)
    encoded.clear()
    outcome = evaluate.run(quick("finetune.preset=frozen", "evaluate.batch_size=100"))
    assert sum(size for size in encoded if size > 1) == 2 * outcome.settings.samples

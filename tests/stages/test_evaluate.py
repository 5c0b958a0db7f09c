"""Evaluation with frozen encoders: cached features, and the same predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys.models import change_about
from toys.project import quick

from umemma.config import Params
from umemma.encoders.cnn import SmallCNN
from umemma.evaluation.predictions import Predictions, read_made_by
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


@pytest.mark.slow
def test_an_evaluation_answers_by_the_thresholds_of_the_model(project):
    """With image alone nothing but the class 3 has a chance; the other subsets are as before."""
    params = quick("finetune.preset=ume")
    finetune.run(params)
    evaluate.run(params)
    before = Predictions.load(PREDICTIONS, str(read_made_by(PREDICTIONS)))
    assert before is not None
    thresholds = [1e-12 if c == 3 else 0.999 for c in range(10)]
    change_about(params.paths.ensemble, {"thresholds": {"image": thresholds}})
    assert evaluate.ask(params, "audio", [1.0]).metrics  # not of the kept predictions, which differ
    outcome = evaluate.run(params)
    after = Predictions.load(PREDICTIONS, str(read_made_by(PREDICTIONS)))
    assert after is not None
    np.testing.assert_array_equal(after.ensemble["image"], before.ensemble["image"])
    shares = (after.target == 3).mean()
    rows = {row.left: row.value for row in outcome.lead().values()}
    assert rows["image"] == pytest.approx(shares, abs=0.05)
    right = before.ensemble["audio"].argmax(1) == before.target
    assert rows["audio"] == pytest.approx(right.mean())
    # Those of single classes are for calibrated logits.
    raw = evaluate.run(quick("finetune.preset=ume", "evaluate.calibrate=false"))
    assert raw.lead()["image"].value > shares + 0.2

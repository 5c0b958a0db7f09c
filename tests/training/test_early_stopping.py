"""Early stopping: which epoch is kept, and what it is chosen by."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.training import COMPLETE, fit_toy, toy_data, toy_model, toy_split, train_toy

from umemma.training.early_stopping import EarlyStopping, StartingPoint, Validation
from umemma.training.run_folder import Run, format_csv
from umemma.training.step import PatternStep
from umemma.training.train import DataSource


def test_the_best_epoch_is_what_remains(tmp_path):
    """Validation scores epoch 2 best; the model ends with its weights."""
    model = toy_model()
    weights = []
    scores = iter([0.1, 0.9, 0.5, 0.4])

    def validate() -> dict[str, float]:
        weights.append(model.heads["audio"].weight.detach().clone())
        return {"score": next(scores), "loss": 1.0}

    step = PatternStep(model, COMPLETE, draw_one=False)
    run = Run(tmp_path, "toy")
    rows = fit_toy(step, model, toy_split(), Validation(validate), run, epochs=9, patience=2)
    val_scores = [row.value for row in rows if (row.split, row.name) == ("val", "score")]
    assert val_scores == [0.1, 0.9, 0.5, 0.4]  # two epochs without an improvement end it
    assert torch.equal(model.heads["audio"].weight, weights[1])
    assert format_csv(rows).splitlines()[0] == "step,epoch,split,name,value"
    assert (tmp_path / "metrics.csv").read_text() == format_csv(rows)


@pytest.mark.parametrize(
    ("gained", "lost", "improves"),
    [
        (0, 0, False),  # nothing has changed
        (5, 4, False),  # 1 of 100 in the mean, with a standard error of 3
        (9, 0, True),  # 9 of 100, with a standard error of 2.9
    ],
)
def test_the_start_is_kept_unless_training_improves_on_it(
    tmp_path, messages, gained, lost, improves
):
    """Of 100 samples, some are right only after the training and some only before it."""
    model = toy_model()
    start = model.heads["audio"].weight.detach().clone()
    before = np.repeat([0.0, 1.0], 50)
    after = before.copy()
    after[:gained] = 1
    after[len(after) - lost :] = 0

    def score_samples() -> np.ndarray:
        is_start = torch.equal(model.heads["audio"].weight, start)
        return before if is_start else after

    validation = Validation(
        lambda: {"score": float(score_samples().mean()), "loss": 1.0},
        "accuracy",
        sample_scores=score_samples,
    )
    step = PatternStep(model, COMPLETE, draw_one=False)
    run = Run(tmp_path, "toy")
    fit_toy(step, model, toy_split(), validation, run, epochs=2, keep_start=1.0)
    assert torch.equal(model.heads["audio"].weight, start) != improves
    assert ("the start is kept, validation accuracy 50.0 %" in messages[-1]) != improves


def test_samples_of_one_group_are_one_observation():
    """9 of 100 samples are a gain beyond chance, but not if they are all of one group."""
    model = toy_model()
    before, after = np.zeros(100), np.zeros(100)
    after[:9] = 1
    scores = iter([before, after, before, after])
    groups = {"voice": ["a"] * 9 + [f"v{i}" for i in range(91)]}
    grouped = Validation(dict, sample_scores=lambda: next(scores), groups=groups)
    assert not StartingPoint(model, grouped, 2.0).is_improved()
    single = Validation(dict, sample_scores=lambda: next(scores))
    assert StartingPoint(model, single, 2.0).is_improved()


@pytest.mark.parametrize(
    ("score", "loss", "best_epoch"),
    [
        (0.6, 9.0, 2),  # a higher score, whatever the loss
        (0.5, 0.9, 2),  # the same score and a lower loss
        (0.5, 1.0, 1),
        (0.5, 1.1, 1),
        (0.4, 0.1, 1),
        (float("nan"), 0.1, 1),
    ],
)
def test_a_tie_goes_to_the_lower_loss(score, loss, best_epoch):
    model = toy_model()
    early_stopping = EarlyStopping(model, patience=1)
    early_stopping.update(1, {"score": 0.5, "loss": 1.0}, model)
    early_stopping.update(2, {"score": score, "loss": loss}, model)
    assert early_stopping.best_epoch == best_epoch
    assert not early_stopping.is_exhausted(best_epoch + 1)
    assert early_stopping.is_exhausted(best_epoch + 2)


def train_eight_epochs(folder: Path, data: DataSource) -> tuple[list[float], float]:
    """Return the validation score of every epoch, and that of the weights that remain."""
    _, scores = train_toy(folder, data, epochs=8, learning_rate=3e-2)
    lines = (folder / "run" / "metrics.csv").read_text().splitlines()
    val_scores = []
    for row in csv.DictReader(lines):
        if (row["split"], row["name"]) == ("val", "score"):
            val_scores.append(float(row["value"]))
    return val_scores, scores["val_score"]


@pytest.mark.slow
def test_validation_chooses_and_not_training(tmp_path):
    """With the labels of validation flipped, the better it learns, the worse it scores."""
    plain, plain_best = train_eight_epochs(tmp_path / "run a", toy_data(tmp_path / "a"))
    assert plain_best == pytest.approx(max(plain))
    assert plain[-1] > 0.9  # it has learned the task at the end
    flipped_data = toy_data(tmp_path / "b", flip_val=True)
    flipped, flipped_best = train_eight_epochs(tmp_path / "run b", flipped_data)
    assert flipped_best == pytest.approx(max(flipped))
    assert flipped[-1] < 0.1  # so that at the end it is wrong about everything
    assert flipped_best > flipped[-1]  # and an earlier epoch is kept

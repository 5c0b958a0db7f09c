"""Early stopping: which epoch is kept, and what it is chosen by."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from toys.training import (
    COMPLETE,
    fit_toy,
    toy_data,
    toy_model,
    toy_split,
    train_toy,
)

from umemma.training.run_folder import MetricRow, Run, format_csv
from umemma.training.step import PatternStep


def toy_run(folder: Path, seconds: float = 1e9) -> Run:
    return Run(folder, "toy", seconds=seconds)


def values(rows: list[MetricRow], split: str, name: str) -> list[float]:
    return [row.value for row in rows if (row.split, row.name) == (split, name)]


def test_the_best_epoch_is_what_remains(tmp_path):
    """Validation likes epoch 2 best; its weights have to be there at the end."""
    model, seen = toy_model(), []
    scores = iter([0.1, 0.9, 0.5, 0.4])

    def validate() -> dict[str, float]:
        seen.append(model.heads["audio"].weight.detach().clone())
        return {"score": next(scores), "loss": 1.0}

    step = PatternStep(model, COMPLETE, draw_one=False)
    run = toy_run(tmp_path)
    rows = fit_toy(step, model, toy_split(), validate, run, epochs=9, patience=2)
    assert len(values(rows, "val", "score")) == 4  # two epochs without a better one end it
    assert torch.equal(model.heads["audio"].weight, seen[1])
    assert format_csv(rows).splitlines()[0] == "step,epoch,split,name,value"
    assert (tmp_path / "metrics.csv").read_text() == format_csv(rows)


def test_validation_chooses_and_not_training(tmp_path):
    how = {"epochs": 8, "learning_rate": 3e-2}
    bests = []
    for data in (toy_data(tmp_path / "a"), toy_data(tmp_path / "b", flip_val=True)):
        _, scores = train_toy(tmp_path / f"run {len(bests)}", data, **how)
        rows = csv.DictReader(
            (tmp_path / f"run {len(bests)}" / "run" / "metrics.csv").read_text().splitlines()
        )
        val = [
            float(row["value"]) for row in rows if (row["split"], row["name"]) == ("val", "score")
        ]
        assert scores["val_score"] == pytest.approx(max(val))
        bests.append((val[0], val[-1], scores["val_score"]))
    assert bests[0][1] > 0.9  # it has learnt it at the end
    assert bests[1][1] < 0.1  # so that at the end it is wrong about everything
    assert bests[1][2] > bests[1][1]  # and an earlier epoch is kept

"""Tables that are too large for memory: in files without a name, computed in blocks."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from toys.reports import make_settings, noisy_labels, noisy_predictions

from umemma.evaluation import error_analysis
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.grid import Grid
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import measure_outcome
from umemma.evaluation.tables import mapped
from umemma.evaluation.tables.mapped import find_map, is_empty, make_table

NAMES = ["audio", "image"]


@pytest.fixture
def large(monkeypatch) -> None:
    """Every table is too large for memory, and a block has 40 numbers."""
    monkeypatch.setattr(mapped, "LARGE", 1)
    monkeypatch.setattr(mapped, "BLOCK", 40)


def copy_to_tables(tables: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    copies = {}
    for name, numbers in tables.items():
        copies[name] = make_table(numbers.shape, folder)
        copies[name][:] = numbers
    return copies


def calibrate(made: Predictions, folder: Path) -> Predictions:
    """Return the predictions after calibration, in tables of their own."""
    random = np.random.default_rng(3)
    width = made.unimodal["audio"].shape[1]
    calibration = {}
    thresholds = {}
    for model, tables in (("ensemble", made.ensemble), ("unimodal", made.unimodal)):
        for name in tables:
            bias = tuple(random.normal(size=width).tolist())
            calibration[f"{model}/{name}"] = Calibration(1.5, bias)
            if made.task == "multilabel":
                thresholds[f"{model}/{name}"] = tuple(random.random(width).tolist())
    raw = [copy_to_tables(tables, folder) for tables in (made.ensemble, made.unimodal)]
    prior = [1 / width] * width
    return Predictions.calibrated(
        made.keys, made.groups, made.target, raw, made.classes, calibration, prior, thresholds
    )


def with_absences(made: Predictions) -> Predictions:
    """Take the image away from every fifth sample."""
    absent = np.arange(len(made.keys)) % 5 == 0
    for tables in (made.ensemble, made.unimodal):
        tables["image"][absent] = np.nan
    made.ensemble["audio+image"][absent] = made.ensemble["audio"][absent]
    return made


def list_numbers(predictions: Predictions, metrics: list[str]) -> Iterator[str]:
    """Yield everything that a report is made of, each number with all its digits."""
    grid = Grid(predictions, 0, 2, 20, metrics)
    outcome = measure_outcome(grid, make_settings(metrics[0]), [0.0, 0.4, 1.0], 0.01)
    yield from map(repr, outcome.subsets + outcome.ratios)
    assert outcome.information
    yield repr(outcome.information.as_json())
    yield from map(repr, error_analysis.selective_scores(predictions))
    yield from map(repr, error_analysis.score_classes(predictions))
    for subset in predictions.ensemble:
        for uncalibrated in (False, True):
            yield repr(error_analysis.measure_calibration(predictions, subset, uncalibrated))
        yield repr(error_analysis.rate_answers(predictions, subset).tolist())
        if predictions.task == "multiclass":
            yield repr(error_analysis.confusion_matrix(predictions, subset).tolist())


@pytest.mark.parametrize(
    ("made", "metrics"),
    [
        (with_absences(noisy_predictions(NAMES, 7, 90)), ["accuracy", "f1_macro", "log_loss"]),
        (noisy_labels(NAMES, 5, 90), ["f1_samples", "f1_macro", "map", "ece"]),
    ],
)
def test_an_evaluation_in_blocks_has_the_bits_of_one_at_once(request, tmp_path, made, metrics):
    whole = calibrate(made, tmp_path)
    assert find_map(whole.ensemble["audio"]) is None
    expected = list(list_numbers(whole, metrics))
    request.getfixturevalue("large")
    in_blocks = calibrate(made, tmp_path)
    assert find_map(in_blocks.ensemble["audio"]) is not None
    assert len(list(in_blocks.blocks())) > 9
    assert list(list_numbers(in_blocks, metrics)) == expected


def test_predictions_in_blocks_are_row_groups_that_come_back_mapped(tmp_path, large):
    made = with_absences(noisy_predictions(NAMES, 7, 90))
    made.save(tmp_path / "p.parquet", "me")
    file = pq.ParquetFile(tmp_path / "p.parquet")
    assert file.num_row_groups == 2  # of 8 * 40 // 7 samples
    kept = Predictions.load(tmp_path / "p.parquet", "me")
    assert kept is not None
    assert (kept.keys, kept.groups) == (made.keys, {"group": made.keys})
    np.testing.assert_array_equal(kept.target, made.target)
    for subset, table in made.ensemble.items():
        np.testing.assert_array_equal(kept.ensemble[subset], table)
        assert find_map(kept.ensemble[subset]) is not None


def test_a_mapped_table_has_no_name_and_is_calibrated_in_place(tmp_path, large):
    raw = make_table((3, 2), tmp_path)
    raw[:] = [[1, 0], [0, 4], [2, 2]]
    assert list(tmp_path.iterdir()) == []
    tables = [{"audio": raw}, {"audio": make_table((3, 2), tmp_path)}]
    tables[1]["audio"][:] = 0
    keys = list("abc")
    target = np.zeros(3, np.int64)
    calibration = {"ensemble/audio": Calibration(0.5)}
    made = Predictions.calibrated(keys, {"g": keys}, target, tables, ["x", "y"], calibration)
    assert made.ensemble["audio"].tolist() == [[2, 0], [0, 8], [4, 4]]
    assert np.shares_memory(made.ensemble["audio"], raw)
    raw[:] = np.nan
    assert is_empty(raw)
    raw[2, 1] = 0
    assert not is_empty(raw)


def test_a_disk_without_room_is_an_error_before_anything_is_written(tmp_path, large):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            make_table((1000, 1000), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def measure_peak(samples: int, classes: int, folder: Path) -> int:
    """Return the bytes that an evaluation of mapped tables has in memory, at most."""
    made = noisy_predictions(NAMES, classes, samples)
    made = Predictions(
        made.keys,
        {"group": [f"g{i % 10}" for i in range(samples)]},
        made.target,
        copy_to_tables(made.ensemble, folder),
        copy_to_tables(made.unimodal, folder),
        prior=[1 / classes] * classes,
    )
    tracemalloc.start()
    grid = Grid(made, 0, 1, 5, ["accuracy", "f1_macro", "log_loss", "ece"])
    measure_outcome(grid, make_settings("accuracy"), [0.5], 0.01)
    error_analysis.selective_scores(made)
    error_analysis.rate_answers(made, "audio")
    error_analysis.measure_calibration(made, "audio", uncalibrated=True)
    made.save(folder / "p.parquet", "me")
    assert Predictions.load(folder / "p.parquet", "me") is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_tables(tmp_path, monkeypatch):
    """A sample more costs less than one row of one of the five tables."""
    monkeypatch.setattr(mapped, "LARGE", 1)
    monkeypatch.setattr(mapped, "BLOCK", 2**13)
    classes = 500
    few, many = (measure_peak(samples, classes, tmp_path) for samples in (300, 1200))
    assert (many - few) / 900 < classes * np.dtype(np.float32).itemsize

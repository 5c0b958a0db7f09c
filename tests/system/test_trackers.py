"""Trackers: what arrives, a resumed run, and one that can't be reached. MLflow and W&B are real."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from toys.project import quick
from toys.reports import evaluate, four_toads

from umemma.cli import train as train_commands
from umemma.errors import UserError
from umemma.reports.evaluation import ROBUSTNESS_COLUMNS, list_ratio_rows
from umemma.stages import finetune
from umemma.system.trackers import Point, Tracker, open_tracker
from umemma.training.run_folder import MetricRow, Run

ROWS = [
    MetricRow(5, 1, "train", "loss", 0.75),
    MetricRow(5, 1, "val", "score", 0.5),
    MetricRow(9, 2, "train", "loss", 0.25),
    MetricRow(9, 2, "val", "score", 0.625),
]


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """A client of an MLflow store of files, which needs no database to be made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    open_tracker("mlflow", tmp_path / "first", "warm", "up", {}).finish()
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def train(folder: Path, known: list[MetricRow], new: list[MetricRow], name: str = "mlflow") -> Run:
    """Log a training that has the rows `known` from its checkpoint."""
    settings = {"finetune": {"epochs": 2}, "seed": 0}
    run = Run(folder, "a", tracker=open_tracker(name, folder, "toy", "toy-1", settings))
    run.start_metrics(known)
    for row in new:
        run.append_metrics([row], {"samples_per_s": 9.0})
    return run


def read_runs(client) -> list[dict[str, list[tuple[int, float]]]]:
    experiment = client.get_experiment_by_name("toy")
    runs = []
    for run in client.search_runs([experiment.experiment_id]):
        curves = {}
        for name in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, name)
            curves[name] = [(point.step, point.value) for point in history]
        runs.append(curves)
    return runs


def test_every_row_arrives_once_however_a_training_is_stopped(tmp_path, mlflow):
    train(tmp_path, [], ROWS[:3])  # killed; its checkpoint is older than its rows
    train(tmp_path, ROWS[:1], ROWS[1:2])
    train(tmp_path, ROWS[:2], ROWS[2:]).finish()
    (curves,) = read_runs(mlflow)
    assert curves["train/loss"] == [(5, 0.75), (9, 0.25)]
    assert curves["val/score"] == [(5, 0.5), (9, 0.625)]
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("toy").experiment_id])
    assert run.data.params["finetune.epochs"] == "2"
    assert (run.info.run_name, run.info.status) == ("toy-1", "FINISHED")
    train(tmp_path, [], ROWS).finish()  # trained again by force: another run
    assert len(read_runs(mlflow)) == 2


def test_rows_from_before_there_was_a_tracker_arrive_too(tmp_path, mlflow):
    train(tmp_path, ROWS[:2], ROWS[2:]).finish()
    assert read_runs(mlflow)[0]["train/loss"] == [(5, 0.75), (9, 0.25)]


def test_a_tracker_that_cannot_be_reached_ends_no_training(tmp_path, mlflow, monkeypatch, messages):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(tmp_path, [], ROWS[:2])
    assert len([line for line in messages if "MLflow can't be reached" in line]) == 1
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 3
    # The next process of the training catches up.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    train(tmp_path, ROWS[:2], ROWS[2:]).finish()
    assert read_runs(mlflow)[0]["val/score"] == [(5, 0.5), (9, 0.625)]


def test_tensorboard_gets_the_metrics(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, [], ROWS[:2], "tensorboard")
    train(tmp_path, ROWS[:1], ROWS[1:], "tensorboard").finish()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("val/score")] == [(5, 0.5), (9, 0.625)]
    assert events.Scalars("machine/samples_per_s")[0].value == 9.0


@pytest.mark.slow
def test_wandb_gets_the_metrics_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = train(tmp_path / "run", [], ROWS, "wandb")
    name = run.tracker.log.run
    run.finish()
    (file,) = Path("runs/wandb").glob(f"offline-run-*/run-{name}.wandb")
    assert read_wandb(file) == {
        "train/loss": [(5, 0.75), (9, 0.25)],
        "val/score": [(5, 0.5), (9, 0.625)],
    }


def read_wandb(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curves in the file of an offline run: a LevelDB log of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    data = file.read_bytes()
    assert len(data) < 2**15  # one block
    curves: dict[str, list[tuple[int, float]]] = {}
    start = 7  # after the header of the file
    while start + 7 <= len(data):
        _, size, kind = struct.unpack("<IHB", data[start : start + 7])
        assert kind == 1  # a record that is not cut in pieces
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data[start + 7 : start + 7 + size])
        start += 7 + size
        for item in record.history.item:
            name = item.key or item.nested_key[0]
            if name.startswith(("train/", "val/")):
                point = (record.history.step.num, json.loads(item.value_json))
                curves.setdefault(name, []).append(point)
    return curves


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload``")  # of SQLAlchemy, about MLflow
def test_mlflow_has_a_database_in_runs_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train(tmp_path, [], ROWS).finish()
    from mlflow.tracking import MlflowClient

    client = MlflowClient("sqlite:///runs/mlflow.db")
    assert read_runs(client)[0]["val/score"] == [(5, 0.5), (9, 0.625)]


def test_a_tracker_changes_no_byte_of_the_model(project, mlflow, monkeypatch):
    monkeypatch.chdir(project)
    folder = Path("models/digits/ensemble")
    written = []
    for tracker in ("", "mlflow"):
        finetune.run(quick(), True, tracker)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    experiment = mlflow.get_experiment_by_name("digits")
    (run,) = mlflow.search_runs([experiment.experiment_id])
    points = []
    for name in run.data.metrics:
        for point in mlflow.get_metric_history(run.info.run_id, name):
            if not name.startswith("machine/"):
                points.append(f"{point.step},{name.replace('/', ',')},{point.value}")
    rows = (folder / "metrics.csv").read_text().splitlines()[1:]
    assert sorted(points) == sorted(",".join(r.split(",")[:1] + r.split(",")[2:]) for r in rows)


def test_the_robustness_table_of_an_evaluation_arrives(mlflow):
    outcome = evaluate(four_toads())
    train_commands._track(outcome, quick(), "mlflow")
    experiment = mlflow.get_experiment_by_name("digits")
    (run,) = mlflow.search_runs([experiment.experiment_id])
    rows = list(list_ratio_rows(outcome))
    assert len(rows) == 3 * 3  # audio, image or one of the two is missing, at three ratios
    for missing, ratio, *values in rows:
        for column, value in zip(ROBUSTNESS_COLUMNS[2:], values, strict=True):
            name = f"robustness/{missing}/{column}".replace("|", " or ")
            history = mlflow.get_metric_history(run.info.run_id, name)
            found = {point.step: point.value for point in history}
            assert found[round(100 * float(ratio))] == pytest.approx(value, nan_ok=True)
    for row in outcome.lead("gap").values():
        name = f"{row.metric}/gap/{row.left}".replace("+", "-")
        assert run.data.metrics[name] == row.value


def test_an_unknown_tracker_is_named(tmp_path):
    with pytest.raises(UserError, match="unknown tracker 'mlfow'") as error:
        Tracker("mlfow", tmp_path, "toy", "toy", {})
    assert "Did you mean 'mlflow'?" in error.value.hint


def test_points_come_in_the_order_of_their_steps(tmp_path, mlflow):
    tracker = open_tracker("mlflow", tmp_path / "run", "toy", "toy", {})
    tracker.add([Point("robustness/a+b/score", 0.5, 10), Point("robustness/a|b/score", 0.25, 0)])
    tracker.finish()
    assert read_runs(mlflow) == [
        {"robustness/a-b/score": [(10, 0.5)], "robustness/a or b/score": [(0, 0.25)]}
    ]
    assert not os.path.exists(tmp_path / "run/tracker-mlflow.json")

"""MLflow: a database in runs/, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Before mlflow is imported. It would try for many minutes to reach a server.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from umemma.system.trackers import Point

FAILURES: tuple[type[Exception], ...] = (MlflowException,)
DATABASE = Path("runs/mlflow.db")
PER_CALL = 1000  # metrics that MLflow takes at a time
PARAMS_PER_CALL = 100
LONGEST = 500  # characters of a parameter


class RunLog:
    """A run of an MLflow server or database."""

    def __init__(self, client: MlflowClient, run: str) -> None:
        self.client = client
        self.run = run

    def add(self, points: Sequence[Point]) -> None:
        now = time.time_ns() // 1_000_000  # ms
        metrics = [Metric(_rename(one.name), one.value, now, one.step) for one in points]
        for start in range(0, len(metrics), PER_CALL):
            self.client.log_batch(self.run, metrics=metrics[start : start + PER_CALL])

    def close(self) -> None:
        self.client.set_terminated(self.run)


def open_log(
    folder: Path, project: str, title: str, settings: Mapping[str, str], run: str
) -> RunLog:
    """Return the log of a run, that of an earlier process where `run` names one."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address:
        DATABASE.parent.mkdir(parents=True, exist_ok=True)
        address = f"sqlite:///{DATABASE}"
    client = MlflowClient(tracking_uri=address)
    if run:
        return RunLog(client, client.get_run(run).info.run_id)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", project)
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    new = client.create_run(experiment_id, run_name=title).info.run_id
    params = [Param(_rename(key), value[:LONGEST]) for key, value in settings.items()]
    for start in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(new, params=params[start : start + PARAMS_PER_CALL])
    return RunLog(client, new)


def _rename(name: str) -> str:
    """Return a name of the characters that MLflow allows: "a+b" as "a-b", "a|b" as "a or b"."""
    return name.replace("+", "-").replace("|", " or ")

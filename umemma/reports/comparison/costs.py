"""What the processes of a comparison took: a line each in costs.csv, and the table of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from umemma.config import Params, Paths
from umemma.evaluation import experiments
from umemma.system.log import make_table
from umemma.validation import fingerprint

PRETRAIN = "pretrain"


class ProcessCost(NamedTuple):
    """A line of costs.csv.

    what: a preset, or pretrain/<modality>; status: the exit status; seconds and cpu_seconds: wall
    and processor time; peak_gib: the main memory of its largest process; settings: their
    fingerprint.
    """

    train: str
    seed: int
    what: str
    command: str
    status: int
    seconds: float
    cpu_seconds: float
    peak_gib: float
    settings: str


def append_cost(paths: Paths, cost: ProcessCost) -> None:
    """Add a line to costs.csv, which is created if there is none."""
    path = _costs_file(paths)
    is_new = not path.exists()
    line = cost._asdict()
    for name in ("seconds", "cpu_seconds", "peak_gib"):
        line[name] = f"{line[name]:.3f}"
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(ProcessCost._fields)
        writer.writerow(line.values())


def settings_fingerprint(params: Params) -> str:
    """Return a hash of the settings, without those of the machine."""
    settings = params.model_dump(mode="json", exclude={"machine"})
    if params.fold == "":  # the fingerprints from before there were folds
        del settings["fold"], settings["compare"]["folds"]
    return fingerprint(settings)


def format_costs(params: Params, folds: Sequence[int | None] = (None,)) -> Table | None:
    """Return what the processes of these experiments took, stopped ones included.

    folds: as in `plan_experiments`; the time of a seed is that of all its folds.
    Time is per experiment, memory is that of the largest process. None where none of them ran here.
    """
    known = _list_fingerprints(params, folds)
    groups: dict[tuple[str, str], list[ProcessCost]] = {}
    for cost in _read_costs(_costs_file(params.paths)):
        if cost.settings in known:
            what = cost.what.partition("/")[0]
            groups.setdefault((what, cost.train), []).append(cost)
    if not groups:
        return None
    rows = [_summarize(what, train, costs) for (what, train), costs in groups.items()]
    title = "cost on this machine: training with every learning rate, and evaluation"
    headings = ["", "trained on", "seeds", "wall time/seed", "CPU time/seed", "peak memory"]
    return make_table(title, headings, rows, names=2)


def _summarize(what: str, train: str, costs: Sequence[ProcessCost]) -> list[str]:
    seeds = len({cost.seed for cost in costs})
    wall = sum(cost.seconds for cost in costs) / seeds
    cpu = sum(cost.cpu_seconds for cost in costs) / seeds
    peak = max(cost.peak_gib for cost in costs)
    name = what
    if what == PRETRAIN:
        name = "uni-modal models"
    return [name, train, str(seeds), f"{wall:.0f} s", f"{cpu:.0f} s", f"{peak:.2f} GiB"]


def _read_costs(path: Path) -> list[ProcessCost]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    costs = []
    for line in lines:
        cost = ProcessCost(
            train=line["train"],
            seed=int(line["seed"]),
            what=line["what"],
            command=line["command"],
            status=int(line["status"]),
            seconds=float(line["seconds"]),
            cpu_seconds=float(line["cpu_seconds"]),
            peak_gib=float(line["peak_gib"]),
            settings=line["settings"],
        )
        costs.append(cost)
    return costs


def _list_fingerprints(params: Params, folds: Sequence[int | None]) -> set[str]:
    """Return the settings of all processes of the experiments."""
    fingerprints = set()
    for experiment in experiments.plan_experiments(params, folds):
        for rate in [None, *experiments.learning_rates(params, experiment)]:
            own_params = experiments.experiment_params(params, experiment, rate)
            fingerprints.add(settings_fingerprint(own_params))
        for m in params.modalities:
            for rate in [None, *params.compare.learning_rates]:
                own_params = experiments.pretrain_params(params, experiment, m, rate)
                fingerprints.add(settings_fingerprint(own_params))
    return fingerprints


def _costs_file(paths: Paths) -> Path:
    return paths.runs / "compare" / "costs.csv"

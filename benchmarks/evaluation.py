"""Measure what the evaluation grid costs beside one plain test pass, and with a million samples.

    python benchmarks/evaluation.py grid       # 2, 4 and 8 modalities (3, 15 and 255 subsets)
    python benchmarks/evaluation.py million    # a million samples, 400 classes: time, peak memory
    python benchmarks/evaluation.py contributions   # the grid with and without what modalities add

A plain test pass decodes nothing: it encodes every modality of every sample once, fuses what is
present, and computes the accuracy. It is compared with the same pass and everything that the grid
computes: all subsets, everything that can go missing at 11 ratios, 5 seeded draws, the default
metrics, and bootstrap intervals. The two take turns in one process; a ratio is that of medians.

`million` makes up features and runs all that an evaluation does from there on: the logits of every
subset and model, calibration, the grid, metrics.json, predictions.parquet and the report.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from umemma.data.loader import LoadedSplit
from umemma.encoders import build
from umemma.evaluation.attribution.additions import count_changes
from umemma.evaluation.attribution.right_answers import estimate_attribution
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.grid import Grid
from umemma.evaluation.information import estimate_information
from umemma.evaluation.metrics import score_correct
from umemma.evaluation.predictions import Predictions, name_tables
from umemma.evaluation.results import EvaluationSettings, measure_outcome
from umemma.missing import list_conditions, list_patterns, make_keep_table
from umemma.models.late_fusion import LateFusion
from umemma.reports.evaluation import write_results
from umemma.training.step import predict_tables
from umemma.types import Batch, ImageInput, format_pattern

RATIOS = [i / 10 for i in range(11)]
CLASSES = 10
BATCH_SIZE = 256
DRAWS = 5
RESAMPLES = 1000
TWO = ["audio", "image"]
FOUR = ["audio", "image", "text", "video"]
EIGHT = [f"view{number}" for number in range(8)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["grid", "million", "contributions"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, help="of the test split (10,000; a million)")
    parser.add_argument("--classes", type=int, default=400, help="of a million samples")
    arguments = parser.parse_args()
    if arguments.what == "million":
        measure_evaluation(TWO, arguments.samples or 1_000_000, arguments.classes)
        return
    if arguments.what == "contributions":
        for names in (TWO, FOUR):
            measure_contributions(names, arguments.samples or 10_000, arguments.rounds)
        return
    for names in (TWO, FOUR, EIGHT):
        compare_with_plain_pass(names, arguments.samples or 10_000, arguments.rounds)


def compare_with_plain_pass(names: list[str], samples: int, rounds: int) -> None:
    """Use cnn:small on 28 pixels for every modality: a very cheap encoder, so the hardest case."""
    model = build_model(names)
    inputs = {name: torch.randn(samples, 1, 28, 28) for name in names}
    target = torch.randint(CLASSES, (samples,))

    def run_plain_pass() -> None:
        with torch.no_grad():
            logits = torch.cat([model(batch) for batch in make_batches(inputs, target)])
        score_correct(logits.numpy(), target.numpy()).mean()

    def run_grid() -> None:
        count_rows(predict(model, inputs, target))

    run_plain_pass()  # warm up
    run_grid()
    plain = []
    grid = []
    for _ in range(rounds):
        plain.append(time_call(run_plain_pass))
        grid.append(time_call(run_grid))
    plain_median = statistics.median(plain)
    grid_median = statistics.median(grid)
    ratios = [g / p for g, p in zip(grid, plain, strict=True)]
    rows = count_rows(predict(model, inputs, target))
    print(
        f"{len(names)} modalities, {samples} samples, {rows} rows: "
        f"plain pass {plain_median:.2f} s, with the grid {grid_median:.2f} s, "
        f"ratio {grid_median / plain_median:.3f} "
        f"(turn by turn {min(ratios):.3f} to {max(ratios):.3f})"
    )


def measure_contributions(names: list[str], samples: int, rounds: int) -> None:
    """Print the processor time of the grid and the bits, and how much of it contributions take.

    The smallest of the rounds counts, as other programs only add to it.
    """
    inputs = {name: torch.randn(samples, 1, 28, 28) for name in names}
    predictions = predict(build_model(names), inputs, torch.randint(CLASSES, (samples,)))
    classes = [f"class {number}" for number in range(CLASSES)]
    whole, contributions = [], []
    for _ in range(rounds):
        fresh = replace(predictions, classes=classes)  # without kept log-losses
        start = time.process_time()
        grid = Grid(fresh, 0, DRAWS, RESAMPLES)
        list(grid.rows(list_conditions(names), RATIOS))
        estimate_information(fresh, grid.bootstrap)
        whole.append(time.process_time() - start)
        start = time.process_time()
        estimate_attribution(fresh, grid.bootstrap)
        count_changes(fresh, grid.bootstrap)
        contributions.append(time.process_time() - start)
    ratio = min(whole) / (min(whole) - min(contributions))
    print(
        f"{len(names)} modalities, {samples} samples: {min(whole):.3f} s, of which contributions "
        f"{min(contributions):.3f} s; with them {ratio:.3f} of the time without"
    )


def build_model(names: list[str]) -> LateFusion:
    spec = ImageInput(size=28, channels=1)
    modules = {}
    dims = {}
    for name in names:
        modules[name], dims[name] = build("cnn:small", "image", spec)
    blanks = {name: torch.zeros(1, 28, 28) for name in names}
    return LateFusion(modules, dims, blanks, CLASSES, "learned").eval()


def time_call(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_evaluation(names: list[str], samples: int, classes: int, dim: int = 64) -> None:
    """Evaluate features: the encoders return their input."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(classes, (samples,), generator=generator)
    centres = {name: torch.randn(classes, dim, generator=generator) for name in names}
    inputs = {}
    for name in names:
        inputs[name] = torch.randn(samples, dim, generator=generator).mul_(3)
        for first in range(0, samples, BATCH_SIZE):
            rows = slice(first, first + BATCH_SIZE)
            inputs[name][rows] += centres[name][target[rows]]
    keys = [f"sample-{number}" for number in range(samples)]
    present = torch.ones(samples, len(names), dtype=torch.bool)
    split = LoadedSplit(inputs, present, target, keys, {"sample": keys})
    models = [make_identity_model(some, dim, centres) for some in (names, *([m] for m in names))]
    with tempfile.TemporaryDirectory() as name, Memory() as memory:
        started = time.process_time()
        size = evaluate_split(models, split, [f"class {c}" for c in range(classes)], Path(name))
        seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{samples} samples, {classes} classes, {len(names)} modalities: {seconds:.1f} s; "
        f"GiB: anonymous and shared memory {memory.private:.2f}, mapped files {memory.files:.2f}, "
        f"largest resident set {peak:.2f}; predictions.parquet {size / 2**30:.2f}",
        flush=True,
    )


def make_identity_model(
    names: list[str], dim: int, centres: Mapping[str, torch.Tensor]
) -> LateFusion:
    """Return a model whose heads, and probes, know the centres of the classes."""
    modules = {name: nn.Identity() for name in names}
    blanks = {name: torch.zeros(dim) for name in names}
    classes = len(centres[names[0]])
    model = LateFusion(modules, dict.fromkeys(names, dim), blanks, classes).eval()
    with torch.no_grad():
        for name in names:
            model.heads[name].weight.copy_(centres[name] / 9)
            if name in model.probes:
                model.probes[name].weight.copy_(centres[name] / 9)
                model.probes[name].bias.zero_()
    return model


def evaluate_split(
    models: list[LateFusion], split: LoadedSplit, classes: list[str], folder: Path
) -> int:
    """Do what `umemma evaluate-missing` does once features are there. Return a file's size."""
    names = models[0].modalities
    alone = torch.ones(1, 1, dtype=torch.bool)
    pairs = [(models[0], torch.from_numpy(make_keep_table(names)))]
    pairs += [(model, alone) for model in models[1:]]
    device = torch.device("cpu")
    tables, *others = predict_tables(pairs, split, BATCH_SIZE, device, folder, probes=True)
    ensemble, probes = name_tables(names, tables)
    unimodal = {m: table for m, (table,) in zip(names, others, strict=True)}
    calibration = {f"ensemble/{subset}": Calibration(1.5) for subset in ensemble}
    prior = [1 / len(classes)] * len(classes)
    raw = (ensemble, unimodal, probes)
    predictions = Predictions.calibrated(
        split.keys, split.groups, split.target.numpy(), raw, classes, calibration, prior
    )
    grid = Grid(predictions, 0, DRAWS, RESAMPLES)
    settings = EvaluationSettings(
        preset="ume-mma",
        absent="learned",
        dataset="made up",
        metric=grid.metrics[0].name,
        split="test",
        samples=len(split),
        seed=0,
        calibrated=True,
    )
    outcome = measure_outcome(grid, settings, RATIOS, 0.01)
    write_results(folder, outcome, predictions, "made up", "python benchmarks/evaluation.py")
    return (folder / "predictions.parquet").stat().st_size


class Memory:
    """The largest memory of this process so far, looked up ten times a second, in GiB.

    private: anonymous and shared memory; files: of mapped files, which the system may take back.
    """

    def __enter__(self) -> Memory:
        self.private = self.files = 0.0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.is_over.set()
        self.thread.join()

    def watch(self) -> None:
        while not self.is_over.wait(0.1):
            kib = {}
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("RssAnon", "RssShmem", "RssFile"):
                    kib[name] = int(value.split()[0])
            self.private = max(self.private, (kib["RssAnon"] + kib["RssShmem"]) / 2**20)
            self.files = max(self.files, kib["RssFile"] / 2**20)


def make_batches(inputs: dict[str, Tensor], target: Tensor) -> list[Batch]:
    present = torch.ones(len(target), len(inputs), dtype=torch.bool)
    batches = []
    for first in range(0, len(target), BATCH_SIZE):
        rows = slice(first, first + BATCH_SIZE)
        batch_inputs = {name: values[rows] for name, values in inputs.items()}
        batches.append(Batch(batch_inputs, present[rows], target[rows]))
    return batches


def predict(model: LateFusion, inputs: dict[str, Tensor], target: Tensor) -> Predictions:
    """Predict every subset. The uni-modal columns are those of the ensemble.

    The uni-modal models of an evaluation are one more pass, which is no cost of the grid.
    """
    keep = torch.from_numpy(make_keep_table(model.modalities))
    batches = make_batches(inputs, target)
    logits = torch.cat([model.pattern_logits(batch, keep) for batch in batches]).numpy()
    tables = {}
    for column, pattern in enumerate(list_patterns(model.modalities)):
        tables[format_pattern(pattern)] = logits[:, column]
    keys = [f"sample-{number}" for number in range(len(target))]
    unimodal = {name: tables[name] for name in model.modalities}
    return Predictions(keys, {"sample": keys}, target.numpy(), tables, unimodal)


def count_rows(predictions: Predictions) -> int:
    """Compute the grid and return the number of its rows."""
    grid = Grid(predictions, 0, DRAWS, RESAMPLES)
    conditions = list_conditions(predictions.modalities)
    return sum(len(rows) for rows in grid.rows(conditions, RATIOS))


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()

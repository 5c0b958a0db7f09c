"""Measure what the evaluation grid costs beside one plain test pass, and with a million samples.

    python benchmarks/evaluation.py grid       # 2, 4 and 8 modalities (3, 15 and 255 subsets)
    python benchmarks/evaluation.py million    # a million samples of features: seconds, peak memory

A plain test pass decodes nothing: it encodes every modality of every sample once, fuses what is
present, and computes the accuracy. It is compared with the same pass and everything that the grid
computes: all subsets, everything that can go missing at 11 ratios, 5 seeded draws, the default
metrics, and bootstrap intervals. The two take turns in one process; a ratio is that of medians.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from umemma.encoders import build
from umemma.evaluation.grid import Grid
from umemma.evaluation.metrics import score_correct
from umemma.evaluation.predictions import Predictions
from umemma.missing import list_conditions, list_patterns, make_keep_table
from umemma.models.late_fusion import LateFusion
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
    parser.add_argument("what", choices=["grid", "million"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, help="of the test split (10,000; a million)")
    arguments = parser.parse_args()
    if arguments.what == "million":
        measure_large_grid(TWO, arguments.samples or 1_000_000)
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


def measure_large_grid(names: list[str], samples: int, dim: int = 64) -> None:
    """Evaluate features: the encoders return their input."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(CLASSES, (samples,), generator=generator)
    centres = {name: torch.randn(CLASSES, dim, generator=generator) for name in names}
    inputs = {}
    for name in names:
        noise = torch.randn(samples, dim, generator=generator)
        inputs[name] = centres[name][target] + 3 * noise
    modules = {name: nn.Identity() for name in names}
    blanks = {name: torch.zeros(dim) for name in names}
    model = LateFusion(modules, dict.fromkeys(names, dim), blanks, CLASSES).eval()
    with torch.no_grad():
        for name in names:
            model.heads[name].weight.copy_(centres[name] / 9)
    start = time.perf_counter()
    rows = count_rows(predict(model, inputs, target))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{samples} samples, {len(names)} modalities, {rows} rows: "
        f"{seconds:.1f} s, peak {peak:.2f} GiB"
    )


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

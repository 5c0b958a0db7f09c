"""What the grid costs beside one plain test pass, and how far it goes.

    python benchmarks/evaluation.py grid       # 2 modalities x 11 ratios x 5 draws, then 4 modalities (15 subsets x 11 ratios)
    python benchmarks/evaluation.py million    # a million samples, features in; seconds and peak memory

A plain test pass decodes nothing: it encodes every modality of every sample once, fuses what is present, and takes the
accuracy. Against it stands the same pass with everything that the grid makes: all subsets, everything that can go missing
at every ratio, seeded draws, the metrics that are usual, and bootstrap intervals. The two take turns in one process; a
ratio is that of medians.
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
from umemma.evaluation.metrics import correct
from umemma.evaluation.predictions import Predictions
from umemma.missing import keep_table, patterns, settings
from umemma.models.late_fusion import LateFusion
from umemma.types import Batch, ImageInput, joined

RATIOS = [i / 10 for i in range(11)]
CLASSES, BATCH = 10, 256


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["grid", "million"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=10_000, help="of the test split, for `grid`")
    arguments = parser.parse_args()
    if arguments.what == "grid":
        for names in (["audio", "image"], ["audio", "image", "text", "video"]):
            beside_a_pass(names, arguments.samples, arguments.rounds)
    else:
        million(["audio", "image"])


def beside_a_pass(names: list[str], samples: int, rounds: int) -> None:
    """cnn:small on pictures of 28 pixels for every modality: as cheap an encoder as there is, so the hardest case."""
    spec = ImageInput(size=28, channels=1)
    modules, dim = {}, 0
    for name in names:
        modules[name], dim = build("cnn:small", "image", spec)
    blanks = {name: torch.zeros(1, 28, 28) for name in names}
    model = LateFusion(modules, dict.fromkeys(names, dim), blanks, CLASSES, "learned").eval()
    inputs = {name: torch.randn(samples, 1, 28, 28) for name in names}
    target = torch.randint(CLASSES, (samples,))

    def plain() -> float:
        with torch.no_grad():
            logits = torch.cat([model(batch) for batch in batches(inputs, target)])
        return float(correct(logits.numpy(), target.numpy()).mean())

    def grid() -> int:
        return rows(predictions(model, inputs, target))

    plain(), grid()
    times: dict[Callable[[], float], list[float]] = {plain: [], grid: []}
    for _ in range(rounds):
        for rival, spent in times.items():
            started = time.perf_counter()
            rival()
            spent.append(time.perf_counter() - started)
    one, all_ = (statistics.median(spent) for spent in times.values())
    ratios = sorted(b / a for a, b in zip(*times.values(), strict=True))
    print(
        f"{len(names)} modalities, {samples} samples, {grid()} rows: plain pass {one:.2f} s, with the grid {all_:.2f} s, "
        f"ratio {all_ / one:.3f} (turn by turn {ratios[0]:.3f} to {ratios[-1]:.3f})"
    )


def million(names: list[str], samples: int = 1_000_000, dim: int = 64) -> None:
    """Features in: the encoders hand on what they get."""
    chance = torch.Generator().manual_seed(0)
    target = torch.randint(CLASSES, (samples,), generator=chance)
    centres = {name: torch.randn(CLASSES, dim, generator=chance) for name in names}
    inputs = {
        name: centres[name][target] + 3 * torch.randn(samples, dim, generator=chance)
        for name in names
    }
    modules = {name: nn.Identity() for name in names}
    model = LateFusion(
        modules, dict.fromkeys(names, dim), {n: torch.zeros(dim) for n in names}, CLASSES
    ).eval()
    with torch.no_grad():
        for name in names:
            model.heads[name].weight.copy_(centres[name] / 9)
    started = time.perf_counter()
    made = rows(predictions(model, inputs, target))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{samples} samples, {len(names)} modalities, {made} rows: {seconds:.1f} s, peak {peak:.2f} GiB"
    )


def batches(inputs: dict[str, Tensor], target: Tensor) -> list[Batch]:
    present = torch.ones(len(target), len(inputs), dtype=torch.bool)
    cut = [slice(i, i + BATCH) for i in range(0, len(target), BATCH)]
    return [Batch({m: x[one] for m, x in inputs.items()}, present[one], target[one]) for one in cut]


def predictions(model: LateFusion, inputs: dict[str, Tensor], target: Tensor) -> Predictions:
    """The uni-modal columns are those of the ensemble: what the ceilings cost is another pass, and not the grid's."""
    table = torch.from_numpy(keep_table(model.modalities))
    logits = torch.cat(
        [model.pattern_logits(batch, table) for batch in batches(inputs, target)]
    ).numpy()
    tables = {joined(pattern): logits[:, s] for s, pattern in enumerate(patterns(model.modalities))}
    keys = [f"sample-{i}" for i in range(len(target))]
    return Predictions(
        keys, {"sample": keys}, target.numpy(), tables, {m: tables[m] for m in model.modalities}
    )


def rows(found: Predictions) -> int:
    grid = Grid(found, 0, 5, 1000)
    return sum(map(len, grid.rows(settings(found.modalities), RATIOS)))


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()

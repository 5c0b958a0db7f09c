"""Show how much evidence temperatures have on validation, and what each does on the test split.

    python benchmarks/calibration_evidence.py FOLDER... --presets ume-mma,modality-dropout

Each FOLDER is a project in which `umemma compare` trained these presets. For every model and subset
of modalities a temperature is fitted to the validation samples. Its evidence is by how many
standard errors it lowers the log-loss of groups that it was not fitted to. The table says how often
a temperature with so much evidence lowers the log-loss of the test split, and by how much on
average and at worst, for those above 1 (less sure) and below 1 (surer).
"""

from __future__ import annotations

import argparse
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from loguru import logger

import umemma
from umemma import config
from umemma.data import loader, shard_reader
from umemma.evaluation import calibration
from umemma.missing import list_patterns, make_keep_table
from umemma.system.storage import Store
from umemma.training.step import predict_logits
from umemma.types import format_pattern

EVIDENCE = (-np.inf, 0.0, 1.0, 3.0, np.inf)  # standard errors, bounds of the rows
ALONE = np.ones(1)  # 1 / temperature of what is not calibrated


class Fit(NamedTuple):
    """temperature, evidence in standard errors, and log-loss on test, after less before."""

    temperature: float
    evidence: float
    change: float


class Answers(NamedTuple):
    """(N, C) logits, (N,) classes, and the (N,) numbers of groups in each grouping."""

    logits: np.ndarray
    target: np.ndarray
    groupings: list[np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--presets", default="ume-mma")
    parser.add_argument("--each", action="store_true", help="a line for each model and subset too")
    arguments = parser.parse_args()
    logger.remove()
    torch.set_num_threads(1)
    fits: list[Fit] = []
    for folder in arguments.folders:
        with contextlib.chdir(folder):
            for model in find_models(arguments.presets.split(",")):
                for subset, fit in fit_subsets(model):
                    fits.append(fit)
                    if arguments.each:
                        print(folder.name, *model.parts[-2:], subset, *fit)
    print_table(fits)


def find_models(presets: list[str]) -> Iterator[Path]:
    """Yield the model folders of the presets, which are below models/NAME/compare."""
    for path in sorted(Path("models").glob("*/compare/**/model.json")):
        if path.parent.name in presets:
            yield path.parent


def fit_subsets(folder: Path) -> Iterator[tuple[str, Fit]]:
    """Yield each subset of modalities that has enough validation samples, and its fit."""
    predictor = umemma.load(folder, device="cpu")
    store = Store(config.load_params(Path("params.yaml"), []).paths.shards)
    index = shard_reader.read_index(store)
    names = list(predictor.modalities)
    keep = torch.from_numpy(make_keep_table(names))
    with contextlib.ExitStack() as stay:
        by_split = {}
        for name in ("val", "test"):
            split = loader.load_split(
                store, index, name, predictor.specs, stay, loader.LoadOptions(), lambda _: None
            )
            models = [(predictor.model, keep)]
            (logits,) = predict_logits(models, split, 256, torch.device("cpu"), False)
            by_split[name] = split, logits.numpy()
    for i, pattern in enumerate(list_patterns(names)):
        answers = []
        for split, logits in by_split.values():
            has_all = split.present[:, [names.index(m) for m in pattern]].all(1).numpy()
            groupings = []
            for _, of_group in sorted(split.groups.items()):
                chosen = np.asarray(of_group)[has_all]
                groupings.append(np.unique(chosen, return_inverse=True)[1])
            groupings.sort(key=lambda numbers: numbers.max(initial=-1))
            answers.append(Answers(logits[has_all, i], split.target.numpy()[has_all], groupings))
        val, test = answers
        groups = len(np.unique(val.groupings[0]))
        if len(val.target) < calibration.FEWEST_SAMPLES or groups < calibration.FEWEST_GROUPS:
            continue
        yield format_pattern(pattern), measure(val, test)


def measure(val: Answers, test: Answers) -> Fit:
    """Return the temperature that fits val, its evidence there, and what it changes on test."""
    inverse = calibration._minimize(ALONE, val.logits, val.target)
    held_out = calibration._held_out_losses(inverse, val.logits, val.target, val.groupings[0])
    gain = calibration._compute_losses(ALONE, val.logits, val.target) - held_out
    error = calibration.standard_error(gain, val.groupings)
    after = calibration._compute_losses(inverse, test.logits, test.target)
    before = calibration._compute_losses(ALONE, test.logits, test.target)
    change = float(after.mean() - before.mean())
    return Fit(float(1 / inverse[0]), float(gain.mean() / max(error, 1e-12)), change)


def print_table(fits: list[Fit]) -> None:
    changes: dict[tuple[str, float], list[float]] = defaultdict(list)
    for fit in fits:
        direction = "above 1"
        if fit.temperature <= 1:
            direction = "below 1"
        row = int(np.searchsorted(EVIDENCE, fit.evidence)) - 1
        changes[direction, row].append(fit.change)
    print("| temperature | standard errors | fits | better on test | mean change | worst |")
    print("|---|---|--:|--:|--:|--:|")
    for (direction, row), found in sorted(changes.items()):
        interval = f"{EVIDENCE[row]:g} to {EVIDENCE[row + 1]:g}"
        better = sum(change < 0 for change in found)
        cells = [direction, interval, len(found), better, f"{np.mean(found):+.3f}"]
        print("|", " | ".join(map(str, [*cells, f"{max(found):+.3f}"])), "|")


if __name__ == "__main__":
    main()

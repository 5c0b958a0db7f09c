"""What test_distributed runs in one process and in several.

    torchrun --nproc-per-node N side_by_side.py FOLDER

Ten samples in batches of four: with three processes the last batch, of two samples, leaves one of
them without a share.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toys.training import COMPLETE, CPU, fit_toy, toy_model, toy_split
from umemma.errors import UserError
from umemma.evaluation.tables import mapped
from umemma.missing import normalize_pattern_weights
from umemma.models.fusions import FUSIONS
from umemma.system import distributed
from umemma.training.reproducibility import prepare
from umemma.training.run_folder import Run
from umemma.training.step import (
    PatternStep,
    make_validation,
    predict_pattern_logits,
    predict_tables,
)


def everything(folder: Path) -> dict[str, Any]:
    """Return the numbers that have to be the same for any number of processes."""
    torch.set_num_threads(1)
    prepare(0, "toy")  # join the other processes
    return try_collectives() | try_trainings(folder)


def try_collectives() -> dict[str, Any]:
    rank, size, _ = distributed.world()
    results: dict[str, Any] = {}
    share = torch.arange(10).float()[list(distributed.rank_indices(10))]
    rows = distributed.gather_rows(torch.stack([share, -share], 1), 10)
    results["rows"] = rows.tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "GATHERED", 1)  # so a row of each process at a time
        results["rows in blocks"] = distributed.gather_rows(share, 10).tolist()
    to_one = distributed.gather_rows(share, 10, to_all=False)
    results["rows of one"] = distributed.all_gather_object(to_one.tolist())
    first_row = share[:0]
    if rank == 0:
        first_row = share[:1]
    results["fewer rows than processes"] = distributed.gather_rows(first_row, 1).tolist()
    results["largest"] = distributed.all_reduce_max([float(rank == size - 1), -1.0])()

    def fail_in_last_process() -> None:
        if rank == size - 1:
            raise UserError("broken here", "file", "Mend it.")

    try:
        distributed.raise_on_all(fail_in_last_process)
    except UserError as error:
        results["error of one"] = str(error)
    return results


def try_trainings(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    weights = normalize_pattern_weights(["audio", "image"], None)
    # Most batches lack audio.
    lacks_audio = torch.tensor([[i % 5 == 0, True] for i in range(10)])
    changes: dict[str, dict[str, Any]] = {
        "embracenet": {},
        "gated": {},
        "retrieve": {},
        "all": {},
        "drop": {},
        "parts": {"micro_batch": 1},
        "holes": {},
    }
    for name, change in changes.items():
        fusion = "mean"
        pattern_weights = weights
        if name in FUSIONS:
            fusion = name
        if name == "retrieve":
            # What it fills a hole with depends on the batch, which the processes share.
            pattern_weights = COMPLETE
        model = toy_model("learned", fusion)
        split = toy_split(10)
        if name == "holes":
            split = replace(split, present=lacks_audio)
        draw_one = name in ("drop", "embracenet")
        ranking_weight = float(name == "gated")
        step = PatternStep(model, pattern_weights, draw_one, ranking_weight=ranking_weight)
        validate = make_validation(model, split, pattern_weights, 3, CPU)
        run = Run(folder / name, "toy")
        rows = fit_toy(step, model, split, validate, run, epochs=3, batch_size=4, **change)
        trained = {key: x for key, x in model.state_dict().items() if "probes" not in key}
        results[name] = {key: x.tolist() for key, x in trained.items()}
        results[f"{name} figures"] = [row.value for row in rows]
    complete = torch.ones(1, 2, dtype=torch.bool)
    results["logits"] = predict_pattern_logits(model, split, complete, 3, CPU).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "BLOCK", 1)
        in_blocks = predict_pattern_logits(model, split, complete, 1, CPU)
        ((table,),) = predict_tables([(model, complete)], split, 1, CPU, folder)
    results["logits in blocks"] = in_blocks.tolist()
    results["rows of one table"] = distributed.all_gather_object(table.tolist())

    broken = toy_split(10)
    broken.in_memory["audio"][4] = np.nan  # in the share of one process only
    step = PatternStep(model, COMPLETE, draw_one=False)
    run = Run(folder / "nan", "toy")
    results["NaN"] = []
    try:
        fit_toy(step, model, broken, validate, run, epochs=3, batch_size=4)
    except UserError as error:
        results["NaN"] = [error.what]
    return results


if __name__ == "__main__":
    output = Path(sys.argv[1])
    results = everything(output)
    if distributed.is_main():
        (output / "found.json").write_text(json.dumps(results))
    distributed.shutdown()

"""What test_distributed runs in one process and in several: `torchrun --nproc-per-node N side_by_side.py FOLDER`.

Ten samples in batches of four: with three processes the last batch, of two, leaves one of them without a share.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toys.training import COMPLETE, SETTINGS, toy_model, toy_split
from umemma.errors import UserError
from umemma.missing import normalize_pattern_weights
from umemma.system import distributed
from umemma.training.run_folder import Run
from umemma.training.step import PatternStep, make_validation, predict_pattern_logits
from umemma.training.trainer import fit

CPU = torch.device("cpu")


def everything(folder: Path) -> dict[str, Any]:
    rank, size, _ = distributed.world()
    torch.set_num_threads(1)
    model, split, weights = (
        toy_model("learned"),
        toy_split(10),
        normalize_pattern_weights(["audio", "image"], None),
    )
    share = torch.arange(10).float()[list(distributed.rank_indices(10))]
    found = {"rows": distributed.gather_rows(torch.stack([share, -share], 1), 10).tolist()}
    found["fewer rows than processes"] = distributed.gather_rows(
        share[:1] if rank == 0 else share[:0], 1
    ).tolist()
    found["largest"] = distributed.all_reduce_max([float(rank == size - 1), -1.0])()

    def fails() -> None:
        if rank == size - 1:
            raise UserError("broken here", "file", "Mend it.")

    try:
        distributed.raise_on_all(fails)
    except UserError as error:
        found["error of one"] = str(error)
    train = {**SETTINGS, "epochs": 3, "batch_size": 4}
    holes = replace(
        split, present=torch.tensor([[i % 5 == 0, True] for i in range(10)])
    )  # most batches lack audio
    for name, more in {"all": {}, "drop": {}, "parts": {"micro_batch": 1}, "holes": {}}.items():
        model, split = toy_model("learned"), holes if name == "holes" else split
        step, validate = (
            PatternStep(model, weights, name == "drop"),
            make_validation(model, split, weights, 3, CPU),
        )
        figures = fit(step, model, split, validate, Run(folder / name, "toy"), **(train | more))
        found[name] = {
            key: x.tolist() for key, x in model.state_dict().items() if "probes" not in key
        }
        found[f"{name} figures"] = [figure[4] for figure in figures]
    found["logits"] = predict_pattern_logits(
        model, split, torch.ones(1, 2, dtype=torch.bool), 3, CPU
    ).tolist()
    broken, seen = toy_split(10), []
    broken.in_memory["audio"][4] = np.nan  # in the share of one process only
    try:
        fit(
            PatternStep(model, COMPLETE, False),
            model,
            broken,
            validate,
            Run(folder / "nan", "toy"),
            **train,
        )
    except UserError as error:
        seen = [error.what]
    found["NaN"] = seen
    return found


if __name__ == "__main__":
    found = everything(Path(sys.argv[1]))
    if distributed.is_main():
        (Path(sys.argv[1]) / "found.json").write_text(json.dumps(found))
    distributed.shutdown()

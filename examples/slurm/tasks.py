"""Print the `umemma` options of each task of an array, a line per task, from params.yaml.

python examples/slurm/tasks.py pretrain
python examples/slurm/tasks.py compare-unimodal
python examples/slurm/tasks.py compare
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

from umemma import config


def list_tasks(kind: str) -> Iterator[str]:
    """Yield the options of each task: a modality, or a model of the section `compare`."""
    params = config.load_params()
    if kind == "pretrain":
        yield from (f"--modality {name}" for name in params.modalities)
        return
    section = params.compare
    what = [f"--preset {name}" for name in section.presets]
    if kind == "compare-unimodal":
        what = [f"--modality {name}" for name in params.modalities]
    folds = section.folds
    if folds == "all":
        folds = (
            "",
        )  # only the shards know how many there are, so a task makes those of its preset
    for train, fold, seed in itertools.product(section.train, folds, section.seeds):
        for which in what:
            options = f"{which} --seed {seed} --train {train}"
            if fold != "":
                options += f" --fold {fold}"
            yield options


if __name__ == "__main__":
    print(*list_tasks(sys.argv[1]), sep="\n")

"""scikit-learn's logistic regression and MLP on each vector of recipes/mfeat.yaml, and on all six.

    python benchmarks/mfeat_baselines.py FOLDER

FOLDER holds the table of `python benchmarks/numeric_tables.py mfeat SOURCE FOLDER`. Both models see
the training split, standardised by it, and print the accuracy on the test split in %: the MLP as
mean and standard deviation over seeds 0, 1 and 2.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

VIEWS = ("fac", "fou", "kar", "mor", "pix", "zer")
SEEDS = (0, 1, 2)


def score(model: Any, x: np.ndarray, label: np.ndarray, split: np.ndarray) -> float:
    """Return the accuracy on test in %."""
    train = split == "train"
    test = split == "test"
    pipeline = make_pipeline(StandardScaler(), model)
    pipeline.fit(x[train], label[train])
    return 100 * float(pipeline.score(x[test], label[test]))


def main(folder: Path) -> None:
    table = pq.read_table(folder / "table.parquet").to_pydict()
    label = np.array(table["label"])
    split = np.array(table["split"])
    views = {view: np.array(table[view]) for view in VIEWS}
    views["all"] = np.concatenate(list(views.values()), 1)
    for view, x in views.items():
        linear = score(LogisticRegression(max_iter=3000), x, label, split)
        mlp = []
        for seed in SEEDS:
            mlp.append(score(MLPClassifier(max_iter=400, random_state=seed), x, label, split))
        print(f"{view}: linear {linear:.1f}, MLP {np.mean(mlp):.1f} ± {np.std(mlp, ddof=1):.1f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # that it has not converged
    main(Path(sys.argv[1]))

"""Tables of answers as a stranger writes them, small enough to score by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma.evaluation.predictions import Predictions

KEYS = "abcd"
# Which samples are answered right (y) or wrong (n); the right class of all is toad.
RIGHT = {"audio+image": "yyyn", "audio": "ynnn", "image": "yynn"}
ALONE = {"unimodal/audio": "yynn", "unimodal/image": "ynnn"}
SURE = {"y": 0.75, "n": 0.25}  # the probability of toad


def make_rows(right: Mapping[str, str] = RIGHT) -> list[dict[str, Any]]:
    """Return a row per sample and subset: probabilities of frog and toad, the group ab or cd."""
    rows = []
    for subset, letters in right.items():
        for key, letter in zip(KEYS, letters, strict=True):
            toad = SURE[letter]
            row = {"key": key, "subset": subset, "target": "toad", "probability_frog": 1 - toad}
            rows.append({**row, "probability_toad": toad, "group": "ab" if key in "ab" else "cd"})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a Parquet file."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def export(predictions: Predictions, path: Path) -> Path:
    """Write our own predictions as a table of answers, as docs/audit.md does."""
    has = {m: ~np.isnan(predictions.ensemble[m][:, 0]) for m in predictions.modalities}
    tables = dict(predictions.ensemble)
    for m, logits in predictions.unimodal.items():
        tables[f"unimodal/{m}"] = logits
    rows = []
    for subset, logits in tables.items():
        for i, key in enumerate(predictions.keys):
            if np.isnan(logits[i]).any():
                continue
            row = {"key": key, "subset": subset, "target": predictions.target[i].tolist()}
            row["logits"] = logits[i].tolist()
            row["present"] = "+".join(m for m in has if has[m][i])
            rows.append(row)
    return write_rows(path, rows)

"""A table of patients with a vector, a series and cells, each of which tells the class a little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = """\
dataset: manifest
modalities: {scan: vector, wrist: series, chart: table}
preprocess:
  shard_size: 30
  options:
    table: table.jsonl
    columns: {scan: scan, wrist: [x, y], chart: [age, ward, notes]}
    rates: {wrist: hz}
    label: what
    split: side
encoders: {scan: "mlp:small", wrist: "series:tcn", chart: "mlp:small"}
pretrain: {epochs: 2, batch_size: 16}
finetune: {epochs: 1, batch_size: 16}
evaluate: {draws: 1, bootstrap: 20}
machine: {workers: 0}
"""


def make_patient(i: int, change: float = 0.0) -> dict[str, Any]:
    """Return a row. Every fifth has no scan, every seventh an empty chart; change: of the numbers.

    Every third series is at 100 Hz, the others at 50, and every fourth has a hole.
    """
    chance = np.random.default_rng(i)
    sign = 2 * (i % 2) - 1
    steps = 20 + i % 7
    wrist = sign * np.sin(np.arange(steps) / 2)[:, None] + chance.normal(0, 0.3, (steps, 2))
    x, y = (wrist + change).round(4).T.tolist()
    if i % 4 == 0:
        x[3] = None
    row = {
        "what": "ab"[i % 2],
        "side": ("train", "train", "val", "test")[i // 2 % 4],
        "scan": (sign + chance.normal(0, 1, 4) + change).round(4).tolist(),
        "x": x,
        "y": y,
        "hz": 100 if i % 3 == 0 else 50,
        "age": round(chance.normal(50 + 10 * sign, 10), 1) + change,
        "ward": ("north", "south", "east")[int(chance.integers(0, 3))] + ("!" if change else ""),
        "notes": None,
    }
    if i % 5 == 0:
        row["scan"] = None
    if i % 7 == 0:
        row["age"] = row["ward"] = None
    return row


def write_patients(folder: Path, count: int = 80, test_change: float = 0.0) -> Path:
    """Write table.jsonl. test_change: of every number in the rows of test."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        row = make_patient(i)
        if row["side"] == "test":
            row = make_patient(i, test_change)
        lines.append(json.dumps(row))
    path = folder / "table.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path

"""A table of a user whose samples are tested fold by fold, small enough for the whole pipeline."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from umemma import config
from umemma.stages import download

SETTINGS = """\
dataset: manifest
modalities: [image, text]
preprocess:
  shard_size: 5
  options:
    table: table.csv
    columns: {image: photo, text: words}
    label: what
    group: person
    folds: 3
encoders:
  image: {name: cnn:small, input: {size: 8, channels: 1}}
  text: {name: text:cnn, input: {length: 8}}
pretrain: {epochs: 1, batch_size: 8}
finetune: {epochs: 1, batch_size: 8}
evaluate: {draws: 1, bootstrap: 20}
compare: {presets: [ume, ume-mma], seeds: [0]}
machine: {workers: 0}
"""


def make_project(folder: Path) -> None:
    """Write params.yaml and 36 samples of 9 persons, four each: two of class a, two of class b."""
    (folder / "params.yaml").write_text(SETTINGS)
    raw = folder / "data" / "raw" / "manifest"
    raw.mkdir(parents=True)
    chance = np.random.default_rng(0)
    with (raw / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["photo", "words", "what", "person"])
        for i in range(36):
            pixels = chance.integers(0, 255, (9, 9), np.uint8)
            Image.fromarray(pixels).save(raw / f"{i}.png")
            rows.writerow([f"{i}.png", f"word {i}", "ab"[i % 2], f"p{i // 4}"])
    params = config.load_params(folder / "params.yaml")
    download.run("manifest", params.preprocess.options, "", params.modalities)

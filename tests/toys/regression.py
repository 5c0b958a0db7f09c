"""A toy regression: pictures whose brightness, and words whose number, add up to a price."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from umemma import config
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.regression import gaussian
from umemma.types import TargetScale

SETTINGS = """\
dataset: manifest
modalities: [image, text]
preprocess:
  options: {columns: {image: picture, text: words}, task: regression, targets: [price, area]}
  max_failures: 0.1
encoders:
  image: {name: "cnn:small", input: {size: 8, channels: 1}}
  text: {name: "text:cnn", input: {length: 6}}
pretrain: {epochs: 8, batch_size: 16, learning_rate: 0.01}
finetune: {epochs: 1, batch_size: 16, learning_rate: 0.001, scratch: {epochs: 1}}
evaluate: {bootstrap: 20, draws: 1}
"""
WORDS = ("one", "two", "three", "four")


def write_project(folder: Path, rows: int = 240) -> config.Params:
    """Write params.yaml and a table with its pictures; the first row has text for a price."""
    raw = folder / "data" / "raw" / "manifest"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    table = []
    for i in range(rows):
        light = int(generator.integers(0, 250))
        word = int(generator.integers(0, 4))
        Image.fromarray(np.full((8, 8), light, np.uint8)).save(raw / f"{i}.png")
        price = 1000.0 * (light / 50 + 3 * word)
        row = {"picture": f"{i}.png", "words": f"{WORDS[word]} rooms", "price": price}
        table.append(row | {"area": light + 0.5})
    table[0]["price"] = "much"
    with (raw / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    (folder / "params.yaml").write_text(SETTINGS)
    return config.load_params(folder / "params.yaml")


def make_outputs(mean: list, precision: list) -> np.ndarray:
    """Return the (N, 2T) outputs that stand for (N, T) means and precisions."""
    means = np.asarray(mean, np.float64)
    precisions = np.broadcast_to(np.asarray(precision, np.float64), means.shape)
    return gaussian.to_outputs(means * precisions, precisions)


def make_predictions(n: int = 400, targets: int = 1) -> Predictions:
    """Return what is right for z = u + e with two views of z, each with noise of variance 1.

    z is N(0, 1). Given one view x, z is N(x / 2, 1 / 2); given both, N((x + y) / 3, 1 / 3).
    """
    generator = np.random.default_rng(3)
    z = generator.normal(size=(n, targets))
    x = z + generator.normal(size=z.shape)
    y = z + generator.normal(size=z.shape)
    ensemble = {
        "audio+image": make_outputs((x + y) / 3, 3.0).astype(np.float32),
        "audio": make_outputs(x / 2, 2.0).astype(np.float32),
        "image": make_outputs(y / 2, 2.0).astype(np.float32),
    }
    keys = [f"k{i}" for i in range(n)]
    scales = [TargetScale(mean=10.0 * (t + 1), std=4.0 + t) for t in range(targets)]
    return Predictions(
        keys,
        {"sample": keys},
        z,
        ensemble,
        {m: ensemble[m] for m in ("audio", "image")},
        [f"target {t}" for t in range(targets)],
        scales=scales,
    )

"""Encoders trained on all of MNIST and the spoken digits, ensembles trained on few pairs.

    umemma download avmnist
    python benchmarks/transfer.py data/raw/avmnist OUT
    python benchmarks/transfer.py data/raw/avmnist OUT --pairs 300 --seeds 0

It makes three projects in OUT and runs the commands of umemma in them. `singles` has every training
picture and every training recording, none of them paired, and trains a uni-modal model of each
modality. `scratch` and `transfer` have the same few pairs of a picture and a recording; `scratch`
trains its encoders on these pairs alone, `transfer` takes those of `singles` and leaves them as
they are. Both compare the same methods with the same epochs. The test split has pictures and
recordings that none of the three has seen in training.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from umemma.datasets import _digits_av as digits

VAL_IMAGES = 5_000  # the last of MNIST's training images
VAL_TAKES = range(5, 10)  # of each digit and speaker; takes 0 to 4 are the test set of FSDD
TEST_PAIRS = 2_000
COLUMNS = ("key", "image", "audio", "label", "split", "group")
ENCODERS: dict[str, dict[str, Any]] = {
    "audio": {
        "input": {"sample_rate": 8000, "seconds": 0.8, "mels": 40, "window": 256, "hop": 200}
    },
    "image": {"input": {"size": 28, "channels": 1, "mean": 0.13, "std": 0.31}},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("raw", type=Path, help="the raw files of avmnist")
    parser.add_argument("out", type=Path, help="a folder for the three projects")
    parser.add_argument("--pairs", type=int, default=100, help="pairs to train on, and to validate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    out: Path = arguments.out
    source = out / "source"
    write_media(arguments.raw, source)
    write_table(source / "singles.csv", list_singles(arguments.raw))
    write_table(source / "pairs.csv", list_pairs(arguments.raw, arguments.pairs))

    singles = write_project(out / "singles", "singles.csv", ENCODERS, arguments.seeds)
    run(singles, "download", "manifest", "--from", str(source.resolve()))
    run(singles, "preprocess")
    for modality in ENCODERS:
        run(singles, "pretrain-unimodal", "--modality", modality)

    trained = {}
    for modality, encoder in ENCODERS.items():
        weights = singles.resolve() / f"models/manifest/pretrain/{modality}/model.safetensors"
        trained[modality] = encoder | {"weights": str(weights), "tune": "frozen"}
    for name, encoders in (("scratch", ENCODERS), ("transfer", trained)):
        project = write_project(out / name, "pairs.csv", encoders, arguments.seeds)
        run(project, "download", "manifest", "--from", str(source.resolve()))
        run(project, "preprocess")
        run(project, "compare", "--jobs", str(arguments.jobs))
        print(f"{name}: {project / 'results/manifest/compare/compare.md'}", flush=True)


def write_media(raw: Path, source: Path) -> None:
    """Write each image as a file, and copy the recordings."""
    if (source / "recordings").exists():
        return
    for part in ("train", "test"):
        folder = source / part
        folder.mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(digits.images(raw, part)):
            Image.fromarray(pixels.reshape(28, 28)).save(folder / f"{number}.png")
    shutil.copytree(raw / "recordings", source / "recordings")


def list_singles(raw: Path) -> list[list[Any]]:
    """Return a row for each image and each recording that isn't of the test split."""
    rows: list[list[Any]] = []
    labels = digits.labels(raw, "train")
    for number, label in enumerate(labels):
        split = "train"
        if number >= len(labels) - VAL_IMAGES:
            split = "val"
        rows.append([f"image{number}", f"train/{number}.png", "", label, split, ""])
    for one in digits.recordings(raw):
        split = name_split(one.take)
        if split != "test":
            rows.append([one.name, "", f"recordings/{one.name}.wav", one.digit, split, one.name])
    return rows


def list_pairs(raw: Path, count: int) -> list[list[Any]]:
    """Return `count` pairs for training, as many for validation, and those of the test split."""
    generator = np.random.default_rng(0)
    train_labels = digits.labels(raw, "train")
    first_val = len(train_labels) - VAL_IMAGES
    images = {
        "train": ("train", train_labels[:first_val], 0, count),
        "val": ("train", train_labels[first_val:], first_val, count),
        "test": ("test", digits.labels(raw, "test"), 0, TEST_PAIRS),
    }
    rows: list[list[Any]] = []
    for split, (part, labels, offset, pairs) in images.items():
        recordings: dict[int, list[str]] = {}
        for one in digits.recordings(raw):
            if name_split(one.take) == split:
                recordings.setdefault(one.digit, []).append(one.name)
        for number in generator.permutation(len(labels))[:pairs]:
            label = int(labels[number])
            name = recordings[label][generator.integers(len(recordings[label]))]
            image = f"{part}/{offset + number}.png"
            medium = f"recordings/{name}.wav"
            rows.append([f"{split}{number}", image, medium, label, split, name])
    return rows


def name_split(take: int) -> str:
    if take in VAL_TAKES:
        return "val"
    return "test" if take < VAL_TAKES.start else "train"


def write_table(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def write_project(
    folder: Path, table: str, encoders: dict[str, dict[str, Any]], seeds: list[int]
) -> Path:
    """Write params.yaml and return the folder. 60 epochs of pretraining, few for many pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    rates = {"learning_rate": 2e-3, "batch_size": 64}
    settings = {
        "dataset": "manifest",
        "modalities": sorted(encoders),
        "preprocess": {
            "options": {"table": table, "columns": {"image": "image", "audio": "audio"}}
            | {"key": "key", "label": "label", "split": "split", "group": "group"}
        },
        "encoders": encoders,
        "pretrain": rates | {"epochs": 60, "patience": 20},
        "finetune": rates | {"epochs": 20, "patience": 20, "scratch": {"epochs": 80}},
        "compare": {
            "presets": ["late-fusion", "modality-dropout", "late-fusion-mma", "ume", "ume-mma"],
            "seeds": seeds,
            "learning_rates": [5e-4, 2e-3, 8e-3],
        },
    }
    if table == "singles.csv":
        settings["pretrain"] = rates | {"modalities": {"image": {"epochs": 4}}, "epochs": 40}
    (folder / "params.yaml").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return folder


def run(project: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "umemma", *words], cwd=project, check=True)


if __name__ == "__main__":
    main()

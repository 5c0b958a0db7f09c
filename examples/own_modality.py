"""A modality of your own: point clouds, stored as lines of three numbers, with an encoder for them.

In an empty folder, where UMEMMA is the clone of umemma:

    cp $UMEMMA/examples/own_modality.py .
    python own_modality.py clouds
    umemma download --params clouds/params.yaml --from clouds
    umemma preprocess --params clouds/params.yaml
    umemma pretrain-unimodal --params clouds/params.yaml
    umemma finetune-ensemble --params clouds/params.yaml
    umemma predict --model models/clouds/ensemble --input cloud=clouds/000.xyz --trust

`Input` and the functions down to `finish` are the modality; docs/own-modality.md describes each.
`make_encoder` is an encoder as in own_encoder.py. The rest makes a table to try them on.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from umemma.modalities.limits import Packed, read_file
from umemma.types import Plain

POINTS = 64  # of each cloud that an encoder sees


class Input(Plain):
    """(64, 3) float32 coordinates, from -1 to 1 once divided by `size`."""

    size: float = 1.0


def pack(media: bytes | Path, packing: object) -> Packed | None:
    """Return the bytes for the shards, None if there are no points, or raise ValueError."""
    if not isinstance(media, bytes):
        media = read_file(media)
    if not media.strip():
        return None
    try:
        points = np.array([line.split() for line in media.splitlines()], np.float32)
    except ValueError:
        raise ValueError("not lines of numbers") from None
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError("not points in space")
    kept = np.linspace(0, len(points) - 1, POINTS).round().astype(int)
    return Packed("xyz", points[kept].tobytes())


def decode(data: bytes, spec: Input) -> Tensor:
    """Return the points (64, 3) of one sample."""
    return torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(POINTS, 3)


def make_blank(spec: Input) -> Tensor:
    """Return what stands for an absent cloud."""
    return torch.zeros(POINTS, 3)


def finish(x: Tensor, spec: Input) -> Tensor:
    """Return what the encoder takes, of a batch (B, 64, 3)."""
    return x / spec.size


class PointEncoder(nn.Module):
    """(B, 64, 3) -> (B, 32), the same for any order of the points (PointNet, arXiv 1612.00593)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32))

    def forward(self, points: Tensor) -> Tensor:
        return self.layers(points).amax(1)


def make_encoder() -> tuple[nn.Module, int, Input]:
    """Return the module, the width of its features, and the input that it needs."""
    return PointEncoder(), 32, Input()


# A table to try it on. ----------------------------------------------------------------------------

PARAMS = """\
dataset: manifest
name: clouds
modalities: {cloud: "import:own_modality", note: text}
preprocess:
  options:
    columns: {cloud: file, note: words}
encoders:
  cloud: import:own_modality:make_encoder
  note: {name: text:cnn, input: {length: 16}}
pretrain: {epochs: 10, batch_size: 16}
finetune: {epochs: 10, batch_size: 16}
"""


def make_table(folder: Path, rows: int = 120) -> None:
    """Write clouds of balls and cubes with a few words about each, table.csv and params.yaml."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "words", "label"])
        for number in range(rows):
            label = ("ball", "cube")[number % 2]
            points = generator.uniform(-1, 1, (200, 3))
            if label == "ball":
                points = points / np.linalg.norm(points, axis=1, keepdims=True)
            np.savetxt(folder / f"{number:03d}.xyz", points, fmt="%.4f")
            words = ("it rolls", "it stands", "it is there")[number % 3 if number % 5 else 2]
            table.writerow([f"{number:03d}.xyz", words, label])
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")


if __name__ == "__main__":
    make_table(Path(sys.argv[1]))

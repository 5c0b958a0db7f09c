"""A few made-up written and spoken digits in the layouts of MNIST, FSDD and ESC."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import soundfile

from umemma.datasets import _digits_av as parts
from umemma.datasets import avmnist

SPEAKERS, TAKES = ("jackson", "lucas", "nicolas", "theo"), (0, 4, 5, 9, 10, 15, 20)
TRAIN, TEST = 240, 200  # MNIST's train, of which the last twelfth, 220-239, validates; and its test


def write_idx(path: Path, data: np.ndarray) -> None:
    """uint8 data as MNIST's own files are."""
    header = bytes([0, 0, 8, data.ndim]) + struct.pack(f">{data.ndim}I", *data.shape)
    path.write_bytes(gzip.compress(header + data.tobytes()))


def make_mnist(folder: Path) -> dict[str, np.ndarray]:
    """Image i is of the digit i % 10."""
    chance = np.random.default_rng(0)
    images = {"train": TRAIN, "test": TEST}
    for part, count in images.items():
        images[part] = chance.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        write_idx(folder / parts.IMAGES[part], images[part])
        write_idx(folder / parts.LABELS[part], np.arange(count, dtype=np.uint8) % 10)
    return images


def make_recordings(folder: Path) -> None:
    """Digit d is a tone of 200 + 100 d Hz; take 20 is longer than 0.8 s."""
    (folder / "recordings").mkdir()
    for digit in range(10):
        for speaker in SPEAKERS:
            for take in TAKES:
                tone = 0.3 * np.sin(
                    2 * np.pi * (200 + 100 * digit) / 8000 * np.arange(7000 if take == 20 else 1600)
                )
                soundfile.write(
                    folder / "recordings" / f"{digit}_{speaker}_{take}.wav",
                    tone,
                    8000,
                    subtype="PCM_16",
                )
    (folder / "recordings" / "README.md").write_text("no recording")


def make_noise(folder: Path) -> None:
    """A clip of each fold at 16 kHz: 0.25 s of noise, then nothing."""
    (folder / "esc").mkdir()
    for fold in range(1, 6):
        noise = np.zeros(32000)
        noise[:4000] = 0.2 * np.random.default_rng(fold).standard_normal(4000).clip(-4, 4)
        soundfile.write(folder / "esc" / f"{fold}-10{fold}-A-0.wav", noise, 16000, subtype="PCM_16")


def listed(folder: Path, **options) -> list:
    return list(avmnist.records(folder, avmnist.Options(**options)))


def write_wav(path: Path, samples: np.ndarray, rate: int = 8000) -> None:
    soundfile.write(path, samples, rate, subtype="PCM_16")

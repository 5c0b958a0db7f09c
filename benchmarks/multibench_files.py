"""Files in the layout of MultiBench's AV-MNIST, made from those of our `avmnist`.

    python benchmarks/multibench_files.py SOURCE FOLDER

SOURCE is data/raw/avmnist after `umemma download avmnist`. FOLDER gets the six .npy files for
`umemma download avmnist-multibench --from FOLDER`. Images keep a quarter of their variance, as in
`avmnist`, and with each stands a recording of its digit and split, without noise. MultiBench's own
files can't be had here: whatever is measured on these is of these alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile

from umemma.datasets import avmnist
from umemma.datasets.avmnist_multibench import SHAPES

SIDE = 112  # of a spectrogram
WINDOW = 222  # samples at 8 kHz: 112 frequencies
HOP = 57  # samples: 112 frames in 0.8 s
RANGE = 80  # dB below the loudest value, which are the 256 grey levels


def make_files(source: Path, folder: Path) -> None:
    samples: dict[str, list[tuple[int, np.ndarray, str]]] = {"train": [], "test": []}
    for record in avmnist.records(source, avmnist.Options()):
        part = "test" if record.split == "test" else "train"  # val is the end of train
        samples[part].append((record.label, record.media["image"](), record.group))
    names = sorted({name for rows in samples.values() for _, _, name in rows})
    spectrograms = {name: read_spectrogram(source / "recordings" / f"{name}.wav") for name in names}
    for part, rows in samples.items():
        arrays = {
            f"image/{part}_data": np.stack([image.reshape(-1) for _, image, _ in rows]),
            f"audio/{part}_data": np.stack([spectrograms[name] for _, _, name in rows]),
            f"{part}_labels": np.array([digit for digit, _, _ in rows]),
        }
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)


def read_spectrogram(path: Path) -> np.ndarray:
    """Return (112, 112) uint8: decibels of 0.8 s of a recording, low frequencies first."""
    clip, _ = soundfile.read(path)
    clip = clip[: avmnist.LENGTH]
    clip = np.pad(clip, (0, avmnist.LENGTH - len(clip)))
    _, _, power = scipy.signal.spectrogram(
        clip, avmnist.RATE, nperseg=WINDOW, noverlap=WINDOW - HOP, mode="psd"
    )
    power = np.pad(power, ((0, 0), (0, SIDE)))[:, :SIDE]
    decibels = 10 * np.log10(np.maximum(power / power.max(), 10 ** (-RANGE / 10)))
    return np.rint((decibels + RANGE) * 255 / RANGE).astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    for name in SHAPES:
        (options.folder / name).mkdir(parents=True, exist_ok=True)
    make_files(options.source, options.folder)

"""Corruption of sound, before its spectrogram is made: white noise, and a burst of silence.

Both are measured within what the encoder hears. Ratios of signal to noise in steps of 5 dB are how
audio-visual speech recognition is tested (Ma, Petridis & Pantic, End-to-end Audio-visual Speech
Recognition with Conformers, ICASSP 2021, arXiv 2102.06657), there with babble.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from umemma.modalities import audio
from umemma.modalities.corruption.grades import PERCENT, SHARES, Grades, place_burst
from umemma.modalities.sampling import sample_normal
from umemma.system.signals import delay_stop_signals
from umemma.types import AudioInput, Sound, WaveInput

if TYPE_CHECKING:
    import torch

KINDS = {
    "noise": Grades((20, 15, 10, 5, 0), "{:g} dB", "signal-to-noise ratio"),
    "burst": Grades(SHARES, PERCENT, "share of the time, silent"),
}


def decode(
    data: bytes, spec: AudioInput | WaveInput, kind: str, level: float, number: np.ndarray
) -> torch.Tensor:
    """Return the input of a sound that was corrupted before anything else."""
    sound, _ = audio.read_sound(data)
    heard = round(spec.seconds * sound.rate)
    return audio.decode(_write(corrupt(sound, heard, kind, level, number)), spec)


def corrupt(sound: Sound, heard: int, kind: str, level: float, number: np.ndarray) -> Sound:
    """Corrupt the first `heard` samples of a sound."""
    samples = sound.samples.copy()
    part = samples[:heard]
    if kind == "noise":
        part += _make_noise(part, level, number)
    else:
        part[place_burst(number, len(part), level)] = 0
    return Sound(samples, sound.rate)


def _make_noise(samples: np.ndarray, ratio: float, number: np.ndarray) -> np.ndarray:
    """Return white noise whose power is exactly `ratio` dB below that of (T,) samples."""
    import torch

    noise = sample_normal(number, torch.empty(1, len(samples)))[0].numpy().astype(np.float64)
    power = np.square(samples, dtype=np.float64).mean()
    factor = np.sqrt(power / np.square(noise).mean() / 10 ** (ratio / 10))
    return (factor * noise).astype(np.float32)


def _write(sound: Sound) -> bytes:
    """Return a WAV file of float32, which clips nothing."""
    file = io.BytesIO()
    with delay_stop_signals():
        soundfile.write(file, sound.samples, sound.rate, format="WAV", subtype="FLOAT")
    return file.getvalue()

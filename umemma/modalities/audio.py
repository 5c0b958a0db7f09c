"""Audio: mono FLAC in the shards, a log-mel spectrogram (1, mels, T) in a batch."""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio.functional
import torchaudio.transforms

from umemma.contracts import AudioInput, Media, Sound

SUFFIX = "flac"
FLOOR = 1e-5  # added to the mel power before the logarithm: about -50 dB, the quietest that is told from silence


def pack(media: Media) -> bytes:
    """16-bit mono FLAC of a Sound; encoded audio (bytes or a file) is decoded first, its channels averaged."""
    if isinstance(media, np.ndarray):
        raise ValueError("an array without a sample rate, not audio")
    sound = media if isinstance(media, Sound) else _read(media)
    if not len(sound.samples):
        raise ValueError("no audio samples")
    if not np.isfinite(sound.samples).all():
        raise ValueError("audio holds values that are not finite")
    file = io.BytesIO()
    soundfile.write(file, sound.samples, sound.rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def decode(data: bytes, spec: AudioInput) -> torch.Tensor:
    """(1, mels, T) float32: the first `seconds` s (padded with silence), log-mel, mean 0 and std 1 over the clip."""
    sound = _read(data)
    samples = torch.from_numpy(sound.samples)
    if sound.rate != spec.sample_rate:
        samples = torchaudio.functional.resample(samples, sound.rate, spec.sample_rate)
    return _spectrogram(samples, spec)


def blank(spec: AudioInput) -> torch.Tensor:
    """Silence."""
    return _spectrogram(torch.zeros(0), spec)


def _spectrogram(samples: torch.Tensor, spec: AudioInput) -> torch.Tensor:
    length = round(spec.seconds * spec.sample_rate)
    samples = torch.nn.functional.pad(samples[:length], (0, max(0, length - len(samples))))
    loud = torch.log(_mel(spec)(samples) + FLOOR)
    return ((loud - loud.mean()) / (loud.std() + 1e-3))[None]


@functools.cache
def _mel(spec: AudioInput) -> torchaudio.transforms.MelSpectrogram:
    fft = 2 ** math.ceil(math.log2(spec.window))
    return torchaudio.transforms.MelSpectrogram(
        spec.sample_rate, n_fft=fft, win_length=spec.window, hop_length=spec.hop, n_mels=spec.mels
    )


def _read(media: bytes | Path) -> Sound:
    try:
        source = io.BytesIO(media) if isinstance(media, bytes) else media
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:  # its text holds an address in memory; error_string doesn't
        raise ValueError(f"not readable audio: {error.error_string}") from None
    except OSError as error:
        raise ValueError(f"not readable audio: {error}") from None
    return Sound(samples.mean(1), rate)

"""Audio: mono FLAC in the shards, a log-mel spectrogram (1, mels, T) in a batch."""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from umemma.contracts import AudioInput, Clip, Media, Packing, Sound
from umemma.modalities.packed import MOST_SECONDS, Packed, read_file

if TYPE_CHECKING:
    import torch
    import torchaudio

SUFFIXES = ("flac",)
FLOOR = 1e-5  # added to the mel power before the logarithm: about -50 dB, the quietest that is told from silence


def pack(media: Media, packing: Packing) -> Packed | None:
    """16-bit mono FLAC at no more than `packing.sample_rate` Hz; None for silence.

    A mono FLAC (bytes or a file) at no higher a rate is copied. Other encoded sound is decoded first (FFmpeg), its
    channels mixed down.
    """
    if isinstance(media, (Path, bytes)):
        data = read_file(media) if isinstance(media, Path) else media
        if data[:4] == b"fLaC":
            sound, channels = _read(data)
            if channels == 1 and sound.rate <= packing.sample_rate:
                return None if _silent(sound, packing) else Packed("flac", data)
        media = Clip(media) if isinstance(media, Path) else data
    if isinstance(media, (Clip, bytes)):
        from umemma.modalities import clips

        found = clips.read(media, packing, pictures=False, sound=True).sound
        if found is None:
            return None
        media = found
    if not isinstance(media, Sound):
        raise ValueError("not a sound")
    if not len(media.samples):
        raise ValueError("no audio samples")
    if _silent(media, packing):
        return None
    file = io.BytesIO()
    soundfile.write(file, media.samples, media.rate, format="FLAC", subtype="PCM_16")
    return Packed("flac", file.getvalue())


def _silent(sound: Sound, packing: Packing) -> bool:
    """ValueError where a sample is not a finite number."""
    samples = sound.samples.astype(np.float32)
    power = float(samples @ samples) / len(samples)
    if not math.isfinite(power):
        raise ValueError("audio holds values that are not finite")
    return math.sqrt(power) < packing.silence * (32768 if sound.samples.dtype == np.int16 else 1)


def decode(data: bytes, spec: AudioInput) -> torch.Tensor:
    """(1, mels, T) float32: the first `seconds` s (padded with silence), log-mel, mean 0 and std 1 over the clip."""
    import torch

    sound, _ = _read(data)
    samples = torch.from_numpy(sound.samples)
    if sound.rate != spec.sample_rate:
        import torchaudio.functional

        samples = torchaudio.functional.resample(samples, sound.rate, spec.sample_rate)
    return _spectrogram(samples, spec)


def blank(spec: AudioInput) -> torch.Tensor:
    """Silence."""
    import torch

    return _spectrogram(torch.zeros(0), spec)


def _spectrogram(samples: torch.Tensor, spec: AudioInput) -> torch.Tensor:
    import torch

    length = round(spec.seconds * spec.sample_rate)
    samples = torch.nn.functional.pad(samples[:length], (0, max(0, length - len(samples))))
    loud = torch.log(_mel(spec)(samples) + FLOOR)
    return ((loud - loud.mean()) / (loud.std() + 1e-3))[None]


@functools.cache
def _mel(spec: AudioInput) -> torchaudio.transforms.MelSpectrogram:
    import torchaudio.transforms

    fft = 2 ** math.ceil(math.log2(spec.window))
    return torchaudio.transforms.MelSpectrogram(
        spec.sample_rate, n_fft=fft, win_length=spec.window, hop_length=spec.hop, n_mels=spec.mels
    )


def _read(data: bytes) -> tuple[Sound, int]:
    """The sound, its channels averaged, and how many they were."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.frames > MOST_SECONDS * file.samplerate:
                raise ValueError("longer than the bound of an hour")
            samples = file.read(dtype="float32", always_2d=True)
            return Sound(samples.mean(1), file.samplerate), file.channels
    except soundfile.LibsndfileError as error:  # its text holds an address in memory; error_string doesn't
        raise ValueError(f"not readable audio: {error.error_string}") from None

"""Audio: mono FLAC in the shards; a log-mel spectrogram (1, mels, T) or samples (T,) when decoded."""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import soundfile
from pydantic import Field

from umemma.errors import UserError
from umemma.modalities import spec_augment
from umemma.modalities.limits import MOST_SECONDS, Packed, read_file
from umemma.modalities.sampling import Drawn, Share, normal, uniform
from umemma.system.seeds import mixed
from umemma.types import AudioInput, Clip, Media, Packing, Sound, WaveInput

if TYPE_CHECKING:
    import torch
    import torchaudio

SUFFIXES = ("flac",)
UNREAL = "audio holds values that are not finite"
FLOOR = 1e-5  # added to the mel power before the logarithm: about -50 dB, the quietest that is told from silence
STEADY = 1e-3  # added to the standard deviation, so that silence isn't divided by 0


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
        from umemma.modalities import av_decoder

        found = av_decoder.read(media, packing, pictures=False, sound=True).sound
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
        raise ValueError(UNREAL)
    return math.sqrt(power) < packing.silence * (32768 if sound.samples.dtype == np.int16 else 1)


def decode(data: bytes, spec: AudioInput | WaveInput) -> torch.Tensor:
    """The first `seconds` s, with silence at the end where it is shorter: (T,) samples for a WaveInput, (1, mels, T) log-mel,
    mean 0 and std 1 over the clip, for an AudioInput; float32."""
    import torch

    sound, _ = _read(data)
    samples = torch.from_numpy(sound.samples)
    if sound.rate != spec.sample_rate:
        import torchaudio.functional

        samples = torchaudio.functional.resample(samples, sound.rate, spec.sample_rate)
    heard = _heard(samples, spec)
    if not heard.isfinite().all():
        raise ValueError(UNREAL)
    return heard


def blank(spec: AudioInput | WaveInput) -> torch.Tensor:
    """Silence."""
    import torch

    return _heard(torch.zeros(0), spec)


class Augment(spec_augment.Masks):
    """How sound is changed in training, in this order; by default not at all.

    shift: in time, to either side, at most this share of it; what leaves at one end comes in at the other. gain: louder
    or quieter by at most so many dB. noise: its standard deviation; for samples in proportion to their own RMS, a
    spectrogram has 1. Then masks, filled with 0. Gain is for samples, masks in frequency are for spectrograms. Zeros at the
    end of samples are padding, which stays where and what it is.
    """

    shift: Share = 0.0
    gain: Annotated[float, Field(ge=0)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0


def check(options: Augment, spec: AudioInput | WaveInput) -> None:
    """UserError for gain on a spectrogram and for masks in frequency on samples."""
    if isinstance(spec, AudioInput) and options.gain:
        raise UserError(
            "a spectrogram is normalised", "augment.audio.gain", "Leave it out.", usage=True
        )
    if isinstance(spec, WaveInput) and options.freq_masks:
        what = "the encoder hears samples, which have no axis of frequencies"
        raise UserError(what, "augment.audio.freq_masks", "Leave it out.", usage=True)


def draw(options: Augment, numbers: np.ndarray, spec: AudioInput | WaveInput) -> Drawn:
    """shift: (B,) shares of the length, to the right; gain: (B,) factors; noise: (B,) seeds; and the masks."""
    drawn: Drawn = {}
    if options.shift:
        drawn["shift"] = options.shift * (2 * uniform(numbers, "shift") - 1)
    if options.gain:
        drawn["gain"] = 10 ** (options.gain * (2 * uniform(numbers, "gain") - 1) / 20)
    if options.noise:
        drawn["noise"] = mixed(numbers, 0, "noise")
    if isinstance(spec, AudioInput):
        return drawn | spec_augment.draw(options, numbers, spec.mels, _length(spec) // spec.hop + 1)
    return drawn | spec_augment.draw(options, numbers, 0, _length(spec))


def augment(
    x: torch.Tensor, spec: AudioInput | WaveInput, options: Augment, drawn: Drawn
) -> torch.Tensor:
    """(B, T) samples or (B, 1, mels, T), float32."""
    import torch

    place = torch.arange(x.shape[-1], device=x.device)
    length = place.new_full((len(x), 1), x.shape[-1])
    if isinstance(spec, WaveInput) and drawn.keys() & {"shift", "noise"}:  # without the padding
        length = ((x != 0) * (place + 1)).amax(1, keepdim=True)
    if "shift" in drawn:
        by = (torch.from_numpy(drawn["shift"]).to(x.device)[:, None] * length).round().long()
        source = torch.where(place < length, (place - by) % length.clamp(min=1), place)
        x = x.gather(-1, source.view(len(x), *[1] * (x.ndim - 2), -1).expand_as(x))
    if "gain" in drawn:
        x = x * torch.from_numpy(drawn["gain"]).to(x)[:, None]
    if "noise" in drawn:
        noise = options.noise * normal(drawn["noise"], x)
        if isinstance(spec, WaveInput):
            heard = zip(x, length.flatten().tolist(), strict=True)
            rms = torch.stack([one[:n].square().sum().div(max(n, 1)).sqrt() for one, n in heard])
            noise = noise * rms[:, None] * (place < length)
        x = x + noise
    return spec_augment.masked(x, drawn, x.new_zeros(()))


def finish(x: torch.Tensor, spec: AudioInput | WaveInput) -> torch.Tensor:
    """As it is: (B, T) or (B, 1, mels, T) float32."""
    return x


def recipe(spec: AudioInput | WaveInput, packing: Packing) -> dict[str, Any]:
    """How a file of sound becomes the input without umemma."""
    numbers: dict[str, Any] = {
        "packed_rate": packing.sample_rate,
        "silence": packing.silence,
        "samples": _length(spec),
    }
    steps = [
        "Decode the file to mono, the mean of its channels, 16 bits a sample. Where its rate is over "
        f"{packing.sample_rate} Hz, resample it to that (FFmpeg's swresample, as PyAV's AudioResampler does).",
        f"As float32, divided by 32768. A sound whose root mean square is below {packing.silence} is absent.",
        f"Where the rate isn't {spec.sample_rate} Hz: torchaudio.functional.resample(samples, rate, {spec.sample_rate}).",
        f"Cut it to {_length(spec)} samples, or add zeros at the end.",
    ]
    if isinstance(spec, AudioInput):
        numbers |= {
            "spectrogram": _spectrogram(spec),
            "window_function": "hann",
            "floor": FLOOR,
            "steady": STEADY,
        }
        steps += [
            "torchaudio.transforms.MelSpectrogram(**spectrogram): |STFT| ** power under a periodic Hann window that zeros on "
            "both sides make n_fft long, the ends of the sound mirrored; then triangular filters on HTK's mel scale.",
            f"log(power + {FLOOR}), the natural one.",
            f"(x - mean) / (std + {STEADY}), mean and std (over n - 1) of all bins of this sound; shape (1, mels, T).",
        ]
    return numbers | {"steps": steps}


def _length(spec: AudioInput | WaveInput) -> int:
    return round(spec.seconds * spec.sample_rate)


def _heard(samples: torch.Tensor, spec: AudioInput | WaveInput) -> torch.Tensor:
    import torch

    samples = torch.nn.functional.pad(
        samples[: _length(spec)], (0, max(0, _length(spec) - len(samples)))
    )
    if isinstance(spec, WaveInput):
        return samples
    loud = torch.log(_mel(spec)(samples) + FLOOR)
    return ((loud - loud.mean()) / (loud.std() + STEADY))[None]


@functools.cache
def _mel(spec: AudioInput) -> torchaudio.transforms.MelSpectrogram:
    import torchaudio.transforms

    return torchaudio.transforms.MelSpectrogram(**_spectrogram(spec))


def _spectrogram(spec: AudioInput) -> dict[str, Any]:
    """What MelSpectrogram takes, its defaults too; its window is Hann's."""
    own: dict[str, Any] = {
        "sample_rate": spec.sample_rate,
        "win_length": spec.window,
        "hop_length": spec.hop,
        "n_mels": spec.mels,
    }
    own |= {
        "n_fft": 2 ** math.ceil(math.log2(spec.window)),
        "f_min": 0.0,
        "f_max": float(spec.sample_rate // 2),
    }
    return own | {
        "power": 2.0,
        "normalized": False,
        "center": True,
        "pad_mode": "reflect",
        "norm": None,
        "mel_scale": "htk",
    }


def _read(data: bytes) -> tuple[Sound, int]:
    """The sound, its channels averaged, and how many they were."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.frames > MOST_SECONDS * file.samplerate:
                raise ValueError("longer than the bound of an hour")
            samples = file.read(dtype="float32", always_2d=True)
            return Sound(samples.mean(1), file.samplerate), file.channels
    except (
        soundfile.LibsndfileError
    ) as error:  # its text holds an address in memory; error_string doesn't
        raise ValueError(f"not readable audio: {error.error_string}") from None

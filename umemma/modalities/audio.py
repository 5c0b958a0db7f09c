"""Audio: mono FLAC in the shards. Decoded: a log-mel spectrogram (1, mels, T), or samples (T,)."""

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
from umemma.modalities.limits import MAX_SECONDS, Packed, read_file
from umemma.modalities.sampling import SampleDraws, Share, sample_normal, sample_uniform
from umemma.system.seeds import mix
from umemma.system.signals import delay_stop_signals
from umemma.types import AudioInput, Clip, Media, Packing, Sound, WaveInput

if TYPE_CHECKING:
    import torch
    import torchaudio

SUFFIXES = ("flac",)
NOT_FINITE = "audio holds values that are not finite"
# Added to the mel power before the logarithm: about -50 dB, the quietest sound that differs from
# silence.
FLOOR = 1e-5
STEADY = 1e-3  # added to the standard deviation, so that silence is not divided by 0
INT16_SCALE = 32768


# Packing. -----------------------------------------------------------------------------------------


def pack(media: Media, packing: Packing) -> Packed | None:
    """Encode a sound as 16-bit mono FLAC of at most `packing.sample_rate` Hz; None for silence.

    A mono FLAC (bytes or a file) whose rate is not higher is copied. Other encoded sound is decoded
    first, by FFmpeg, and its channels are mixed down.
    """
    if isinstance(media, (Path, bytes)):
        data = read_file(media) if isinstance(media, Path) else media
        if data[:4] == b"fLaC":
            sound, channels = read_sound(data)
            if channels == 1 and sound.rate <= packing.sample_rate:
                if _is_silent(sound, packing):
                    return None
                return Packed("flac", data)
    if isinstance(media, Path):
        media = Clip(media)
    if isinstance(media, (Clip, bytes)):
        from umemma.modalities.files import av_decoder

        decoded = av_decoder.read_clip(media, packing, pictures=False, sound=True)
        if decoded.sound is None:
            return None
        media = decoded.sound
    if not isinstance(media, Sound):
        raise ValueError("not a sound")
    if not len(media.samples):
        raise ValueError("no audio samples")
    if _is_silent(media, packing):
        return None
    file = io.BytesIO()
    with delay_stop_signals():
        soundfile.write(file, media.samples, media.rate, format="FLAC", subtype="PCM_16")
    return Packed("flac", file.getvalue())


def _is_silent(sound: Sound, packing: Packing) -> bool:
    """Compare the RMS with `packing.silence`. Raises ValueError for samples that are not finite."""
    samples = sound.samples.astype(np.float32)
    power = float(samples @ samples) / len(samples)
    if not math.isfinite(power):
        raise ValueError(NOT_FINITE)
    threshold = packing.silence
    if sound.samples.dtype == np.int16:
        threshold *= INT16_SCALE
    return math.sqrt(power) < threshold


def read_sound(data: bytes) -> tuple[Sound, int]:
    """Return the sound, with its channels averaged, and the number of channels."""
    try:
        with delay_stop_signals(), soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.frames > MAX_SECONDS * file.samplerate:
                raise ValueError("longer than the bound of an hour")
            samples = file.read(dtype="float32", always_2d=True)
            return Sound(samples.mean(1), file.samplerate), file.channels
    except soundfile.LibsndfileError as error:
        # The text of the error holds a memory address; error_string does not.
        raise ValueError(f"not readable audio: {error.error_string}") from None


# Decoding. ----------------------------------------------------------------------------------------


def decode(data: bytes, spec: AudioInput | WaveInput) -> torch.Tensor:
    """Return the first `seconds` s, float32, with silence at the end if the sound is shorter.

    For a WaveInput these are (T,) samples; for an AudioInput the (1, mels, T) log-mel spectrogram,
    with mean 0 and std 1 over the clip.
    """
    import torch

    sound, _ = read_sound(data)
    samples = torch.from_numpy(sound.samples)
    if sound.rate != spec.sample_rate:
        import torchaudio.functional

        samples = torchaudio.functional.resample(samples, sound.rate, spec.sample_rate)
    x = _to_input(samples, spec)
    if not x.isfinite().all():
        raise ValueError(NOT_FINITE)
    return x


def make_blank(spec: AudioInput | WaveInput) -> torch.Tensor:
    """Return silence."""
    import torch

    return _to_input(torch.zeros(0), spec)


def finish(x: torch.Tensor, spec: AudioInput | WaveInput) -> torch.Tensor:
    """Return x unchanged: (B, T) or (B, 1, mels, T) float32."""
    return x


def _length(spec: AudioInput | WaveInput) -> int:
    """Return the number of samples of an input."""
    return round(spec.seconds * spec.sample_rate)


def _to_input(samples: torch.Tensor, spec: AudioInput | WaveInput) -> torch.Tensor:
    """Cut or pad samples to the length of the input, and make the spectrogram of an AudioInput."""
    import torch

    length = _length(spec)
    padding = max(0, length - len(samples))
    samples = torch.nn.functional.pad(samples[:length], (0, padding))
    if isinstance(spec, WaveInput):
        return samples
    power = _mel_transform(spec)(samples)
    log_power = torch.log(power + FLOOR)
    normalised = (log_power - log_power.mean()) / (log_power.std() + STEADY)
    return normalised[None]


@functools.cache
def _mel_transform(spec: AudioInput) -> torchaudio.transforms.MelSpectrogram:
    import torchaudio.transforms

    return torchaudio.transforms.MelSpectrogram(**_spectrogram_arguments(spec))


def _spectrogram_arguments(spec: AudioInput) -> dict[str, Any]:
    """Return the arguments of MelSpectrogram, its defaults included; its window is Hann's."""
    return {
        "sample_rate": spec.sample_rate,
        "win_length": spec.window,
        "hop_length": spec.hop,
        "n_mels": spec.mels,
        "n_fft": _choose_fft_size(spec),
        "f_min": 0.0,
        "f_max": float(spec.sample_rate // 2),
        "power": 2.0,
        "normalized": False,
        "center": True,
        "pad_mode": "reflect",
        "norm": None,
        "mel_scale": "htk",
    }


def _choose_fft_size(spec: AudioInput) -> int:
    """Return the smallest power of 2 from the window on with which no mel filter is empty.

    The lowest filters of 128 mels at 16 kHz are narrower than a bin of 512 points, and would be
    zero for every sound.
    """
    highest = 2595 * math.log10(1 + spec.sample_rate / 2 / 700)  # on HTK's mel scale
    edges = 700 * (10 ** (np.linspace(0, highest, spec.mels + 2) / 2595) - 1)  # Hz
    size: int = 2 ** math.ceil(math.log2(spec.window))
    while True:
        bin_width = spec.sample_rate / size
        lowest_bins = np.floor(edges[:-2] / bin_width) + 1  # the first one inside each filter
        if (lowest_bins * bin_width < edges[2:]).all():
            return size
        size *= 2


# Augmentation. ------------------------------------------------------------------------------------


class Augment(spec_augment.Masks):
    """The augmentation of sound in training, in this order. The defaults change nothing.

    shift: in time, to either side, by at most this share of the length; what leaves at one end
    comes in at the other. gain: louder or quieter by at most this number of dB. noise: its standard
    deviation; for samples in proportion to their RMS, while a spectrogram has std 1. Then masks,
    filled with 0. Gain is for samples, masks in frequency are for spectrograms. Zeros at the end of
    samples are padding, which stays unchanged.
    """

    shift: Share = 0.0
    gain: Annotated[float, Field(ge=0)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0


def check(options: Augment, spec: AudioInput | WaveInput) -> None:
    """Raise UserError for gain on a spectrogram and for masks in frequency on samples."""
    if isinstance(spec, AudioInput) and options.gain:
        raise UserError(
            "a spectrogram is normalised",
            "augment.audio.gain",
            "Leave it out.",
            usage=True,
        )
    if isinstance(spec, WaveInput) and options.freq_masks:
        raise UserError(
            "the encoder hears samples, which have no axis of frequencies",
            "augment.audio.freq_masks",
            "Leave it out.",
            usage=True,
        )


def draw(options: Augment, numbers: np.ndarray, spec: AudioInput | WaveInput) -> SampleDraws:
    """Draw the augmentation of B samples from `numbers`, (B,) uint64.

    shift: (B,) to the right, as shares of the length. gain: (B,) factors. noise: (B,) seeds. Then
    the masks.
    """
    drawn: SampleDraws = {}
    if options.shift:
        direction = 2 * sample_uniform(numbers, "shift") - 1
        drawn["shift"] = options.shift * direction
    if options.gain:
        direction = 2 * sample_uniform(numbers, "gain") - 1
        drawn["gain"] = 10 ** (options.gain * direction / 20)
    if options.noise:
        drawn["noise"] = mix(numbers, 0, "noise")
    freq = 0
    time = _length(spec)
    if isinstance(spec, AudioInput):
        freq = spec.mels
        time = time // spec.hop + 1
    return drawn | spec_augment.draw_masks(options, numbers, freq, time)


def augment(
    x: torch.Tensor,
    spec: AudioInput | WaveInput,
    options: Augment,
    drawn: SampleDraws,
) -> torch.Tensor:
    """Augment (B, T) samples or (B, 1, mels, T) spectrograms, float32."""
    import torch

    index = torch.arange(x.shape[-1], device=x.device)
    length = index.new_full((len(x), 1), x.shape[-1])
    if isinstance(spec, WaveInput) and drawn.keys() & {"shift", "noise"}:
        length = ((x != 0) * (index + 1)).amax(1, keepdim=True)  # without the padding
    if "shift" in drawn:
        shift = torch.from_numpy(drawn["shift"]).to(x.device, non_blocking=True)[:, None]
        steps = (shift * length).round().long()
        source = torch.where(index < length, (index - steps) % length.clamp(min=1), index)
        between = [1] * (x.ndim - 2)
        x = x.gather(-1, source.view(len(x), *between, -1).expand_as(x))
    if "gain" in drawn:
        x = x * torch.from_numpy(drawn["gain"]).to(x, non_blocking=True)[:, None]
    if "noise" in drawn:
        noise = options.noise * sample_normal(drawn["noise"], x)
        if isinstance(spec, WaveInput):
            noise = noise * _rms(x, length)[:, None] * (index < length)
        x = x + noise
    return spec_augment.apply_masks(x, drawn, x.new_zeros(()))


def _rms(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Return (B,), the root mean square of the first `length`, (B, 1), samples of x, (B, T)."""
    import torch

    values = []
    for samples, n in zip(x, length.flatten().tolist(), strict=True):
        mean_square = samples[:n].square().sum().div(max(n, 1))
        values.append(mean_square.sqrt())
    return torch.stack(values)


# Preparing a file without umemma. -----------------------------------------------------------------


def make_recipe(spec: AudioInput | WaveInput, packing: Packing) -> dict[str, Any]:
    """Describe how a sound file becomes the input without umemma."""
    numbers: dict[str, Any] = {
        "packed_rate": packing.sample_rate,
        "silence": packing.silence,
        "samples": _length(spec),
    }
    steps = [
        "Decode the file to mono, the mean of its channels, 16 bits a sample. Where its rate is "
        f"over {packing.sample_rate} Hz, resample it to that (FFmpeg's swresample, as PyAV's "
        "AudioResampler does).",
        "As float32, divided by 32768. A sound whose root mean square is below "
        f"{packing.silence} is absent.",
        f"Where the rate isn't {spec.sample_rate} Hz: "
        f"torchaudio.functional.resample(samples, rate, {spec.sample_rate}).",
        f"Cut it to {_length(spec)} samples, or add zeros at the end.",
    ]
    if isinstance(spec, AudioInput):
        numbers |= {
            "spectrogram": _spectrogram_arguments(spec),
            "window_function": "hann",
            "floor": FLOOR,
            "steady": STEADY,
        }
        steps += [
            "torchaudio.transforms.MelSpectrogram(**spectrogram): |STFT| ** power under a periodic "
            "Hann window that zeros on both sides make n_fft long, the ends of the sound mirrored; "
            "then triangular filters on HTK's mel scale.",
            f"log(power + {FLOOR}), the natural one.",
            f"(x - mean) / (std + {STEADY}), mean and std (over n - 1) of all bins of this sound; "
            "shape (1, mels, T).",
        ]
    return numbers | {"steps": steps}

"""Sound: what goes into the shards, what an encoder hears, and what a stranger's file can't do."""

from __future__ import annotations

import io
import signal

import numpy as np
import pytest
import soundfile
import torch
from toys.augmentation import (
    AUDIO_SPEC,
    MANY_NUMBERS,
    SAMPLES,
    SPECTROGRAMS,
    WAVE_SPEC,
    augment_batch,
)
from toys.loading import SPECS
from toys.media import GREY, PACKING, TONE, flac

from umemma.errors import UserError
from umemma.modalities import audio
from umemma.types import AudioInput, Sound, WaveInput

# The log-mel spectrogram and the samples of TONE.
TONE_SPECTROGRAM = SPECS["audio"]
TONE_WAVE = WaveInput(sample_rate=8000, seconds=0.1)


def make_sound(level: float, count: int = 50) -> Sound:
    """Return a sound whose samples all have this value."""
    return Sound(np.full(count, level, np.float32), 8000)


def spoil_tone(value: float) -> np.ndarray:
    """Return the samples of TONE with this value in the place of one."""
    return np.where(np.arange(800) == 7, value, TONE.samples)


# Packing. -----------------------------------------------------------------------------------------


def test_a_mono_flac_is_copied(tmp_path):
    data = flac(TONE.samples)
    assert audio.pack(data, PACKING) == ("flac", data)
    (tmp_path / "a.wav").write_bytes(data)
    assert audio.pack(tmp_path / "a.wav", PACKING) == ("flac", data)


def test_sound_is_mixed_down_and_its_rate_bounded(tmp_path):
    stereo = np.stack([TONE.samples, np.zeros(800, np.float32)], 1)
    soundfile.write(tmp_path / "a.wav", stereo, 8000, subtype="PCM_16")
    packed = audio.pack(tmp_path / "a.wav", PACKING)
    samples, rate = soundfile.read(io.BytesIO(packed.data))
    assert rate == 8000
    np.testing.assert_allclose(samples, TONE.samples / 2, atol=2e-4)

    soundfile.write(tmp_path / "b.ogg", np.tile(TONE.samples, 100), 44100, format="OGG")
    packed = audio.pack(tmp_path / "b.ogg", PACKING)
    info = soundfile.info(io.BytesIO(packed.data))
    assert info.samplerate == 16000
    assert info.channels == 1
    assert info.duration == pytest.approx(80000 / 44100, abs=0.01)


def test_a_wave_file_keeps_its_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE.samples, 8000, subtype="PCM_16")
    packed = audio.pack(tmp_path / "a.wav", PACKING)
    packed_samples, _ = soundfile.read(io.BytesIO(packed.data), dtype="int16")
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    np.testing.assert_array_equal(packed_samples, samples)


def test_a_wave_file_that_is_cut_off_or_holds_no_numbers(tmp_path):
    long_tone = np.tile(TONE.samples, 40)
    for name, kind in (("a.wav", "WAV"), ("a.aiff", "AIFF")):
        path = tmp_path / name
        soundfile.write(path, long_tone, 8000, format=kind, subtype="PCM_16")
        whole = path.read_bytes()
        for share in (0.3, 0.9, 0.99):
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(ValueError, match="cut off"):
                audio.pack(path, PACKING)
    soundfile.write(tmp_path / "b.wav", spoil_tone(np.nan), 8000, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        audio.pack(tmp_path / "b.wav", PACKING)


def test_silence_is_no_sound():
    assert audio.pack(make_sound(0.0), PACKING) is None
    assert audio.pack(make_sound(9e-5), PACKING) is None
    assert audio.pack(make_sound(2e-4), PACKING) is not None
    assert audio.pack(flac(np.zeros(50)), PACKING) is None


@pytest.mark.parametrize(
    "media",
    [
        make_sound(0.0, count=0),
        make_sound(np.nan, count=9),
        b"RIFF?",
        b"fLaC?",
        GREY,
    ],
)
def test_sound_that_cannot_be_packed(media):
    with pytest.raises(ValueError, match=r"audio|sound|cut off"):
        audio.pack(media, PACKING)


class Interrupted(io.BytesIO):
    """A file during whose every access a person presses Ctrl-C."""

    def read(self, *arguments):
        signal.raise_signal(signal.SIGINT)
        return super().read(*arguments)

    def write(self, data):
        signal.raise_signal(signal.SIGINT)
        return super().write(data)

    def readinto(self, buffer):
        signal.raise_signal(signal.SIGINT)
        return super().readinto(buffer)


def test_ctrl_c_is_not_lost_in_the_library_of_sound(monkeypatch):
    """Its calls back into Python would swallow a KeyboardInterrupt, and write other bytes."""
    data = flac(np.sin(np.arange(800)))
    monkeypatch.setattr(audio.io, "BytesIO", Interrupted)
    # A process in the background of a shell ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for medium in (TONE, data):
            with pytest.raises(KeyboardInterrupt):
                audio.pack(medium, PACKING)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# Decoding. ----------------------------------------------------------------------------------------


def test_audio_is_resampled_padded_and_mixed_down():
    mono = flac(TONE.samples)
    stereo = flac(np.stack([TONE.samples, TONE.samples], 1))
    decoded_mono = audio.decode(mono, TONE_SPECTROGRAM)
    assert torch.equal(audio.decode(stereo, TONE_SPECTROGRAM), decoded_mono)
    doubled = flac(np.repeat(TONE.samples, 2), 16000)
    assert audio.decode(doubled, TONE_SPECTROGRAM).shape == (1, 8, 11)
    short = flac(TONE.samples[:300])
    assert audio.decode(short, TONE_SPECTROGRAM).shape == (1, 8, 11)


def test_samples_are_cut_or_followed_by_zeros():
    data = flac(TONE.samples)
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    short = WaveInput(sample_rate=8000, seconds=0.05)
    long = WaveInput(sample_rate=8000, seconds=0.2)
    cut = audio.decode(data, short)
    padded = audio.decode(data, long)
    np.testing.assert_array_equal(cut, samples[:400])
    zeros = np.zeros(800, np.float32)
    np.testing.assert_array_equal(padded, np.append(samples, zeros))
    assert cut.dtype == torch.float32
    assert torch.equal(audio.make_blank(long), torch.zeros(1600))
    twice_the_rate = WaveInput(sample_rate=16000, seconds=0.1)
    assert audio.decode(data, twice_the_rate).shape == (1600,)


@pytest.mark.parametrize("spec", [TONE_SPECTROGRAM, TONE_WAVE])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sound_that_is_no_number_is_not_decoded(spec, value):
    file = io.BytesIO()
    soundfile.write(file, spoil_tone(value), 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(ValueError, match="audio holds values that are not finite"):
        audio.decode(file.getvalue(), spec)


# Augmentation. ------------------------------------------------------------------------------------


def test_options_that_the_input_has_no_use_for():
    with pytest.raises(UserError, match="spectrogram is normalised"):
        audio.check(audio.Augment(gain=3.0), AUDIO_SPEC)
    with pytest.raises(UserError, match="no axis of frequencies"):
        audio.check(audio.Augment(freq_masks=1), WAVE_SPEC)


def test_sound_moves_round():
    samples = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    drawn = {"shift": np.array([0.25])}
    shifted = audio.augment(samples, WAVE_SPEC, audio.Augment(), drawn)
    assert shifted.tolist() == [[4, 1, 2, 3]]
    spectrogram = torch.stack([samples, samples + 4], 1)[None]  # (1, 1, 2, 4)
    shifted = audio.augment(spectrogram, AUDIO_SPEC, audio.Augment(), drawn)
    assert shifted[0, 0].tolist() == [[4, 1, 2, 3], [8, 5, 6, 7]]


@pytest.mark.parametrize("options", [{"shift": 0.5}, {"gain": 6.0}, {"noise": 0.3}])
def test_the_padding_of_samples_stays_padding(options):
    augmented = augment_batch(audio, SAMPLES, WAVE_SPEC, **options)
    assert not augmented[1, 150:].any()
    assert augmented[1, :150].all()
    assert not augmented[2].any()
    if "shift" in options:
        assert torch.equal(augmented.sort(1).values, SAMPLES.sort(1).values)


def test_gain_is_in_decibels_and_noise_in_proportion():
    drawn = audio.draw(audio.Augment(gain=6.0), MANY_NUMBERS, WAVE_SPEC)
    assert drawn["gain"].max() == pytest.approx(10 ** (6 / 20), abs=0.01)
    assert drawn["gain"].min() == pytest.approx(10 ** (-6 / 20), abs=0.01)
    half = {"gain": np.array([0.5])}
    quieter = audio.augment(torch.ones(1, 3), WAVE_SPEC, audio.Augment(), half)
    assert quieter.tolist() == [[0.5] * 3]

    tone = torch.full((6, 4000), 0.01)
    tone[:, 2000:] = 0  # the RMS is that of the half which isn't padding
    spec = WaveInput(sample_rate=4000, seconds=1.0)
    noise = augment_batch(audio, tone, spec, noise=0.1) - tone
    torch.testing.assert_close(noise[:, :2000].std(), torch.tensor(0.001), rtol=0.03, atol=0)
    noise = augment_batch(audio, SPECTROGRAMS, AUDIO_SPEC, noise=0.1) - SPECTROGRAMS
    torch.testing.assert_close(noise.std(), torch.tensor(0.1), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (AudioInput(sample_rate=8000, mels=40, window=256, hop=200), 256),
        (AudioInput(sample_rate=16000, mels=64, window=400), 512),
        (AudioInput(sample_rate=16000, mels=128, window=400), 1024),
    ],
)
def test_no_mel_filter_is_empty(spec, size):
    """torchaudio warns of an empty one, and a warning is an error here."""
    transform = audio._mel_transform(spec)
    assert transform.n_fft == size
    assert (transform.mel_scale.fb.sum(0) > 0).all()

"""Encoders of raw sound: padding, silence, loudness, and the published weights."""

from __future__ import annotations

import pytest
import torch
from toys.encoders import compute_same, save_state
from toys.models import tiny_wave

from umemma import encoders
from umemma.encoders import torchaudio
from umemma.types import WaveInput


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm"])
def test_zeros_at_the_end_of_a_wave_are_padding(kind):
    module = tiny_wave(kind)
    wave = torch.randn(1, 41)
    padded = torch.cat([torch.nn.functional.pad(wave, (0, 30)), torch.randn(1, 71)])
    torch.testing.assert_close(module(padded)[:1], module(wave), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module(padded)[1:], module(padded[1:]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(module(wave), module(wave.flip(1)))


def test_a_wave_of_zeros_or_a_very_short_one_has_a_feature_too():
    module = tiny_wave("wav2vec2")
    assert module.min_samples == 5
    short = torch.zeros(2, 71)
    short[1, 0] = 1.0
    assert module(short).isfinite().all()
    silence = torch.zeros(1, 71)
    torch.testing.assert_close(
        module(silence), module.model(silence)[0].mean(1)
    )  # all of its steps


def test_loudness_makes_no_difference_where_waves_are_normalised():
    wave = torch.randn(1, 71)
    module = tiny_wave("wav2vec2")
    torch.testing.assert_close(module(wave), module(3 * wave + 1), atol=1e-4, rtol=1e-4)


def test_the_plain_path_of_wavlm_is_torchaudio_s_own():
    module, wave = tiny_wave("wavlm", normalise=False), torch.randn(2, 71)
    torch.testing.assert_close(module(wave), module.model(wave)[0].mean(1))


def test_a_bundle_is_built_without_a_download():
    with torch.device("meta"):
        module, width = encoders.build("torchaudio:WAV2VEC2_ASR_BASE_960H", "audio", WaveInput())
    assert width == 768
    assert module.model.aux is None
    assert module.min_samples == 400
    assert not module.normalise


def test_bundles_load_with_and_without_their_wrapping():
    published, module = tiny_wave("wav2vec2"), tiny_wave("wav2vec2")
    plain = {key.removeprefix("model."): value for key, value in published.state_dict().items()}
    old = {  # as torch saved normalised weights when the bundles were published
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in plain.items()
    }
    assert old.keys() != plain.keys()
    letters = {"aux.weight": torch.ones(3, 8), "aux.bias": torch.ones(3)}
    for state in (
        plain,
        old,
        old | letters,
        {f"model.{key}": value for key, value in (old | letters).items()},
    ):
        module = tiny_wave("wav2vec2")
        assert not compute_same(module, published, 2, 50)
        encoders.load_weights(
            module, "torchaudio:WAV2VEC2_BASE", "audio", WaveInput(), save_state(state)
        )
        x = torch.randn(2, 50)
        torch.testing.assert_close(module(x), published(x))
    assert torchaudio.source("MMS_FA").url.startswith("https://dl.fbaipublicfiles.com/")

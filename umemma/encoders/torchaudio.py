"""`torchaudio:BUNDLE`: wav2vec 2.0, HuBERT and WavLM on raw sound, one feature as the mean over time.

References: Baevski et al., arXiv 2006.11477; Hsu et al., arXiv 2106.07447; Chen et al., arXiv 2110.13900.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from umemma.encoders.weights import Upstream, without
from umemma.types import InputSpec, WaveInput

if TYPE_CHECKING:
    from torchaudio.models import Wav2Vec2Model

MODALITIES = ("audio",)
PRETRAINED = True
URL = "https://download.pytorch.org/torchaudio/models/"


def names() -> tuple[str, ...]:
    from torchaudio import pipelines

    return tuple(
        name for name, one in vars(pipelines).items() if isinstance(one, pipelines.Wav2Vec2Bundle)
    )


def input_spec(variant: str, modality: str) -> InputSpec:
    return WaveInput(sample_rate=int(_bundle(variant).sample_rate))


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    """Without the layer that spells letters, and without leaving out layers by chance: a layer that gets no gradient stops
    training on several devices."""
    from torchaudio import models

    bundle = _bundle(variant)
    make = models.wavlm_model if bundle._model_type == "WavLM" else models.wav2vec2_model
    model = make(**(bundle._params | {"aux_num_out": None, "encoder_layer_drop": 0.0}))
    return WaveEncoder(model, bundle._normalize_waveform), width(variant)


def width(variant: str) -> int:
    return int(_bundle(variant)._params["encoder_embed_dim"])


def source(variant: str) -> Upstream:
    path = _bundle(variant)._path
    return Upstream(url=path if path.startswith("https:") else URL + path)


def convert(
    state: dict[str, Tensor], module: nn.Module, variant: str, spec: InputSpec
) -> dict[str, Tensor]:
    """Bundles with normalised waves hold the model as `model`; `aux` is the layer that spells letters."""
    plain = without(state, "model.")
    return {f"model.{key}": value for key, value in plain.items() if not key.startswith("aux.")}


def _bundle(variant: str) -> Any:
    from torchaudio import pipelines

    return getattr(pipelines, variant)


class WaveEncoder(nn.Module):
    """(B, T) samples in -1..1 -> (B, D). Exact zeros at the end are padding; a wave of zeros alone counts in full.

    normalise: bring each wave to mean 0 and std 1 first. (torchaudio does so over the whole batch, in which a sample's
    feature depends on its neighbours.) Where the extractor normalises groups, as in the *_BASE models, padding still counts
    in that one layer, as it did when they were trained.
    """

    def __init__(self, model: Wav2Vec2Model, normalise: bool) -> None:
        super().__init__()
        self.model = model
        self.normalise = normalise
        self.least = 1  # samples that one time step takes
        for layer in reversed(model.feature_extractor.conv_layers):
            self.least = (self.least - 1) * layer.stride + layer.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        time = torch.arange(x.shape[1], device=x.device)
        lengths = ((x != 0) * (time + 1)).amax(1)
        lengths = torch.where(lengths == 0, x.shape[1], lengths).clamp(
            min=min(self.least, x.shape[1])
        )
        if self.normalise:
            real = time < lengths[:, None]
            x = x - x.sum(1, keepdim=True) / lengths[:, None]
            variance = (x.square() * real).sum(1, keepdim=True) / lengths[:, None]
            x = x / (variance + 1e-5).sqrt() * real
        steps, counts = self._steps(x, lengths)
        real = torch.arange(steps.shape[1], device=x.device) < counts[:, None]
        return (steps * real[..., None]).sum(1) / counts[:, None]

    def _steps(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T', D) and how many of the T' are not padding, (B,)."""
        from torchaudio.models.wav2vec2.wavlm_attention import WavLMSelfAttention

        transformer = self.model.encoder.transformer
        if not isinstance(transformer.layers[0].attention, WavLMSelfAttention):
            return self.model(x, lengths)
        # WavLM's attention hides padding by a mask that Wav2Vec2Model doesn't hand to it.
        steps, counts = self.model.feature_extractor(x, lengths)
        hidden = torch.arange(steps.shape[1], device=x.device) >= counts[:, None]
        steps = self.model.encoder.feature_projection(steps).masked_fill(hidden[..., None], 0.0)
        steps = transformer._preprocess(steps)
        bias, mask = None, torch.zeros_like(steps[..., 0]).masked_fill(hidden, -torch.inf)
        for layer in transformer.layers:
            steps, bias = layer(steps, position_bias=bias, key_padding_mask=mask)
        return (steps if transformer.layer_norm_first else transformer.layer_norm(steps)), counts

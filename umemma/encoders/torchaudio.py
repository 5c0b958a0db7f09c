"""`torchaudio:BUNDLE`: wav2vec 2.0, HuBERT and WavLM on raw sound, with the mean over time.

References: Baevski et al., arXiv 2006.11477; Hsu et al., arXiv 2106.07447; Chen et al., arXiv
2110.13900.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from umemma.encoders.weights import Upstream, strip_prefix
from umemma.types import InputSpec, WaveInput

if TYPE_CHECKING:
    from torchaudio.models import Wav2Vec2Model

MODALITIES = ("audio",)
PRETRAINED = True
URL = "https://download.pytorch.org/torchaudio/models/"


def names() -> tuple[str, ...]:
    from torchaudio import pipelines

    bundle = pipelines.Wav2Vec2Bundle
    return tuple(name for name, value in vars(pipelines).items() if isinstance(value, bundle))


def input_spec(variant: str, modality: str) -> InputSpec:
    return WaveInput(sample_rate=int(_get_bundle(variant).sample_rate))


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    """Build the model without the layer that spells letters, and without dropping layers at random.

    A dropped layer gets no gradient, and that stops training on several devices.
    """
    from torchaudio import models

    bundle = _get_bundle(variant)
    make_model = models.wav2vec2_model
    if bundle._model_type == "WavLM":
        make_model = models.wavlm_model
    options = bundle._params | {"aux_num_out": None, "encoder_layer_drop": 0.0}
    return WaveEncoder(make_model(**options), bundle._normalize_waveform), width(variant)


def width(variant: str) -> int:
    return int(_get_bundle(variant)._params["encoder_embed_dim"])


def source(variant: str) -> Upstream:
    path = _get_bundle(variant)._path
    if path.startswith("https:"):
        return Upstream(url=path)
    return Upstream(url=URL + path)


def convert(
    state: dict[str, Tensor],
    module: nn.Module,
    variant: str,
    spec: InputSpec,
) -> dict[str, Tensor]:
    """Return the state as the module names it, without `aux`, the layer that spells letters.

    Bundles with normalised waves hold the model as `model`.
    """
    converted: dict[str, Tensor] = {}
    for key, value in strip_prefix(state, "model.").items():
        if not key.startswith("aux."):
            converted[f"model.{key}"] = value
    return converted


def _get_bundle(variant: str) -> Any:
    from torchaudio import pipelines

    return getattr(pipelines, variant)


class WaveEncoder(nn.Module):
    """(B, T) samples in -1..1 -> (B, D). Exact zeros at the end are padding.

    A wave of zeros alone counts in full. normalise: whether each wave is first brought to mean 0
    and std 1. (torchaudio does so over the whole batch, in which a sample's feature depends on its
    neighbours.) Where the extractor normalises groups, as in the *_BASE models, padding still
    counts in that one layer, as it did when they were trained.
    """

    def __init__(self, model: Wav2Vec2Model, normalise: bool) -> None:
        super().__init__()
        self.model = model
        self.normalise = normalise
        self.min_samples = 1  # that one time step takes
        for layer in reversed(model.feature_extractor.conv_layers):
            self.min_samples = (self.min_samples - 1) * layer.stride + layer.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        samples = x.shape[1]
        time = torch.arange(samples, device=x.device)
        lengths = ((x != 0) * (time + 1)).amax(1)
        lengths = torch.where(lengths == 0, samples, lengths)
        lengths = lengths.clamp(min=min(self.min_samples, samples))
        if self.normalise:
            x = self._normalise(x, lengths)
        steps, counts = self._encode_steps(x, lengths)
        is_step = torch.arange(steps.shape[1], device=x.device) < counts[:, None]
        return (steps * is_step[..., None]).sum(1) / counts[:, None]

    def _normalise(self, x: Tensor, lengths: Tensor) -> Tensor:
        is_sample = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        x = x - x.sum(1, keepdim=True) / lengths[:, None]
        variance = (x.square() * is_sample).sum(1, keepdim=True) / lengths[:, None]
        return x / (variance + 1e-5).sqrt() * is_sample

    def _encode_steps(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, T', D) features and (B,), how many of the T' are not padding."""
        from torchaudio.models.wav2vec2.wavlm_attention import WavLMSelfAttention

        transformer = self.model.encoder.transformer
        if not isinstance(transformer.layers[0].attention, WavLMSelfAttention):
            return self.model(x, lengths)
        # WavLM's attention hides padding by a mask that Wav2Vec2Model does not pass to it.
        steps, counts = self.model.feature_extractor(x, lengths)
        is_padding = torch.arange(steps.shape[1], device=x.device) >= counts[:, None]
        steps = self.model.encoder.feature_projection(steps)
        steps = steps.masked_fill(is_padding[..., None], 0.0)
        steps = transformer._preprocess(steps)
        padding_mask = torch.zeros_like(steps[..., 0]).masked_fill(is_padding, -torch.inf)
        position_bias = None
        for layer in transformer.layers:
            steps, position_bias = layer(
                steps,
                position_bias=position_bias,
                key_padding_mask=padding_mask,
            )
        if not transformer.layer_norm_first:
            steps = transformer.layer_norm(steps)
        return steps, counts

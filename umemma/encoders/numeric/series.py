"""Networks for series, (B, channels, steps), trained from scratch. Zeros at the end are padding.

`series:cnn`: four convolutions, each with a maximum over two steps; D = 128.
`series:tcn`: four residual blocks of dilated convolutions; D = 128.
`series:transformer`: patches of eight steps, two attention layers; D = 64.

Padding makes no difference: after each layer it is zero again, no statistic holds it, and the
features are means and maxima over the other steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from umemma.errors import UserError
from umemma.types import InputSpec, SeriesInput

CHANNELS = 64
KERNEL = 5
GROUPS = 8
CNN_LAYERS = 4
DILATIONS = (1, 2, 4, 8)
PATCH = 8  # steps
HEADS = 4
LAYERS = 2
DROPOUT = 0.1

MODALITIES = ("series",)
PRETRAINED = False


def names() -> tuple[str, ...]:
    return "cnn", "tcn", "transformer"


def input_spec(variant: str, modality: str) -> InputSpec:
    return SeriesInput()


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    assert isinstance(spec, SeriesInput)
    if not spec.channels or not spec.steps:
        what = "the samples don't say how many channels and steps a series has"
        raise UserError(what, f"series:{variant}", "Run: umemma preprocess")
    if variant == "cnn":
        return SeriesCNN(spec.channels), width(variant)
    if variant == "tcn":
        return SeriesTCN(spec.channels), width(variant)
    return SeriesTransformer(spec.channels, spec.steps), width(variant)


def width(variant: str) -> int:
    return {"cnn": 2 * CHANNELS, "tcn": 2 * CHANNELS, "transformer": CHANNELS}[variant]


def find_steps(x: Tensor) -> Tensor:
    """Return (B, 1, T) float32: 1 for the steps of each series, 0 for the padding behind it."""
    index = torch.arange(x.shape[2], device=x.device)
    is_used = (x != 0).any(1)
    length = (is_used * (index + 1)).amax(1, keepdim=True)
    return (index < length)[:, None].float()


class StepNorm(nn.Module):
    """Group norm over the steps of each series, without its padding."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(CHANNELS, 1))
        self.bias = nn.Parameter(torch.zeros(CHANNELS, 1))

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        grouped = x.unflatten(1, (GROUPS, CHANNELS // GROUPS))
        weights = steps[:, None]
        count = weights.sum((2, 3), keepdim=True).clamp(min=1) * (CHANNELS // GROUPS)
        mean = (grouped * weights).sum((2, 3), keepdim=True) / count
        distances = (grouped - mean) * weights
        variance = distances.square().sum((2, 3), keepdim=True) / count
        normed = (distances * (variance + 1e-5).rsqrt()).flatten(1, 2)
        return (normed * self.weight + self.bias) * steps


def pool_steps(x: Tensor, steps: Tensor) -> Tensor:
    """Return (B, 2 * C): mean and maximum over the steps of (B, C, T) that are at least 0."""
    mean = (x * steps).sum(2) / steps.sum(2).clamp(min=1)
    return torch.cat([mean, (x * steps).amax(2)], 1)


class SeriesCNN(nn.Module):
    """(B, channels, T) -> (B, 128), for any T of at least 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        for _ in range(CNN_LAYERS):
            self.convolutions.append(nn.Conv1d(channels, CHANNELS, KERNEL, padding="same"))
            self.norms.append(StepNorm())
            channels = CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        steps = find_steps(x)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x), steps).relu()
            x = functional.max_pool1d(x, 2, ceil_mode=True)
            steps = functional.max_pool1d(steps, 2, ceil_mode=True)
        return pool_steps(x, steps)


class SeriesTCN(nn.Module):
    """(B, channels, T) -> (B, 128), for any T of at least 1. Its receptive field is 121 steps.

    As in Bai, Kolter & Koltun, An Empirical Evaluation of Generic Convolutional and Recurrent
    Networks for Sequence Modeling, 2018, arXiv 1803.01271, but its convolutions look ahead too.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, CHANNELS, 1)
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        for dilation in DILATIONS:
            for _ in range(2):
                self.convolutions.append(
                    nn.Conv1d(CHANNELS, CHANNELS, KERNEL, padding="same", dilation=dilation)
                )
                self.norms.append(StepNorm())

    def forward(self, x: Tensor) -> Tensor:
        steps = find_steps(x)
        x = self.first(x) * steps
        for i in range(0, len(self.convolutions), 2):
            hidden = self.norms[i](self.convolutions[i](x), steps).relu()
            hidden = self.norms[i + 1](self.convolutions[i + 1](hidden), steps)
            x = (x + hidden).relu()
        return pool_steps(x, steps)


class SeriesTransformer(nn.Module):
    """(B, channels, T), T up to `steps` -> (B, 64), the mean over the patches; 0 without any.

    Patches as in Nie et al., A Time Series is Worth 64 Words, ICLR 2023, arXiv 2211.14730, of all
    channels together; layers as in Vaswani et al., Attention Is All You Need, 2017, arXiv
    1706.03762.
    """

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.embedding = nn.Conv1d(channels, CHANNELS, PATCH, stride=PATCH)
        patches = math.ceil(steps / PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(patches, CHANNELS))
        layer = nn.TransformerEncoderLayer(
            CHANNELS,
            HEADS,
            4 * CHANNELS,
            DROPOUT,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(CHANNELS)
        self.layers = nn.TransformerEncoder(layer, LAYERS, norm, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (0, -x.shape[2] % PATCH))
        is_patch = functional.max_pool1d(find_steps(x), PATCH)[:, 0] > 0
        # Padding alone attends to its padding, as softmax needs at least one position.
        hidden = ~is_patch & is_patch.any(1, keepdim=True)
        embedded = self.embedding(x).transpose(1, 2)
        embedded = embedded + self.positions[: embedded.shape[1]]
        x = self.layers(embedded, src_key_padding_mask=hidden)
        return (x * is_patch[..., None]).sum(1) / is_patch.sum(1, keepdim=True).clamp(min=1)

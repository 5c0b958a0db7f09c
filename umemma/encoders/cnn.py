"""`cnn:small`: a plain convolutional network for images and for log-mel spectrograms, trained from scratch."""

from __future__ import annotations

from torch import Tensor, nn

from umemma.contracts import AudioInput, ImageInput, InputSpec

WIDTHS = (16, 32, 64)


def variants(modality: str) -> tuple[str, ...]:
    return ("small",) if modality in ("audio", "image") else ()


def input_spec(variant: str, modality: str) -> InputSpec:
    return ImageInput() if modality == "image" else AudioInput()


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    return SmallCNN(spec.channels if isinstance(spec, ImageInput) else 1), WIDTHS[-1]


class SmallCNN(nn.Module):
    """(B, channels, H, W) -> (B, 64), for any H and W of at least 8.

    Group norm rather than batch norm: a sample's feature must not depend on which modalities its neighbours lack.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in WIDTHS:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
            channels = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))

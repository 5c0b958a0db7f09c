"""`cnn:small`: a plain convolutional network for images, video frames and spectrograms, trained from scratch."""

from __future__ import annotations

from torch import Tensor, nn

from umemma.contracts import AudioInput, ImageInput, InputSpec, VideoInput

WIDTHS = (16, 32, 64)


SPECS: dict[str, InputSpec] = {
    "audio": AudioInput(),
    "image": ImageInput(),
    "spectrogram": ImageInput(size=112, channels=1),
    "video": VideoInput(),
}


def variants(modality: str) -> tuple[str, ...]:
    return ("small",) if modality in SPECS else ()


def input_spec(variant: str, modality: str) -> InputSpec:
    return SPECS[modality]


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    small = SmallCNN(spec.channels if isinstance(spec, (ImageInput, VideoInput)) else 1)
    return OverFrames(small) if isinstance(spec, VideoInput) else small, WIDTHS[-1]


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


class OverFrames(nn.Module):
    """(B, T, channels, H, W) -> (B, D): an image encoder on every frame, averaged over time."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)

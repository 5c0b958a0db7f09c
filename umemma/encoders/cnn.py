"""Plain convolutional networks for images, video frames and spectrograms, trained from scratch.

`cnn:small`: three convolutions, D = 64, for any size of at least 8 by 8.
`cnn:lenet`: LeNet-5, D = 84, for any size of at least 16 by 16.
"""

from __future__ import annotations

from torch import Tensor, nn

from umemma.errors import UserError
from umemma.types import AudioInput, ImageInput, InputSpec

WIDTHS = (16, 32, 64)
LENET_WIDTH = 84
MIN_SIDES = {"lenet": 16, "small": 8}

SPECS: dict[str, InputSpec] = {
    "audio": AudioInput(),
    "image": ImageInput(),
    "spectrogram": ImageInput(size=112, channels=1),
    "video": ImageInput(size=112),
}
MODALITIES = tuple(SPECS)
PRETRAINED = False


def names() -> tuple[str, ...]:
    return "lenet", "small"


def input_spec(variant: str, modality: str) -> InputSpec:
    return SPECS[modality]


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    channels, height, side = input_shape(spec)
    least = MIN_SIDES[variant]
    if min(height, side) < least:
        what = f"cnn:{variant} needs {least} by {least} at least, not {height} by {side}"
        raise UserError(what, "encoders", usage=True)
    if variant == "small":
        return SmallCNN(channels), WIDTHS[-1]
    return LeNet(channels, height, side), LENET_WIDTH


def width(variant: str) -> int:
    return {"small": WIDTHS[-1], "lenet": LENET_WIDTH}[variant]


def input_shape(spec: InputSpec) -> tuple[int, int, int]:
    """Return (channels, H, W) of a picture or a spectrogram."""
    if isinstance(spec, AudioInput):
        samples = round(spec.seconds * spec.sample_rate)
        return 1, spec.mels, samples // spec.hop + 1
    assert isinstance(spec, ImageInput)
    return spec.channels, spec.size, spec.size


class SmallCNN(nn.Module):
    """(B, channels, H, W) -> (B, 64), for any H and W of at least 8.

    Group norm rather than batch norm: a sample's feature must not depend on which modalities its
    neighbours lack.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in WIDTHS:
            layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            layers.append(nn.GroupNorm(8, width))
            layers.append(nn.ReLU())
            layers.append(nn.MaxPool2d(2))
            channels = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


class LeNet(nn.Module):
    """(B, channels, H, W) -> (B, 84), the features of the layer before the classes.

    ReLU and maxima take the place of tanh and averages. As in LeCun, Bottou, Bengio & Haffner,
    Gradient-based learning applied to document recognition, Proc. IEEE 86, 1998.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        pixels = _convolved_side(height) * _convolved_side(width)
        self.linear = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * pixels, 120),
            nn.ReLU(),
            nn.Linear(120, LENET_WIDTH),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convolutions(x))


def _convolved_side(side: int) -> int:
    """Return the height or width that both convolutions and poolings leave of a picture's."""
    for _ in range(2):
        side = (side - 4) // 2
    return side

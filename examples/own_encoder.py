"""An encoder of your own: a function without arguments, in a file in the current folder.

In the folder of own_table/, after `umemma preprocess`:

    cp $UMEMMA/examples/own_encoder.py .
    umemma encoders import:own_encoder:make_encoder
    umemma pretrain-unimodal --modality image --set encoders.image=import:own_encoder:make_encoder
    umemma finetune-ensemble --set encoders.image=import:own_encoder:make_encoder

In params.yaml it is `encoders: {image: "import:own_encoder:make_encoder"}`. docs/encoders.md says
more.
"""

from __future__ import annotations

from torch import Tensor, nn

from umemma.types import ImageInput

WIDTH = 32  # D, the width of the features


class PatchMixer(nn.Module):
    """(B, 3, 32, 32) -> (B, D): 8 x 8 patches, which exchange what they see, then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, kernel_size=8, stride=8)
        self.mix = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.embed(pictures).flatten(2)  # (B, D, 16)
        return (patches + self.mix(patches)).mean(2)


def make_encoder() -> tuple[nn.Module, int, ImageInput]:
    """Return the module, the width of its features, and the input that it needs."""
    return PatchMixer(), WIDTH, ImageInput(size=32)

"""Video by an image encoder: every frame by itself, then over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umemma.types import ImageInput

SAME = 1e-3  # normalised units; one step of 255 is several times that


class OverFrames(nn.Module):
    """(B, T, channels, H, W) -> (B, D): an image encoder on every frame, then their average (`mean`) or an average
    weighted by a learned score of each frame (`attention`, which starts as the mean).

    Black frames at the end of a clip are padding and don't count; where all frames are black, all of them count.
    """

    black: Tensor

    def __init__(self, encoder: nn.Module, width: int, picture: ImageInput, pool: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.score = nn.Linear(width, 1, bias=False) if pool == "attention" else None
        if self.score:
            nn.init.zeros_(self.score.weight)
        mean, std = torch.tensor(picture.mean), torch.tensor(picture.std)
        self.register_buffer("black", (-mean / std).reshape(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        there = self._there(x)
        features = self.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if self.score:
            scores = self.score(features)[..., 0].masked_fill(~there, -torch.inf)
            return (features * scores.softmax(1)[..., None]).sum(1)
        return (features * there[..., None]).sum(1) / there.sum(1, keepdim=True)

    def _there(self, x: Tensor) -> Tensor:
        """(B, T): the frames up to the last one that isn't black."""
        seen = ((x - self.black).abs() > SAME).flatten(2).any(2)
        there = seen.flip(1).cumsum(1).flip(1) > 0
        return there | ~there.any(1, keepdim=True)

"""Video by an image encoder: each frame is encoded by itself, then the features are pooled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umemma.types import ImageInput

SAME = 1e-3  # in normalised units; one step of 255 is several times larger


class OverFrames(nn.Module):
    """(B, T, channels, H, W) -> (B, D): an image encoder on every frame, then pooling over time.

    pool: `mean`, the average of the frames' features, or `attention`, their average weighted by a
    learned score of each frame, which starts as the mean.

    Black frames at the end of a clip are padding and do not count. Where all frames are black, all
    of them count.
    """

    black: Tensor

    def __init__(self, encoder: nn.Module, width: int, picture: ImageInput, pool: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.score: nn.Linear | None = None
        if pool == "attention":
            self.score = nn.Linear(width, 1, bias=False)
            nn.init.zeros_(self.score.weight)
        mean = torch.tensor(picture.mean)
        std = torch.tensor(picture.std)
        self.register_buffer("black", (-mean / std).reshape(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        is_frame = self._find_frames(x)
        features = self.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if self.score:
            scores = self.score(features)[..., 0].masked_fill(~is_frame, -torch.inf)
            return (features * scores.softmax(1)[..., None]).sum(1)
        return (features * is_frame[..., None]).sum(1) / is_frame.sum(1, keepdim=True)

    def _find_frames(self, x: Tensor) -> Tensor:
        """(B, T) bool: the frames up to the last one that is not black; all where none is."""
        not_black = ((x - self.black).abs() > SAME).flatten(2).any(2)
        is_frame = not_black.flip(1).cumsum(1).flip(1) > 0
        return is_frame | ~is_frame.any(1, keepdim=True)

"""Networks for vectors and for rows of tables.

`mlp:small`: two hidden layers, D = 64.
`mlp:linear`: no layer at all. The features are the standardised numbers (of a row, the numbers and
the embeddings of its names), so that with its head the model is a linear classifier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umemma.errors import UserError
from umemma.types import InputSpec, TableInput, VectorInput

HIDDEN = 128
WIDTH = 64
MAX_EMBEDDING = 16

SPECS: dict[str, InputSpec] = {"table": TableInput(), "vector": VectorInput()}
MODALITIES = tuple(SPECS)
PRETRAINED = False


def names() -> tuple[str, ...]:
    return "linear", "small"


def input_spec(variant: str, modality: str) -> InputSpec:
    return SPECS[modality]


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    assert isinstance(spec, (TableInput, VectorInput))
    features: nn.Module = nn.Identity()
    if isinstance(spec, TableInput):
        table = TableFeatures(spec)
        features = table
        numbers = table.width
    else:
        numbers = spec.width
    if not numbers:
        what = "the samples don't say how many numbers an input has"
        raise UserError(what, f"mlp:{variant}", "Run: umemma preprocess")
    if variant == "linear":
        return features, numbers
    layers = (nn.Linear(numbers, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH), nn.ReLU())
    return nn.Sequential(features, *layers), WIDTH


def width(variant: str) -> int:
    return {"linear": 0, "small": WIDTH}[variant]


class TableFeatures(nn.Module):
    """(B, 2 * N + K) -> (B, width): the numbers, and an embedding of each name.

    The embeddings of an empty cell and of an unseen name start at 0. As in Guo & Berkhahn, Entity
    Embeddings of Categorical Variables, 2016, arXiv 1604.06737.
    """

    def __init__(self, spec: TableInput) -> None:
        super().__init__()
        self.numbers = 2 * len(spec.numbers)
        self.embeddings = nn.ModuleList()
        self.width = self.numbers
        for column in spec.categories:
            count = 2 + len(column.values)
            # A rule of thumb of fastai, within a smaller bound.
            width = min(MAX_EMBEDDING, round(1.6 * count**0.56))
            embedding = nn.Embedding(count, width)
            with torch.no_grad():
                embedding.weight.mul_(0.1)
                embedding.weight[:2] = 0
            self.embeddings.append(embedding)
            self.width += width

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, : self.numbers]]
        for i, embedding in enumerate(self.embeddings):
            parts.append(embedding(x[:, self.numbers + i].long()))
        return torch.cat(parts, 1)

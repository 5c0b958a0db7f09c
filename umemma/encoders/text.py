"""`text:cnn`: word-piece embeddings, one convolution and a maximum over time, trained from scratch.

As in Kim, Convolutional Neural Networks for Sentence Classification, EMNLP 2014, arXiv 1408.5882.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umemma.contracts import InputSpec, TextInput

VOCABULARY = 49408  # of CLIP's byte-pair tokenizer
WIDTH = 64
KERNELS = (3, 5, 7)  # tokens


def variants(modality: str) -> tuple[str, ...]:
    return ("cnn",) if modality == "text" else ()


def input_spec(variant: str, modality: str) -> InputSpec:
    return TextInput()


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    return TextCNN(), WIDTH * len(KERNELS)


class TextCNN(nn.Module):
    """(B, T) token numbers -> (B, 192), for any T of at least 1; what stands in the padding makes no difference."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, kernel, padding="same") for kernel in KERNELS)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens).transpose(1, 2)
        nothing = (tokens == 0)[:, None]
        found = [convolution(embedded).masked_fill(nothing, -torch.inf).amax(2) for convolution in self.convolutions]
        return torch.cat(found, 1).nan_to_num(neginf=0.0).relu()

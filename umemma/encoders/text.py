"""Text encoders over the byte pairs of CLIP, trained from scratch.

`text:cnn`: one convolution and a maximum over time, D = 192. `text:transformer`: two attention layers, D = 128.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umemma.errors import UserError
from umemma.types import InputSpec, TextInput

VOCABULARY = 49408  # of CLIP's byte-pair tokenizer
WIDTH = 64
KERNELS = (3, 5, 7)  # tokens
TRANSFORMER = 128

MODALITIES = ("text",)
PRETRAINED = False


def names() -> tuple[str, ...]:
    return "cnn", "transformer"


def input_spec(variant: str, modality: str) -> InputSpec:
    return TextInput()


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    assert isinstance(spec, TextInput)
    if spec.tokenizer != "clip" or spec.padding:
        hint = "For another tokenizer take an hf: or open_clip: encoder."
        raise UserError(
            f"text:{variant} reads CLIP's tokens, padded with 0",
            "encoders.text.input",
            hint,
            usage=True,
        )
    return TextCNN() if variant == "cnn" else TextTransformer(spec.length), width(variant)


def width(variant: str) -> int:
    return WIDTH * len(KERNELS) if variant == "cnn" else TRANSFORMER


class TextCNN(nn.Module):
    """(B, T) token numbers -> (B, 192), for any T of at least 1; what stands in the padding makes no difference.

    As in Kim, Convolutional Neural Networks for Sentence Classification, EMNLP 2014, arXiv 1408.5882.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(WIDTH, WIDTH, kernel, padding="same") for kernel in KERNELS
        )

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens).transpose(1, 2)
        nothing = (tokens == 0)[:, None]
        found = [
            convolution(embedded).masked_fill(nothing, -torch.inf).amax(2)
            for convolution in self.convolutions
        ]
        return torch.cat(found, 1).nan_to_num(neginf=0.0).relu()


class TextTransformer(nn.Module):
    """(B, T) token numbers, T up to `length` -> (B, 128), the mean over the tokens; of nothing but padding it is 0.

    Two pre-norm layers of 4 heads, as in Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, TRANSFORMER, padding_idx=0)
        self.positions = nn.Parameter(0.02 * torch.randn(length, TRANSFORMER))
        layer = nn.TransformerEncoderLayer(
            TRANSFORMER, 4, 4 * TRANSFORMER, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, 2, nn.LayerNorm(TRANSFORMER), enable_nested_tensor=False
        )

    def forward(self, tokens: Tensor) -> Tensor:
        real = tokens != 0
        hidden = ~real & real.any(
            1, keepdim=True
        )  # a row of padding alone attends to it, as softmax needs something
        x = self.layers(
            self.embedding(tokens) + self.positions[: tokens.shape[1]], src_key_padding_mask=hidden
        )
        return (x * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)

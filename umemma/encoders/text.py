"""Text encoders over the byte pairs of CLIP, trained from scratch.

`text:cnn`: one convolution and a maximum over time, D = 192.
`text:transformer`: two attention layers, D = 128.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umemma.errors import UserError
from umemma.types import InputSpec, TextInput

VOCABULARY = 49408  # of CLIP's byte-pair tokenizer
CNN_WIDTH = 64  # of each kernel
KERNELS = (3, 5, 7)  # tokens
TRANSFORMER_WIDTH = 128
HEADS = 4
LAYERS = 2

MODALITIES = ("text",)
PRETRAINED = False


def names() -> tuple[str, ...]:
    return "cnn", "transformer"


def input_spec(variant: str, modality: str) -> InputSpec:
    return TextInput()


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    assert isinstance(spec, TextInput)
    if spec.tokenizer != "clip" or spec.padding:
        what = f"text:{variant} reads CLIP's tokens, padded with 0"
        hint = "For another tokenizer use an hf: or open_clip: encoder."
        raise UserError(what, "encoders.text.input", hint, usage=True)
    if variant == "cnn":
        return TextCNN(), width(variant)
    return TextTransformer(spec.length), width(variant)


def width(variant: str) -> int:
    return {"cnn": CNN_WIDTH * len(KERNELS), "transformer": TRANSFORMER_WIDTH}[variant]


class TextCNN(nn.Module):
    """(B, T) token numbers -> (B, 192), for any T of at least 1. Padding makes no difference.

    As in Kim, Convolutional Neural Networks for Sentence Classification, EMNLP 2014, arXiv
    1408.5882.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, CNN_WIDTH, padding_idx=0)
        self.convolutions = nn.ModuleList()
        for kernel in KERNELS:
            self.convolutions.append(nn.Conv1d(CNN_WIDTH, CNN_WIDTH, kernel, padding="same"))

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens).transpose(1, 2)
        is_padding = (tokens == 0)[:, None]
        maxima: list[Tensor] = []
        for convolution in self.convolutions:
            over_time = convolution(embedded).masked_fill(is_padding, -torch.inf)
            maxima.append(over_time.amax(2))
        return torch.cat(maxima, 1).nan_to_num(neginf=0.0).relu()


class TextTransformer(nn.Module):
    """(B, T) token numbers, T up to `length` -> (B, 128), the mean over the tokens.

    Of padding alone it is 0. Two pre-norm layers of 4 heads, as in Vaswani et al., Attention Is All
    You Need, 2017, arXiv 1706.03762.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, TRANSFORMER_WIDTH, padding_idx=0)
        self.positions = nn.Parameter(0.02 * torch.randn(length, TRANSFORMER_WIDTH))
        layer = nn.TransformerEncoderLayer(
            TRANSFORMER_WIDTH,
            HEADS,
            4 * TRANSFORMER_WIDTH,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer,
            LAYERS,
            nn.LayerNorm(TRANSFORMER_WIDTH),
            enable_nested_tensor=False,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        is_token = tokens != 0
        # A row of padding alone attends to its padding, as softmax needs at least one position.
        hidden = ~is_token & is_token.any(1, keepdim=True)
        embedded = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        x = self.layers(embedded, src_key_padding_mask=hidden)
        return (x * is_token[..., None]).sum(1) / is_token.sum(1, keepdim=True).clamp(min=1)

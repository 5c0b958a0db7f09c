"""Published weights whose names differ from those of the encoder.

A convolutional network of another library is often the same network under other names: then order
and shapes of its tensors say which is which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from loguru import logger
from torch import Tensor, nn

# What libraries call the classifier, the first component of its names.
CLASSIFIERS = ("_fc", "classifier", "fc", "head", "heads")
MAX_KEYS_SHOWN = 6  # of each kind in a message
COUNTER = ".num_batches_tracked"  # of batch norm, which works without it
# The beginning of a name, and the encoders that it is likely from.
LIBRARIES = (
    (
        "_blocks.",
        "the EfficientNet of lukemelas: take its .pth file with timm:tf_efficientnet_lite0, "
        "timm:tf_efficientnet_b0 or the like",
    ),
    ("features.", "torchvision: name torchvision:MODEL, such as torchvision:mobilenet_v2"),
    ("visual.", "open_clip: name open_clip:MODEL@PRETRAINED"),
    ("embeddings.", "transformers: name hf:FOLDER, a folder with config.json and a tokenizer"),
    ("bert.", "transformers: name hf:FOLDER, a folder with config.json and a tokenizer"),
    ("feature_extractor.", "torchaudio: name torchaudio:BUNDLE"),
    ("layer1.", "a ResNet: name timm:resnet50, torchvision:resnet50 or the like"),
    ("conv_stem.", "timm: name timm:MODEL, such as timm:efficientnet_lite0"),
    ("patch_embed.", "timm: name timm:MODEL, such as timm:vit_small_patch16_224"),
)


def remove_classifier(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return the state without the tensors of a classifier that the module lacks."""
    expected = module.state_dict()
    remaining: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key in expected or key.partition(".")[0] not in CLASSIFIERS:
            remaining[key] = tensor
    return remaining


def remove_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.endswith(COUNTER)}


def rename_by_order(state: dict[str, Tensor], module: nn.Module, where: str) -> dict[str, Tensor]:
    """Return the state in the module's names if both are the same network by order and shapes.

    Every tensor of the one, without the classifier, has to correspond to one of the other: the same
    place, shape and last component of the name, and the same neighbours in its layer. No name may
    be that of another place. Otherwise the state returns as it is. The first convolution may have
    another number of input channels.

    Where the module has linear layers nothing is renamed: the query, key and value of an attention
    have the same shape, and libraries order them differently.
    """
    expected = remove_counters(module.state_dict())
    published = remove_counters(remove_classifier(state, module))
    if expected.keys() <= published.keys() or len(expected) != len(published):
        return state
    if any(tensor.ndim == 2 for tensor in expected.values()):
        return state
    layers: dict[str, str] = {}
    renamed: dict[str, Tensor] = {}
    for key, name in zip(expected, published, strict=True):
        layer, _, kind = key.rpartition(".")
        published_layer, _, published_kind = name.rpartition(".")
        same_layer = layers.setdefault(layer, published_layer) == published_layer
        if name in expected and name != key:  # the name is that of another place
            return state
        tensor = published[name]
        shape = tensor.shape
        if not renamed and tensor.ndim == 4:
            shape = shape[:1] + expected[key].shape[1:2] + shape[2:]
        if kind != published_kind or shape != expected[key].shape or not same_layer:
            return state
        renamed[key] = tensor
    if len(set(layers.values())) != len(layers):
        return state
    logger.info(
        "{}: other names, but the same order and shapes as the encoder: {} tensors are loaded by "
        "them, {} as {} and so on",
        where,
        len(renamed),
        next(iter(published)),
        next(iter(renamed)),
    )
    return renamed


def describe_library(keys: Iterable[str]) -> str:
    """Return a sentence that says which library such names are from; "" where none is known."""
    names = sorted(keys)
    for prefix, description in LIBRARIES:
        for name in names:
            if name.startswith(prefix):
                return f"Names like {name} are those of {description}. "
    return ""


def shorten_keys(keys: list[str]) -> str:
    text = ", ".join(keys[:MAX_KEYS_SHOWN])
    if len(keys) > MAX_KEYS_SHOWN:
        text += f" and {len(keys) - MAX_KEYS_SHOWN:,} more"
    return text

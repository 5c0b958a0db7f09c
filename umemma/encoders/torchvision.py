"""`torchvision:NAME`: the image models of torchvision, for pictures and video frames.

googlenet and inception (several outputs), squeezenet (no linear classifier) and regnet (whose width
is not known without building it) are left out: timm has models like them.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from umemma.encoders.cnn import input_shape
from umemma.encoders.published_names import remove_classifier
from umemma.encoders.weights import Upstream
from umemma.errors import UserError
from umemma.types import ImageInput, InputSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

MODALITIES = ("image", "video")
PRETRAINED = True
LEFT_OUT = ("googlenet", "inception", "regnet", "squeezenet")
POSITIONS = "encoder.pos_embedding"
CHANNELS = 3  # that every model takes


@functools.cache
def names() -> tuple[str, ...]:
    from torchvision import models

    every_name = models.list_models(module=models)
    return tuple(name for name in every_name if not name.startswith(LEFT_OUT))


def input_spec(variant: str, modality: str) -> InputSpec:
    """Return the input that the weights were trained with."""
    preset = _get_weights(variant).transforms()
    return ImageInput(
        size=_find_size(variant),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        crop=True,
    )


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    """Build the model without the last linear layer of its classifier.

    UserError where it can't be built for the size or the channels of the spec.
    """
    where = f"torchvision:{variant}"
    channels, height, side = input_shape(spec)
    if channels != CHANNELS:
        hint = f"Set `input: {{channels: {CHANNELS}}}`, or take the model of timm."
        raise UserError(f"it takes {CHANNELS} channels, not {channels}", where, hint, usage=True)
    _check_size(variant, height, side)
    return _make_model(variant, side)


def width(variant: str) -> int:
    import torch

    with torch.device("meta"):
        _, width = _make_model(variant, _find_size(variant))
    return width


def source(variant: str) -> Upstream:
    return Upstream(url=_get_weights(variant).url)


def convert(
    state: dict[str, Tensor],
    module: nn.Module,
    variant: str,
    spec: InputSpec,
) -> dict[str, Tensor]:
    """Remove the classifier, and fit the position embeddings of a vision transformer."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    state = remove_classifier(state, module)
    if POSITIONS in state and isinstance(spec, ImageInput):
        # What it refuses is of another model: loading lists what differs.
        with contextlib.suppress(ValueError):
            state = interpolate_embeddings(spec.size, module.patch_size, state)
    return state


def _make_model(variant: str, side: int) -> tuple[nn.Module, int]:
    from torch import nn
    from torchvision import models

    options: dict[str, int] = {}
    if variant.startswith("vit_"):
        options["image_size"] = side
    model: nn.Module = models.get_model(variant, weights=None, **options)
    linear_layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)
    }
    name, classifier = list(linear_layers.items())[-1]
    model.set_submodule(name, nn.Identity())
    return model, classifier.in_features


def _check_size(variant: str, height: int, side: int) -> None:
    """Try another size than that of the weights, on the meta device, which costs nothing.

    Patches or windows may not divide it, and pooling may leave nothing of a small picture.
    """
    import torch

    if side == _find_size(variant):
        return
    try:
        with torch.device("meta"):
            model, _ = _make_model(variant, side)
            model.eval()(torch.zeros(1, CHANNELS, height, side))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        what = f"it can't be built for an input of {height} by {side}: {reason}"
        hint = "Leave `input.size` out, or take the model of timm."
        raise UserError(what, f"torchvision:{variant}", hint, usage=True) from None


def _find_size(variant: str) -> int:
    (size,) = _get_weights(variant).transforms().crop_size
    return int(size)


def _get_weights(variant: str) -> Any:
    """Return the weights that torchvision recommends."""
    from torchvision import models

    return models.get_model_weights(variant).DEFAULT

"""`timm:NAME[.TAG]`: the image models of timm, for pictures, video frames and spectrograms.

A spectrogram has one channel. A model of a fixed input size (a ViT, say) is built for the size of
the InputSpec, whatever size it was trained at.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any

from umemma.encoders.cnn import input_shape
from umemma.encoders.weights import Upstream
from umemma.errors import UserError
from umemma.system.http import NotServed
from umemma.types import AudioInput, ImageInput, InputSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

MODALITIES = ("audio", "image", "spectrogram", "video")
PRETRAINED = True
FILES = ("model.safetensors", "pytorch_model.bin")


@functools.cache
def names() -> tuple[str, ...]:
    import timm

    every_name = (*timm.list_models(), *timm.list_models(pretrained=True))
    # The models named *_enc give a feature per patch, not one per picture.
    return tuple(name for name in every_name if not name.partition(".")[0].endswith("_enc"))


def input_spec(variant: str, modality: str) -> InputSpec:
    """Return the input that the weights were trained with.

    A spectrogram is not cropped, and its one channel has the means of mean and std.
    """
    config = _pretrained_config(variant)
    if modality == "audio":
        if config.fixed_input_size:
            # 320 time steps rather than 301, which patches and windows divide.
            return AudioInput(seconds=3.19)
        return AudioInput()
    size = min(config.input_size[1:])
    if modality == "spectrogram":
        mean = _average(config.mean)
        std = _average(config.std)
        return ImageInput(size=size, channels=1, mean=mean, std=std)
    crop = config.crop_mode != "squash"
    return ImageInput(size=size, mean=config.mean, std=config.std, crop=crop)


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    """Build the model. UserError where it can't be built for the size of the spec."""
    import timm
    import torch

    config = _pretrained_config(variant)
    channels, height, side = input_shape(spec)
    options: dict[str, Any] = {}
    if config.fixed_input_size:
        options["img_size"] = (height, side)

    def make_model() -> Any:
        return timm.create_model(variant, num_classes=0, in_chans=channels, **options)

    try:
        if config.fixed_input_size and (height, side) != tuple(config.input_size[1:]):
            # Patches or windows may not divide the size. A try on the meta device costs nothing.
            with torch.device("meta"):
                make_model().eval()(torch.zeros(1, channels, height, side))
        model = make_model()
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or "its parts don't fit together"
        what = f"it can't be built for an input of {height} by {side}: {reason}"
        hint = "Change `input` (multiples of 32 often work), or use another model."
        raise UserError(what, f"timm:{variant}", hint, usage=True) from None
    return model, getattr(model, "head_hidden_size", None) or model.num_features


def width(variant: str) -> int:
    import torch

    with torch.device("meta"):
        _, width = build(variant, input_spec(variant, "image"))
    return width


def source(variant: str) -> Upstream:
    config = _pretrained_config(variant)
    if config.custom_load:
        raise NotServed("they are published in a format of another library")
    if config.hf_hub_id:
        if config.hf_hub_filename:
            return Upstream(config.hf_hub_id, (config.hf_hub_filename,))
        return Upstream(config.hf_hub_id, FILES)
    if config.url:
        return Upstream(url=config.url)
    raise NotServed("none are published")


def convert(
    state: dict[str, Tensor],
    module: nn.Module,
    variant: str,
    spec: InputSpec,
) -> dict[str, Tensor]:
    """Convert as timm.models._builder.load_pretrained does, but without the classifier.

    1. The model's own filter converts old names and the sizes of position embeddings.
    2. The classifier is removed.
    3. The first convolution is adapted to another number of channels.
    """
    config = _pretrained_config(variant)
    state = _filter_state(state, module)
    state = _remove_classifier(state, module, config)
    return _adapt_first_convolution(state, module, config, input_shape(spec)[0])


def _filter_state(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    filter_function = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if not filter_function:
        return state
    parameters = inspect.signature(filter_function).parameters
    arguments = (state, module)[: len(parameters)]
    # What it makes of weights of another model does not matter: loading lists what differs.
    with contextlib.suppress(
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        state = filter_function(*arguments)
    return state


def _remove_classifier(
    state: dict[str, Tensor],
    module: nn.Module,
    config: Any,
) -> dict[str, Tensor]:
    expected = module.state_dict()
    for name in _as_tuple(config.classifier):
        # The classifier "head.linear" has a norm beside it in the head, which goes with it.
        head = f"{name.partition('.')[0]}."
        state = {
            key: value
            for key, value in state.items()
            if key in expected or not key.startswith(head)
        }
    return state


def _adapt_first_convolution(
    state: dict[str, Tensor],
    module: nn.Module,
    config: Any,
    channels: int,
) -> dict[str, Tensor]:
    from timm.models._manipulate import adapt_input_conv

    expected = module.state_dict()
    for name in _as_tuple(config.first_conv):
        key = f"{name}.weight"
        if key not in state or key not in expected or state[key].ndim != 4:
            continue
        if state[key].shape[1] != expected[key].shape[1]:
            state[key] = adapt_input_conv(channels, state[key], config.input_size[0])
    return state


def _pretrained_config(variant: str) -> Any:
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(variant)


def _as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if isinstance(names, str):
        return (names,)
    return names or ()


def _average(numbers: tuple[float, ...]) -> float:
    return sum(numbers) / len(numbers)

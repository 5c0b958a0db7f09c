"""`timm:NAME[.TAG]`: the image models of timm, for pictures, video frames and spectrograms (with one channel).

A model of a fixed input size (ViT ...) is built for the size that the InputSpec asks for, whatever it was trained at.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any

from umemma.encoders.cnn import shape
from umemma.encoders.weights import Upstream
from umemma.errors import UserError
from umemma.system.http import NotServed
from umemma.types import AudioInput, ImageInput, InputSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

MODALITIES = ("audio", "image", "spectrogram", "video")
PRETRAINED = True


@functools.cache
def names() -> tuple[str, ...]:
    import timm

    both = (*timm.list_models(), *timm.list_models(pretrained=True))
    return tuple(
        one for one in both if not one.partition(".")[0].endswith("_enc")
    )  # those give a feature per patch


def input_spec(variant: str, modality: str) -> InputSpec:
    """As the weights were trained. A spectrogram isn't cropped, and has the means of mean and std for its channel."""
    known = _pretrained_cfg(variant)
    if (
        modality == "audio"
    ):  # 320 steps rather than 301 where patches and windows have to divide them
        return AudioInput(seconds=3.19) if known.fixed_input_size else AudioInput()
    size = min(known.input_size[1:])
    if modality == "spectrogram":
        return ImageInput(size=size, channels=1, mean=_mean(known.mean), std=_mean(known.std))
    return ImageInput(size=size, mean=known.mean, std=known.std, crop=known.crop_mode != "squash")


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    """UserError where the model can't be had for the size that the spec asks for."""
    import timm
    import torch

    known, (channels, *size) = _pretrained_cfg(variant), shape(spec)
    options: dict[str, Any] = {"img_size": tuple(size)} if known.fixed_input_size else {}

    def make() -> Any:
        return timm.create_model(variant, num_classes=0, in_chans=channels, **options)

    try:
        if options and tuple(size) != tuple(
            known.input_size[1:]
        ):  # patches or windows may not divide it: try it, for free
            with torch.device("meta"):
                make().eval()(torch.zeros(1, channels, *size))
        model = make()
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or "its parts don't fit together"
        hint = "Change `input` (multiples of 32 often work), or take another model."
        raise UserError(
            f"no input of {size[0]} by {size[1]} for it: {reason}",
            f"timm:{variant}",
            hint,
            usage=True,
        ) from None
    return model, getattr(model, "head_hidden_size", None) or model.num_features


def width(variant: str) -> int:
    import torch

    with torch.device("meta"):
        return build(variant, input_spec(variant, "image"))[1]


def source(variant: str) -> Upstream:
    known = _pretrained_cfg(variant)
    if known.custom_load:
        raise NotServed("they are published in a format of another library")
    if known.hf_hub_id:
        files = (
            (known.hf_hub_filename,)
            if known.hf_hub_filename
            else ("model.safetensors", "pytorch_model.bin")
        )
        return Upstream(known.hf_hub_id, files)
    if known.url:
        return Upstream(url=known.url)
    raise NotServed("none are published")


def convert(
    state: dict[str, Tensor], module: nn.Module, variant: str, spec: InputSpec
) -> dict[str, Tensor]:
    """As timm.models._builder.load_pretrained does, with the classifier gone: the model's own filter (old names, sizes of
    position embeddings), then the first convolution for another number of channels."""
    from timm.models._manipulate import adapt_input_conv

    known, own = _pretrained_cfg(variant), module.state_dict()
    filter_ = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if filter_:
        arguments = (state, module)[: len(inspect.signature(filter_).parameters)]
        # What it makes of weights of something else doesn't matter: what differs is said when they are loaded.
        with contextlib.suppress(
            AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError
        ):
            state = filter_(*arguments)
    for name in _several(
        known.classifier
    ):  # "head.linear": with the norm that stands in the head beside it
        head = f"{name.partition('.')[0]}."
        state = {
            key: value for key, value in state.items() if key in own or not key.startswith(head)
        }
    for name in _several(known.first_conv):
        key, channels = f"{name}.weight", shape(spec)[0]
        if (
            key in state
            and key in own
            and state[key].ndim == 4
            and state[key].shape[1] != own[key].shape[1]
        ):
            state[key] = adapt_input_conv(channels, state[key], known.input_size[0])
    return state


def _pretrained_cfg(variant: str) -> Any:
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(variant)


def _several(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names or ()


def _mean(numbers: tuple[float, ...]) -> float:
    return sum(numbers) / len(numbers)

"""`import:package.module:function`: an encoder that the user wrote.

The function takes no arguments and returns (module, width, InputSpec); module: (B, ...) -> (B, D),
D being the width. It is called for each question about the encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from loguru import logger
from torch import Tensor, nn

from umemma.encoders.published_names import remove_counters, shorten_keys
from umemma.errors import UserError, unknown_name
from umemma.system.imports import current_folder_first, import_user_module
from umemma.types import (
    OWN,
    AudioInput,
    ImageInput,
    InputSpec,
    Plain,
    SeriesInput,
    TableInput,
    TextInput,
    VectorInput,
    VideoInput,
    WaveInput,
)

INPUTS: dict[str, tuple[type, ...]] = {
    "audio": (AudioInput, WaveInput),
    "image": (ImageInput,),
    "series": (SeriesInput,),
    "spectrogram": (ImageInput,),
    "table": (TableInput,),
    "text": (TextInput,),
    "vector": (VectorInput,),
    "video": (VideoInput, ImageInput),  # an ImageInput: frame by frame
}
MODALITIES = tuple(INPUTS)
PRETRAINED = False


def names() -> None:
    return None


def input_spec(variant: str, modality: str) -> InputSpec:
    _, _, spec = _call_function(variant)
    if modality.startswith(OWN):
        fits = type(spec).__module__ == modality.removeprefix(OWN)
        expected = f"the Input of {modality.removeprefix(OWN)}"
    else:
        fits = isinstance(spec, INPUTS[modality])
        expected = " or ".join(kind.__name__ for kind in INPUTS[modality])
    if not fits:
        what = f"its input is {type(spec).__name__}; for {modality} it has to be {expected}"
        hint = "Return another InputSpec, or name this encoder for another modality."
        raise UserError(what, f"import:{variant}", hint, usage=True)
    return spec


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    module, width, _ = _call_function(variant)
    return module, width


def width(variant: str) -> int:
    _, width, _ = _call_function(variant)
    return width


def convert(
    state: dict[str, Tensor],
    module: nn.Module,
    variant: str,
    spec: InputSpec,
) -> dict[str, Tensor]:
    """Leave out what the module lacks, such as a classifier, and warn with its names.

    Where the state does not hold all of the module, it returns as it is: the error of loading lists
    what differs.
    """
    expected = module.state_dict()
    extra_keys = [key for key in state if key not in expected]
    is_complete = remove_counters(expected).keys() <= state.keys()
    if not extra_keys or not is_complete:
        return state
    logger.warning(
        "import:{}: its weights hold what the encoder lacks, which is left out: {}",
        variant,
        shorten_keys(extra_keys),
    )
    return {key: tensor for key, tensor in state.items() if key in expected}


def _call_function(variant: str) -> tuple[nn.Module, int, InputSpec]:
    """Import the function of the user and call it. UserError for what it must not return."""
    where = f"import:{variant}"
    path, _, name = variant.partition(":")
    if not path or not name.isidentifier():
        hint = "Write it as import:package.module:function."
        raise UserError("not a function", where, hint, usage=True)
    with current_folder_first():
        function = _find_function(import_user_module(path, where), name, where)
        result = function()
    match result:
        case (nn.Module() as module, int(width), Plain() as spec):
            if width > 0:
                return module, width, spec  # type: ignore[return-value]
    what = f"the function returned {result!r:.80}"
    hint = "It has to return (module, width, InputSpec); see docs/encoders.md."
    raise UserError(what, where, hint, usage=True)


def _find_function(module: ModuleType, name: str, where: str) -> Callable[[], Any]:
    function = getattr(module, name, None)
    if callable(function):
        return function
    public_names = [other for other in vars(module) if not other.startswith("_")]
    raise unknown_name("function", name, public_names, where)

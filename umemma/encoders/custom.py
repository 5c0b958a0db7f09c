"""`import:package.module:function`: an encoder that the user wrote.

The function takes no arguments and returns (module, width, InputSpec); module: (B, ...) -> (B, D),
D being the width. It is called for each question about the encoder.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from loguru import logger
from torch import Tensor, nn

from umemma.encoders.published_names import remove_counters, shorten_keys
from umemma.errors import UserError, unknown_name
from umemma.types import (
    AudioInput,
    ImageInput,
    InputSpec,
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
    if not isinstance(spec, INPUTS[modality]):
        expected = " or ".join(kind.__name__ for kind in INPUTS[modality])
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
    with _current_folder_first():
        function = _find_function(_import_module(path, where), name, where)
        result = function()
    match result:
        case (nn.Module() as module, int(width), spec):
            if width > 0 and isinstance(spec, InputSpec):
                return module, width, spec
    what = f"the function returned {result!r:.80}"
    hint = "It has to return (module, width, InputSpec); see docs/encoders.md."
    raise UserError(what, where, hint, usage=True)


def _import_module(path: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        is_named_module = error.name is not None and f"{path}.".startswith(f"{error.name}.")
        if not is_named_module:  # it is a module that the user's module imports
            raise
        hint = "The current directory and the installed packages are searched."
        raise UserError(f"no module {error.name!r}", where, hint, usage=True) from None


def _find_function(module: ModuleType, name: str, where: str) -> Callable[[], Any]:
    function = getattr(module, name, None)
    if callable(function):
        return function
    public_names = [other for other in vars(module) if not other.startswith("_")]
    raise unknown_name("function", name, public_names, where)


@contextlib.contextmanager
def _current_folder_first() -> Iterator[None]:
    """Search the current directory first when modules are imported inside the block."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)

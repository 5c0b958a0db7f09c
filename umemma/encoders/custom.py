"""`import:package.module:function`: an encoder of the user's own.

The function takes no arguments and returns (module, width, InputSpec); module: (B, ...) -> (B, width).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator

from torch import nn

from umemma.errors import UserError, unknown
from umemma.types import AudioInput, ImageInput, InputSpec, TextInput, VideoInput, WaveInput

INPUTS: dict[str, tuple[type, ...]] = {
    "audio": (AudioInput, WaveInput),
    "image": (ImageInput,),
    "spectrogram": (ImageInput,),
    "text": (TextInput,),
    "video": (VideoInput, ImageInput),  # an ImageInput: frame by frame
}
MODALITIES = tuple(INPUTS)
PRETRAINED = False


def names() -> None:
    return None


def input_spec(variant: str, modality: str) -> InputSpec:
    spec = _made(variant)[2]
    if not isinstance(spec, INPUTS[modality]):
        wanted = " or ".join(one.__name__ for one in INPUTS[modality])
        raise UserError(
            f"it wants a {type(spec).__name__}, and {modality} gives a {wanted}",
            f"import:{variant}",
            usage=True,
        )
    return spec


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    return _made(variant)[:2]


def _made(variant: str) -> tuple[nn.Module, int, InputSpec]:
    where, (path, _, name) = f"import:{variant}", variant.partition(":")
    if not path or not name.isidentifier():
        raise UserError(
            "not a function", where, "Write it as import:package.module:function.", usage=True
        )
    with _current_folder():
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                raise  # a module that theirs imports
            hint = "It is looked for in the current directory and among the installed packages."
            raise UserError(f"no module {error.name!r}", where, hint, usage=True) from None
        function = getattr(module, name, None)
        if not callable(function):
            raise unknown(
                "function", name, [one for one in vars(module) if not one.startswith("_")], where
            )
        made = function()
    match made:
        case (nn.Module() as module_, int(width), spec) if width > 0 and isinstance(
            spec, InputSpec
        ):
            return module_, width, spec
    raise UserError(
        f"it returned {made!r:.80}",
        where,
        "It has to return (module, width, InputSpec); see docs/encoders.md.",
        usage=True,
    )


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """The current directory is where modules are looked for first."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)

"""Import a module that the user wrote, by its name: an encoder or a modality of their own."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from umemma.errors import UserError


def import_user_module(path: str, where: str) -> ModuleType:
    """Import `path`, such as "mypackage.lidar", from the current folder or what is installed.

    The processes that this one starts find it too. Raises UserError where there is no such module;
    an error inside the module is the user's own and passes.
    """
    with current_folder_first():
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            is_named_module = error.name is not None and f"{path}.".startswith(f"{error.name}.")
            if not is_named_module:  # it is a module that the user's module imports
                raise
            hint = "The current directory and the installed packages are searched."
            raise UserError(f"no module {error.name!r}", where, hint, usage=True) from None
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)  # which multiprocessing hands on
    return module


@contextlib.contextmanager
def current_folder_first() -> Iterator[None]:
    """Search the current directory first when modules are imported inside the block."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)

"""The data sets. Each is a module with

    SPEC: DatasetSpec
    Options                                      its own settings (`preprocess.options` in params.yaml)
    download(folder: Path) -> None               put the raw files into an empty folder
    records(folder: Path, options) -> Iterator[Record]

It decodes no media and never imports torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from umemma.errors import unknown

NAMES = {"digits": "umemma.datasets.digits"}


def check(name: str) -> None:
    """UserError for an unknown name. Imports nothing."""
    if name not in NAMES:
        raise unknown("dataset", name, NAMES, "dataset")


def get(name: str) -> ModuleType:
    """The module of a data set. UserError for an unknown name."""
    check(name)
    return importlib.import_module(NAMES[name])

"""The data sets. Each is a module with

    SPEC: DatasetSpec             what is known before any file is read
    Options                       its own settings (`preprocess.options` in params.yaml)
    sources(folder, options)      -> Iterator[Source]: the raw files; a later one may depend on
                                  files of earlier ones
    spec(folder, options)         -> DatasetSpec: SPEC, completed from the raw files and the options
    records(folder, options)      -> Iterator[Record]: the samples, in an order that mixes the
                                  classes

`folder` is the raw folder, data/raw/<name>/. A module decodes no media and never imports torch;
listing is cheap and may be done twice. What is wrong with one medium is found by packing, or an
Unreadable stands in its place; what is wrong with one sample is that Record's `problem`; what is
wrong with the whole is a UserError.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from umemma.errors import unknown_name
from umemma.validation import validate

NAMES = {
    "avmnist": "umemma.datasets.avmnist",
    "avmnist-smil": "umemma.datasets.avmnist_smil",
    "avmnist-multibench": "umemma.datasets.avmnist_multibench",
    "kinetics-sounds": "umemma.datasets.kinetics_sounds",
    "ave": "umemma.datasets.ave",
    "mmimdb": "umemma.datasets.mmimdb",
    "food101": "umemma.datasets.food101",
    "digits": "umemma.datasets.digits",
    "manifest": "umemma.datasets.manifest",
}


def read_options(
    module: ModuleType,
    options: Mapping[str, Any],
    modalities: Mapping[str, str],
) -> Any:
    """The `preprocess.options` of a data set, checked. UserError for what it doesn't know.

    modalities: {name: kind} of the settings, for a data set whose columns have names of the user's.
    """
    kinds = options.get("kinds", {})
    if "kinds" in module.Options.model_fields and isinstance(kinds, Mapping):
        options = {**options, "kinds": {**kinds, **modalities}}
    checked = validate(module.Options, options, "settings", "preprocess.options")
    return checked


def check(name: str) -> None:
    """UserError for an unknown name. Imports nothing."""
    if name not in NAMES:
        raise unknown_name("dataset", name, NAMES, "dataset")


def get_module(name: str) -> ModuleType:
    """The module of a data set. UserError for an unknown name."""
    check(name)
    return importlib.import_module(NAMES[name])

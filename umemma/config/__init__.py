"""The schema of params.yaml: one frozen, validated class per section.

Each section belongs to one stage. An unknown key is refused with the nearest known one.

    loading    reads params.yaml and applies --set
    params     the whole file, and the settings that each stage's output depends on
    training   the sections `pretrain` and `finetune`; the named methods are in umemma/presets.py
    sections   all other sections
    paths      where the files of a dataset are
    schema     a JSON Schema of all of it, for editors
"""

from umemma.config.loading import default_params, load_params, read_yaml, write_params
from umemma.config.params import Params
from umemma.config.paths import Paths
from umemma.config.sections import (
    Compare,
    Encoder,
    Evaluate,
    Lora,
    Machine,
    MissingRatios,
    Preprocess,
)
from umemma.config.training import CLASS_WEIGHTS, Finetune, Pretrain, Training
from umemma.presets import PRESETS

__all__ = [
    "CLASS_WEIGHTS",
    "PRESETS",
    "Compare",
    "Encoder",
    "Evaluate",
    "Finetune",
    "Lora",
    "Machine",
    "MissingRatios",
    "Params",
    "Paths",
    "Preprocess",
    "Pretrain",
    "Training",
    "default_params",
    "load_params",
    "read_yaml",
    "write_params",
]

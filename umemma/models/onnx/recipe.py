"""export.json: what a program that runs the ONNX files has to know, without umemma."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from umemma import modalities
from umemma.missing import list_patterns
from umemma.models.predictor import Predictor
from umemma.types import InputSpec, Packing, TextInput, format_pattern

FUSION = "fusion.onnx"
DESCRIPTION = "export.json"
# How thresholds make answers of probabilities, by task.
ANSWERS = {
    "multilabel": "each class whose probability is above its threshold for what is present",
    "multiclass": "the class whose probability, divided by its threshold for what is present, is "
    "the largest",
}
ABSENT_NOTE = "where present is false the features may be anything of the right shape, NaN too"


UNITS_NOTE = "mean and standard deviation of a normal distribution, in the units of the targets"


def name_outputs(task: str) -> list[str]:
    """Return the names of what the fusion gives."""
    if task == "regression":
        return ["mean", "deviation"]
    return ["logits", "probabilities"]


def name_encoder_file(modality: str) -> str:
    return f"encoder-{modality}.onnx"


def describe_export(
    model: Predictor,
    inputs: Mapping[str, Tensor],
    folder: Path,
) -> dict[str, Any]:
    """Return the content of export.json, and write the tokenizers that it names into `folder`.

    inputs: {modality: (B, ...)}, an example of what each encoder takes.
    """
    encoders: dict[str, Any] = {}
    for m, x in inputs.items():
        input_type = str(x.dtype).removeprefix("torch.")
        encoders[m] = {
            "file": name_encoder_file(m),
            "input": {"name": "input", "shape": ["batch", *x.shape[1:]], "type": input_type},
            "output": {"name": "features", "shape": ["batch", model.model.dims[m]]},
            "made_as": _describe_input(m, model.specs[m], model.info.media, folder),
        }
    fusion = {
        "file": FUSION,
        "inputs": [*(f"features_{m}" for m in model.modalities), "present"],
        "present": {"shape": ["batch", len(encoders)], "type": "bool", "columns": model.modalities},
        "absent": ABSENT_NOTE,
        "outputs": name_outputs(model.task),
    }
    if model.task == "regression":
        fusion["units"] = UNITS_NOTE
    description = {
        "classes": model.classes,
        "task": model.task,
        "media": model.info.media.model_dump(mode="json"),
        "encoders": encoders,
        "fusion": fusion,
    }
    thresholds = _list_thresholds(model)
    if thresholds:
        description["answer"] = {"rule": ANSWERS[model.task], "thresholds": thresholds}
    return description


def _list_thresholds(model: Predictor) -> dict[str, list[float]]:
    """Return {subset: its thresholds}, {} for a model without."""
    thresholds = {}
    for pattern in list_patterns(model.modalities):
        found = model.info.thresholds.get(format_pattern(pattern))
        if found:
            thresholds[format_pattern(pattern)] = list(found)
    return thresholds


def _describe_input(
    name: str,
    spec: InputSpec,
    packing: Packing,
    folder: Path,
) -> dict[str, Any]:
    """Return how media become the input of an encoder.

    The files of a text's tokenizer are written into `folder`.
    """
    modality = modalities.find_module(spec)
    recipe: dict[str, Any] = {"kind": type(spec).__name__, **spec.model_dump(mode="json")}
    if hasattr(modality, "make_recipe"):
        recipe |= modality.make_recipe(spec, packing)
    if isinstance(spec, TextInput):
        tokenizer_folder = f"tokenizer-{name}"
        if modality.write_tokenizer(spec, folder / tokenizer_folder):
            recipe["tokenizer_files"] = tokenizer_folder
    return recipe

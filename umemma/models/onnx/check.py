"""Do the ONNX files give what PyTorch gives? Checked on made-up media, for every subset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from umemma import modalities
from umemma.errors import UserError
from umemma.evaluation.calibration import probabilities
from umemma.missing import Pattern, list_patterns
from umemma.models.onnx.recipe import FUSION, name_encoder_file
from umemma.models.predictor import Predictor
from umemma.types import (
    OWN,
    Cell,
    InputSpec,
    Media,
    Packing,
    Series,
    SeriesInput,
    Sound,
    TableInput,
    VectorInput,
    format_pattern,
)

MAX_DIFFERENCE = 1e-4  # between ONNX and PyTorch, relative to the largest number
SAMPLES = 3
WORDS = ["a", "toad", "sings", "by", "the", "pond"]


def compare_with_pytorch(model: Predictor, inputs: Mapping[str, Tensor], folder: Path) -> str:
    """Return how many subsets agree, and the largest difference, as text.

    The difference is that of logits or probabilities, relative to the largest of them. UserError
    where one is over MAX_DIFFERENCE.
    """
    features = _run_encoders(inputs, folder)
    patterns = list_patterns(model.modalities)
    largest = 0.0
    for pattern in patterns:
        difference = _compare_pattern(model, inputs, features, pattern, folder)
        if not difference <= MAX_DIFFERENCE:  # true for NaN
            subset = format_pattern(pattern)
            what = f"ONNX differs from PyTorch by {difference:.1e} where {subset} is present"
            hint = "Nothing was written. An encoder computes what ONNX cannot express."
            raise UserError(what, "umemma export", hint)
        largest = max(largest, difference)
    count = len(patterns)
    verb = "subset agrees" if count == 1 else "subsets agree"
    return f"checked against PyTorch: {count} of {count} {verb} (largest difference {largest:.1e})"


def _run_encoders(inputs: Mapping[str, Tensor], folder: Path) -> dict[str, np.ndarray]:
    """Return {"features_MODALITY": (SAMPLES, D_m)}."""
    features: dict[str, np.ndarray] = {}
    for m, x in inputs.items():
        path = folder / name_encoder_file(m)
        features[f"features_{m}"] = _run_in_batches(path, {"input": x.numpy()})[0]
    return features


def _run_in_batches(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of a file, computed in two batches of different sizes."""
    first = _run_onnx(path, {name: x[:1] for name, x in inputs.items()})
    rest = _run_onnx(path, {name: x[1:] for name, x in inputs.items()})
    return [np.concatenate(parts) for parts in zip(first, rest, strict=True)]


def _compare_pattern(
    model: Predictor,
    inputs: Mapping[str, Tensor],
    features: Mapping[str, np.ndarray],
    pattern: Pattern,
    folder: Path,
) -> float:
    """Return the larger of the relative differences of logits and probabilities.

    In regression of means and standard deviations.
    The features of absent modalities are NaN.
    """
    row = [m in pattern for m in model.modalities]
    present = np.array([row]).repeat(SAMPLES, 0)
    fusion_inputs = dict(features)
    for m in inputs:
        if m not in pattern:
            name = f"features_{m}"
            fusion_inputs[name] = np.full_like(features[name], np.nan)
    fusion_inputs["present"] = present
    results = _run_in_batches(folder / FUSION, fusion_inputs)
    logits = model.logits(inputs, torch.from_numpy(present))
    expected = [logits]
    if model.task == "regression":
        expected = [*model.restore_units(logits)]
    else:
        expected.append(probabilities(logits, model.task))
    differences = []
    for ours, theirs in zip(expected, results, strict=True):
        differences.append(_relative_difference(ours, theirs))
    return float(np.max(differences))  # NaN where one is NaN


def _relative_difference(expected: np.ndarray, actual: np.ndarray) -> float:
    return float(np.abs(expected - actual).max() / np.abs(expected).max())


def _run_onnx(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, dict(inputs))
    return outputs


# Made-up media. -------------------------------------------------------------------------------


def make_example_inputs(model: Predictor) -> dict[str, Tensor]:
    """Return {modality: (SAMPLES, ...)} as the encoders take them."""
    packing = model.info.media
    return {m: _make_example_input(spec, packing) for m, spec in model.specs.items()}


def _make_example_input(spec: InputSpec, packing: Packing) -> Tensor:
    """Pack, decode and finish made-up media, as all media are."""
    kind = modalities.find_kind(spec)
    modality = modalities.get_module(kind)
    compact: list[Tensor] = []
    for seed in range(SAMPLES):
        generator = np.random.default_rng(seed)
        if kind.startswith(OWN):
            media = _make_own_example(modality, kind, generator)
        else:
            media = _make_media(kind, spec, generator)
        (data,) = modalities.pack({kind: media}, packing).values()
        compact.append(modality.decode(data, spec))
    finished: Tensor = modality.finish(torch.stack(compact), spec)
    return finished


def _make_own_example(
    modality: ModuleType,
    kind: str,
    generator: np.random.Generator,
) -> Media:
    if not hasattr(modality, "make_example"):
        what = "it has no make_example, and nothing to check the export with"
        raise UserError(what, kind, "Add it: docs/own-modality.md.")
    media: Media = modality.make_example(generator)
    return media


def _make_media(kind: str, spec: InputSpec, generator: np.random.Generator) -> Media:
    if isinstance(spec, VectorInput):
        return _scale(generator.standard_normal(spec.width), spec)
    if isinstance(spec, SeriesInput):
        length = int(generator.integers(1, spec.steps + 1))
        return Series(_scale(generator.standard_normal((length, spec.channels)), spec), spec.rate)
    if isinstance(spec, TableInput):
        return _make_row(spec, generator)
    if kind == "text":
        length = int(generator.integers(3, 30))
        return " ".join(generator.choice(WORDS, length))
    if kind == "audio":
        samples = generator.uniform(-0.5, 0.5, 24000).astype(np.float32)
        return Sound(samples, 16000)
    pixels = generator.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    if kind == "video":
        from umemma.modalities.image import to_jpeg

        return [to_jpeg(frame, 90) for frame in pixels]
    return pixels[0]


def _scale(numbers: np.ndarray, spec: VectorInput | SeriesInput) -> np.ndarray:
    """Return standard normal numbers with the mean and standard deviation of the training."""
    return numbers * np.array(spec.std) + np.array(spec.mean)


def _make_row(spec: TableInput, generator: np.random.Generator) -> dict[str, Cell]:
    """Return a row of numbers and names, one of the cells empty unless it is the only one."""
    row: dict[str, Cell] = {}
    for number in spec.numbers:
        row[number.name] = float(generator.normal(number.mean, number.std))
    for column in spec.categories:
        row[column.name] = str(generator.choice([*column.values, "a name that nobody has"]))
    if len(row) > 1:
        row[str(generator.choice(list(row)))] = None
    return row

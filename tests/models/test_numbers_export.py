"""Encoders of numbers as ONNX, and their inputs made without umemma, by numpy and scipy alone."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.signal
from toys.models import save_model

from umemma import modalities
from umemma.models.predict_inputs import decode_sample
from umemma.stages import export
from umemma.types import InputSpec, Packing, Series, SeriesInput, TableInput, VectorInput

SERIES = {"channels": 2, "steps": 20, "mean": [1.0, -1.0], "std": [2.0, 0.5], "rate": 50.0}
VECTOR = {"width": 3, "mean": [1.0, 2.0, 3.0], "std": [1.0, 2.0, 0.1]}
TABLE = {
    "numbers": [{"name": "age", "mean": 50.0, "std": 10.0}],
    "categories": [{"name": "ward", "values": ["north", "7"]}],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "spec"),
    [
        ("series:cnn", "series", SERIES),
        ("series:transformer", "series", SERIES | {"fit": "stretch"}),
        ("mlp:linear", "vector", VECTOR),
        ("mlp:linear", "table", TABLE),
    ],
)
def test_an_encoder_of_numbers_is_exported(tmp_path, name, kind, spec):
    encoder = {"name": name, "kind": kind, "input": spec}
    save_model(tmp_path / "model", "x", x=encoder)
    assert "1 of 1 subset agrees" in export.run(tmp_path / "model", tmp_path / "onnx")


def see(media: Any, spec: InputSpec) -> np.ndarray:
    """Return what umemma gives to the encoder."""
    inputs, *_ = decode_sample({"x": media}, Packing(), {"x": spec})
    finished: np.ndarray = modalities.find_module(spec).finish(inputs["x"][None], spec)[0].numpy()
    return finished


def describe(spec: InputSpec) -> dict[str, Any]:
    """Return `made_as` of export.json."""
    module = modalities.find_module(spec)
    made = {**spec.model_dump(mode="json"), **module.make_recipe(spec, Packing())}
    assert len(made["steps"]) > 3
    return made


def test_a_vector_can_be_made_without_umemma():
    spec = VectorInput(**VECTOR)
    made = describe(spec)
    numbers = np.array([3.0, np.nan, 99.0], np.float32)
    x = np.clip((numbers - made["mean"]) / made["std"], -made["clip"], made["clip"])
    np.testing.assert_allclose(see(numbers, spec), np.where(np.isnan(x), 0, x))


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_series_can_be_made_without_umemma(fit):
    spec = SeriesInput(**SERIES, fit=fit)
    made = describe(spec)
    for length, rate in ((9, 50.0), (30, 50.0), (60, 75.0)):
        samples = np.random.default_rng(length).normal(size=(length, 2)).astype(np.float32)
        samples[3:5, 0] = np.nan
        filled = samples.copy()
        for channel in filled.T:
            known = ~np.isnan(channel)
            places = np.arange(length)
            channel[:] = np.interp(places, places[known], channel[known])
        if rate != made["rate"]:
            ratio = Fraction(made["rate"] / rate).limit_denominator(1000)
            filled = scipy.signal.resample_poly(
                filled, ratio.numerator, ratio.denominator, padtype="line"
            )
        steps = made["steps_of_window"]
        if fit == "stretch":
            places = np.linspace(0, len(filled) - 1, steps)
            filled = np.stack([np.interp(places, np.arange(len(filled)), c) for c in filled.T], 1)
        start = max(0, (len(filled) - steps) // 2)
        filled = filled[start : start + steps]
        x = np.clip((filled - made["mean"]) / made["std"], -made["clip"], made["clip"])
        x = np.pad(x, ((0, steps - len(x)), (0, 0))).T
        np.testing.assert_allclose(see(Series(samples, rate), spec), x, atol=1e-5)


def test_a_row_can_be_made_without_umemma():
    spec = TableInput(**TABLE)
    made = describe(spec)
    (age,) = made["numbers"]
    (ward,) = made["categories"]
    for cells in ({"age": 41, "ward": 7.0}, {"age": None, "ward": "south"}, {"age": 3.0}):
        number = cells["age"]
        name = cells.get("ward")
        if isinstance(name, float):
            name = f"{name:g}"
        x = [0.0, 1.0] if number is None else [(number - age["mean"]) / age["std"], 0.0]
        code = 0
        if name is not None:
            code = 2 + ward["values"].index(name) if name in ward["values"] else 1
        np.testing.assert_allclose(see(cells, spec), [*x, code], rtol=1e-6)

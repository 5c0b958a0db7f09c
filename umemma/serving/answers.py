"""What a server answers, as JSON: a prediction, and what the model is.

Nothing in it is of the server: no path, no setting.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from umemma._version import __version__
from umemma.errors import UserError
from umemma.modalities import text
from umemma.models.answers import AnyPrediction
from umemma.models.explanation import Explanation, make_prior
from umemma.models.predictor import Predictor
from umemma.serving.limits import Limits
from umemma.system.files import replace_nan
from umemma.types import InputSpec, SeriesInput, TableInput, VectorInput


def describe_prediction(result: AnyPrediction | Explanation) -> dict[str, Any]:
    """Return a prediction with `warnings`, and for an explanation what adds up to it."""
    explanation: dict[str, Any] | None = None
    prediction = result
    if isinstance(result, Explanation):
        prediction = result.prediction
        explanation = asdict(result)
        del explanation["prediction"]
    answer = asdict(prediction)
    broken = answer.pop("broken")
    answer["warnings"] = [f"{reason}; predicted without it" for reason in broken]
    if explanation is not None:
        answer["explanation"] = explanation
    return dict(replace_nan(answer))


def describe_model(model: Predictor, limits: Limits) -> dict[str, Any]:
    """Return the modalities with their kinds, the classes or targets, the task and the scores."""
    inputs = {}
    for m in model.modalities:
        inputs[m] = {"kind": model.kinds[m], **_describe_input(model.specs[m])}
    about = {
        "umemma": __version__,
        "task": model.task,
        "modalities": inputs,
        "classes": model.classes,
        "scores": model.info.scores,
        "explains": can_explain(model),
        "limits": {"max_bytes": limits.max_bytes, "max_text_bytes": text.MAX_BYTES},
    }
    return dict(replace_nan(about))


def _describe_input(spec: InputSpec) -> dict[str, Any]:
    """Return what a client has to know of the numbers that a model takes."""
    if isinstance(spec, VectorInput):
        return {"width": spec.width}
    if isinstance(spec, SeriesInput):
        return {"channels": spec.channels, "rate": spec.rate}
    if isinstance(spec, TableInput):
        numbers = [column.name for column in spec.numbers]
        categories = {column.name: list(column.values) for column in spec.categories}
        return {"numbers": numbers, "categories": categories}
    return {}


def can_explain(model: Predictor) -> bool:
    """Whether the model knows what it would answer from nothing."""
    try:
        make_prior(model.info)
    except UserError:
        return False
    return True

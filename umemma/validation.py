"""Settings checked against a model, told apart, and named by a hash."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from umemma.errors import UserError, unknown

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], data: Mapping[str, Any], where: str, prefix: str = "") -> Model:
    """`data` as a `model`, or one UserError that lists everything wrong with it by path."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        problems = [
            _problem(model, [str(part) for part in e["loc"]], e, prefix) for e in error.errors()
        ]
    raise UserError(
        "; ".join(problems),
        where,
        "Mend the settings; the project's params.yaml shows them all.",
        usage=True,
    )


def _problem(model: type[BaseModel], path: list[str], error: Any, prefix: str) -> str:
    name = ".".join(filter(None, [prefix, *path]))
    if error["type"] != "extra_forbidden":
        message = error["msg"][0].lower() + error["msg"][1:]
        given = "" if error["type"] == "missing" else f", but it is {error['input']!r}"
        return f"{name}: {message}{given}"
    section: Any = functools.reduce(_field, path[:-1], model)
    known = (
        section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else {}
    )
    wrong = unknown("key", name, (), "")
    return f"{wrong.what} ({unknown('key', path[-1], known).hint.rstrip('.')})"


def _field(model: Any, name: str) -> Any:
    """The type below `name`: a section's field, or the values of a mapping."""
    fields = getattr(model, "model_fields", {})
    if name in fields:
        return fields[name].annotation
    arguments = getattr(model, "__args__", ())
    return arguments[-1] if arguments else model


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A short hash of plain settings; the same settings in any order give the same one."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What two settings differ in, as ["a.b: 1 there, 2 here"], for the error that refuses one of them."""
    lines = []
    for key in sorted(there.keys() | here.keys()):
        left, right = there.get(key), here.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += difference(left, right, f"{prefix}{key}.")
        elif left != right:
            lines.append(f"{prefix}{key}: {left!r} there, {right!r} here")
    return lines

"""Validate settings against a schema, compare them, and name them by a hash."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from umemma.errors import UserError, unknown_name

Model = TypeVar("Model", bound=BaseModel)
KEY = "[key]"  # how pydantic marks that an error is about the key of a mapping


def validate(model: type[Model], data: Mapping[str, Any], where: str, prefix: str = "") -> Model:
    """Return `data` as a `model`. Raises one UserError that lists all problems with their paths.

    where: the file or the settings that the error names.
    prefix: the path of `data` in the settings.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        problems = _describe_problems(model, data, error, prefix)
    raise UserError(
        "; ".join(problems),
        where,
        "Correct the settings. docs/reference/settings.md lists all of them.",
        usage=True,
    )


def _describe_problems(
    model: type[BaseModel], data: Mapping[str, Any], error: ValidationError, prefix: str
) -> list[str]:
    """Return each problem as "path: message, but it is value".

    Where a value may be of several types, pydantic has a problem for each. One that lies deeper in
    the value says more than that the value as a whole is not of another type.
    """
    items = [(_find_path(details, data), details) for details in error.errors()]
    problems = []
    for path, details in items:
        deeper = [other for other, _ in items if other[: len(path)] == path != other]
        if not deeper:
            problems.append(_describe_problem(model, path, details, prefix))
    return problems


def _find_path(details: Any, data: Any) -> list[str]:
    """Return the path of a problem in the data.

    pydantic's also has the names of the types that a value may be of, which no user wrote.
    """
    location = details["loc"]
    if location[-1:] == (KEY,):
        location = location[:-2]
    path = []
    for part in location:
        is_key = isinstance(data, Mapping) and part in data
        is_index = isinstance(data, list | tuple) and isinstance(part, int)
        if is_key or is_index:
            data = data[part]
        elif part is not location[-1] or details["type"] not in ("missing", "invalid_key"):
            continue
        path.append(str(part))
    return path


def _describe_problem(model: type[BaseModel], path: list[str], details: Any, prefix: str) -> str:
    if details["type"] == "extra_forbidden":
        return _describe_unknown_key(model, [str(part) for part in details["loc"]], path, prefix)
    message = details["msg"][0].lower() + details["msg"][1:]
    name = _join(prefix, path)
    if details["type"] == "missing":
        return f"{name}: {message}"
    return f"{name}: {message}, but it is {details['input']!r}"


def _describe_unknown_key(
    model: type[BaseModel], location: list[str], path: list[str], prefix: str
) -> str:
    section: Any = functools.reduce(_type_of_field, location[:-1], model)
    known: list[str] = []
    if isinstance(section, type) and issubclass(section, BaseModel):
        known = list(section.model_fields)
    hint = unknown_name("key", location[-1], known).hint
    return f"unknown key {_join(prefix, path)!r} ({hint.rstrip('.')})"


def _join(prefix: str, path: list[str]) -> str:
    if prefix:
        path = [prefix, *path]
    return ".".join(path)


def _type_of_field(model: Any, name: str) -> Any:
    """Return the type of a section's field, or the type of the values of a mapping."""
    fields = getattr(model, "model_fields", {})
    if name in fields:
        return fields[name].annotation
    arguments = getattr(model, "__args__", ())
    if arguments:
        return arguments[-1]
    return model


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return a short hash of plain settings. It does not depend on the order of their keys."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fill_in(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with those of `defaults` that are not written."""
    filled = {**defaults, **settings}
    for key in defaults.keys() & settings.keys():
        if isinstance(defaults[key], Mapping) and isinstance(settings[key], Mapping):
            filled[key] = fill_in(settings[key], defaults[key])
    return filled


def list_differences(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    prefix: str = "",
) -> list[str]:
    """Return the differences of two settings as ["a.b: 1 there, 2 here"].

    The error that refuses an output made with other settings shows them.
    """
    lines = []
    for key in sorted(there.keys() | here.keys()):
        left = there.get(key)
        right = here.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines.extend(list_differences(left, right, f"{prefix}{key}."))
        elif left != right:
            lines.append(f"{prefix}{key}: {left!r} there, {right!r} here")
    return lines

"""What POST /predict takes, for /openapi.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMBERS: dict[str, dict[str, Any]] = {
    "vector": {"type": "array"},
    "series": {"type": ["array", "object"]},
    "table": {"type": "object"},
}


def describe_request(kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return the request body of a model with modalities of these kinds, as OpenAPI says it."""
    as_json: dict[str, Any] = {}
    as_form: dict[str, Any] = {}
    for m, kind in kinds.items():
        as_json[m] = {"type": "string", "description": f"{kind}, in base64"}
        as_form[m] = {"type": "string", "format": "binary", "description": kind}
        if kind == "text":
            as_json[m] = as_form[m] = {"type": "string"}
        elif kind in NUMBERS:
            as_json[m] = NUMBERS[kind]
    content = {}
    for name, properties in (("application/json", as_json), ("multipart/form-data", as_form)):
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        content[name] = {"schema": schema}
    return {"required": True, "content": content}

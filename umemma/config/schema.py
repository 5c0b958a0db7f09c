"""The JSON Schema of params.yaml, made from the classes that validate it.

An editor that knows it completes keys and refuses what umemma refuses, at the same place. What
depends on the data, or on several settings together, is left to the stages.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from umemma.config.params import Params
from umemma.config.training import Training
from umemma.presets import PRESETS
from umemma.types import MAX_MODALITIES, MODALITY_NAME, RESERVED_NAMES

Schema = dict[str, Any]
Models = Mapping[str, type[BaseModel]]

# "name: text" or "one, other: text" in a docstring, with the indented lines that follow.
DESCRIBED = re.compile(r"^(\w+(?:, \w+)*): (.+(?:\n {4}.+)*)", re.MULTILINE)


def make_schema(options: Models, augmentations: Models) -> Schema:
    """Return the schema (JSON Schema, draft 2020-12).

    options: {dataset: the class of its `preprocess.options`}.
    augmentations: {kind of modality: the class of its section in `augment`}.
    """
    named: list[type[BaseModel]] = [Params, Training, *options.values(), *augmentations.values()]
    refs, whole = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(named)],
        schema_generator=_Generator,
    )
    references = {model: reference for (model, _), reference in refs.items()}
    definitions = whole["$defs"]
    params = definitions.pop(Params.__name__)
    _add_later_checks(params["properties"], definitions)
    params["properties"]["dataset"]["enum"] = list(options)
    conditions = []
    for dataset, model in options.items():
        chosen = {"properties": {"dataset": {"const": dataset}}}
        section = {"properties": {"options": references[model]}}
        conditions.append({"if": chosen, "then": {"properties": {"preprocess": section}}})
    # In a plain list a modality is named like its kind, which decides how it is augmented.
    plain_list = {"properties": {"modalities": {"type": "array"}}}
    sections = {kind: references[model] for kind, model in augmentations.items()}
    augment = {"augment": {"properties": sections}}
    conditions.append({"if": plain_list, "then": {"properties": augment}})
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "params.yaml of umemma",
        **params,
        "allOf": conditions,
        "$defs": definitions,
    }


def _add_later_checks(params: Schema, definitions: Schema) -> None:
    """Add what validators and stages check, which the types of the classes don't say."""
    definitions["Name"] = {
        "description": "the name of a modality",
        "pattern": f"^{MODALITY_NAME.pattern}$",
        "not": {"enum": sorted(RESERVED_NAMES)},
    }
    name = {"type": "string", "$ref": "#/$defs/Name"}
    names = {"type": "array", "items": name, "uniqueItems": True}
    kinds = {"type": "object", "propertyNames": name}
    params["modalities"] |= {
        "type": ["array", "object"],
        "anyOf": [names, kinds],
        "minItems": 1,
        "maxItems": MAX_MODALITIES,
        "minProperties": 1,
        "maxProperties": MAX_MODALITIES,
    }
    del definitions["Encoder"]["properties"]["kind"]
    of_one = definitions["Pretrain"]["properties"]["modalities"]
    of_one["additionalProperties"] = {"$ref": f"#/$defs/{Training.__name__}"}
    definitions["Finetune"]["properties"]["preset"]["enum"] = list(PRESETS)
    compare = definitions["Compare"]["properties"]
    compare["presets"]["items"]["enum"] = list(PRESETS)
    compare["baseline"]["enum"] = [None, *PRESETS]


class _Generator(GenerateJsonSchema):
    """Describes settings by the docstrings of their classes, and lets an error lie deep.

    A validator names the place of a whole `anyOf`, but that of a wrong number inside an object.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        section = super().model_schema(schema)
        section.pop("title", None)
        summary, texts = _read_docstrings(schema["cls"])
        section.pop("description", None)
        if summary:
            section["description"] = summary
        for name, setting in section.get("properties", {}).items():
            if name in texts:
                setting["description"] = texts[name]
            if "$ref" in setting:
                setting.pop("default", None)  # its own settings have theirs
        return section

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Schema:
        return self._describe_choices([schema["schema"], core_schema.none_schema()])

    def union_schema(self, schema: core_schema.UnionSchema) -> Schema:
        return self._describe_choices(schema["choices"])

    def _describe_choices(self, choices: Sequence[Any]) -> Schema:
        described = []
        for choice in choices:
            inner = [choice]
            if choice["type"] == "union":
                inner = choice["choices"]
            described += [self.generate_inner(one) for one in inner]
        if "$ref" in described[0]:  # a section or null
            return {"if": {"type": "null"}, "else": described[0]}
        return _merge(described)


def _merge(choices: list[Schema]) -> Schema:
    """Return a schema of values that fit one of the choices, whose JSON types all differ.

    The keywords of a choice concern its own type only, so they can stand side by side, except those
    that list values.
    """
    if not any(choice.get("type") in ("object", "array") for choice in choices):
        return {"anyOf": choices}
    merged: Schema = {}
    listed = [choice for choice in choices if "enum" in choice or "const" in choice]
    open_types = []
    for choice in choices:
        if choice not in listed:
            merged |= choice
            open_types.append(choice["type"])
    merged["type"] = [choice["type"] for choice in choices]
    if listed:
        merged["anyOf"] = [*listed, {"type": open_types}]
    return merged


def _read_docstrings(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """Return the summary of a class, and {setting: description} of it and of its base classes."""
    texts: dict[str, str] = {}
    summary = ""
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or not base.__doc__ or base is BaseModel:
            continue
        docstring = inspect.cleandoc(base.__doc__)
        summary = DESCRIBED.split(docstring)[0].split("\n\n")[0]
        for match in DESCRIBED.finditer(docstring):
            for name in match[1].split(", "):
                texts[name] = " ".join(match[2].split())
    return " ".join(summary.split()), texts

"""The settings reference: every key of params.yaml, read from the schema."""

from __future__ import annotations

import json
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from markdown_text import code, table
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from umemma import datasets, modalities
from umemma import types as umemma_types
from umemma.config import Params

DESCRIPTIONS = tomllib.loads(
    Path(__file__).with_name("setting_descriptions.toml").read_text(encoding="utf-8")
)
INPUTS = {  # heading: the class of the encoder's input
    "image": umemma_types.ImageInput,
    "video": umemma_types.VideoInput,
    "audio": umemma_types.AudioInput,
    "wave": umemma_types.WaveInput,
    "text": umemma_types.TextInput,
    "vector": umemma_types.VectorInput,
    "series": umemma_types.SeriesInput,
    "table": umemma_types.TableInput,
}
INPUT_TITLES = {
    "image": "Image and spectrogram encoders",
    "video": "Video encoders",
    "audio": "Audio encoders that see a log-mel spectrogram",
    "wave": "Audio encoders that see samples",
    "text": "Text encoders",
    "vector": "Vector encoders",
    "series": "Series encoders",
    "table": "Table encoders",
}
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
WORDS = {int: "integer", float: "number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Section:
    """A table of the page. names: keys of `model` to list; group: where DESCRIPTIONS has them."""

    heading: str
    intro: str
    model: type[BaseModel] | None = None
    group: str = ""
    names: tuple[str, ...] = ()


def generate() -> str:
    """Return all sections as Markdown."""
    parts = []
    for section in sections():
        parts.append(section.heading)
        if section.intro:
            parts.append(section.intro)
        if section.model is not None:
            if section.names:
                parts.append(table(["key", "type", "default", "description"], _rows(section)))
            else:
                parts.append("It has no options.")
    return "\n\n".join(parts)


def sections() -> Iterator[Section]:
    """Yield every section of the page, in its order."""
    fields = Params.model_fields
    nested = {name for name, field in fields.items() if model_of(field.annotation) is not None}
    plain = [name for name in fields if name not in nested and name != "augment"]
    yield Section("## Top level {#top}", "", Params, "params", tuple(plain))
    yield from _preprocess(model_of(fields["preprocess"].annotation))
    yield from _encoders(model_of(fields["encoders"].annotation))
    yield from _augment()
    missing = model_of(fields["missing"].annotation)
    intro = "What is taken away from samples on purpose, by a hash of the sample's key."
    yield _whole("## missing {#missing}", intro, missing, "missing")
    yield from _training(
        model_of(fields["pretrain"].annotation), model_of(fields["finetune"].annotation)
    )
    for name, intro in (
        ("evaluate", "Read by [`umemma evaluate`](commands.md#umemma-evaluate-missing)."),
        ("compare", "Read by [`umemma compare`](commands.md#umemma-compare)."),
        ("machine", "What depends on the machine. It changes no result, so no stage runs again."),
    ):
        yield _whole(f"## {name} {{#{name}}}", intro, model_of(fields[name].annotation), name)


def _preprocess(model: type[BaseModel]) -> Iterator[Section]:
    intro = "Read by [`umemma preprocess`](commands.md#umemma-preprocess)."
    names = tuple(name for name in model.model_fields if name != "media")
    yield Section("## preprocess {#preprocess}", intro, model, "preprocess", names)
    intro = "What of the raw media is packed into the shards."
    media = model_of(model.model_fields["media"].annotation)
    yield _whole("### preprocess.media {#preprocess-media}", intro, media, "preprocess.media")
    intro = "Each dataset has its own options. `umemma download` and `umemma doctor` read them too."
    yield Section("### preprocess.options {#options}", intro)
    for name in sorted(datasets.NAMES):
        options = datasets.get_module(name).Options
        heading = f"#### {name} {{#options-{name}}}"
        yield _whole(heading, "", options, f"options.{name}")
        for key, field in options.model_fields.items():
            inner = model_of(field.annotation)
            if inner is not None:
                heading = f"#### {name}: {key} {{#options-{name}-{key}}}"
                yield _whole(heading, "", inner, f"options.{name}.{key}")


def _encoders(model: type[BaseModel]) -> Iterator[Section]:
    intro = "One entry per modality, such as `encoders.image`. See [Encoders](../encoders.md)."
    yield _whole("## encoders {#encoders}", intro, model, "encoder")
    lora = model_of(model.model_fields["lora"].annotation)
    intro = "Low-rank adapters (Hu et al., arXiv 2106.09685). They need the extra `lora`."
    yield _whole("### encoders.MODALITY.lora {#encoders-lora}", intro, lora, "encoder.lora")
    intro = (
        "An encoder asks for an input as its weights were trained. `input` changes single values. "
        "The defaults here are those of the input types; an encoder may have its own."
    )
    yield Section("### encoders.MODALITY.input {#input}", intro)
    for name, spec in INPUTS.items():
        heading = f"#### {INPUT_TITLES[name]} {{#input-{name}}}"
        yield _whole(heading, "", spec, f"input.{name}")


def _augment() -> Iterator[Section]:
    intro = (
        "One entry per modality, such as `augment.image`: how training samples are changed. The "
        "draws depend on the seed, the epoch and the sample's key. By default nothing changes."
    )
    yield Section("## augment {#augment}", intro)
    for name in ("image", "video", "audio", "text", "vector", "series", "table"):
        title = "image and spectrogram" if name == "image" else name
        heading = f"### augment: {title} {{#augment-{name}}}"
        yield _whole(heading, "", modalities.get_module(name).Augment, f"augment.{name}")


def _training(pretrain: type[BaseModel], finetune: type[BaseModel]) -> Iterator[Section]:
    shared = [name for name in pretrain.model_fields if name != "modalities"]
    heading = "## pretrain and finetune {#training}"
    intro = (
        "Both trainings run the same loop, so both sections have these keys. "
        "[`umemma pretrain-unimodal`](commands.md#umemma-pretrain-unimodal) reads `pretrain`, "
        "[`umemma finetune-ensemble`](commands.md#umemma-finetune-ensemble) reads `finetune`."
    )
    yield Section(heading, intro, pretrain, "training", tuple(shared))
    intro = (
        "`encoder`, `adapters`, `head` and `absence` (which has no weight decay) take these keys, "
        "and so does each modality in `finetune.modalities`. The nearest setting wins: the part of "
        "the modality, the modality, the part, the section."
    )
    rates = model_of(pretrain.model_fields["encoder"].annotation)
    yield _whole("### Rates of a part {#parts}", intro, rates, "rates")
    yield Section("### Only in pretrain {#pretrain}", "", pretrain, "pretrain", ("modalities",))
    own = [name for name in finetune.model_fields if name not in shared]
    yield Section("### Only in finetune {#finetune}", "", finetune, "finetune", tuple(own))
    for name, intro in (
        ("ogm", "On-the-fly gradient modulation (Peng et al., CVPR 2022, arXiv 2203.15332)."),
        ("umt", "Uni-modal teachers (Du et al., ICML 2023, arXiv 2305.01233)."),
        ("simmlm", "SimMLM (Li et al., ICCV 2025, arXiv 2507.19264)."),
        ("scratch", "Used in place of `epochs` and `learning_rate` with `init: scratch`."),
    ):
        model = model_of(finetune.model_fields[name].annotation)
        heading = f"### finetune.{name} {{#finetune-{name}}}"
        yield _whole(heading, intro, model, f"finetune.{name}")


def _whole(heading: str, intro: str, model: type[BaseModel] | None, group: str) -> Section:
    assert model is not None, group
    return Section(heading, intro, model, group, tuple(model.model_fields))


def description(section: Section, name: str) -> str:
    """The schema's description of a key, else that of setting_descriptions.toml, else ""."""
    assert section.model is not None
    field = section.model.model_fields[name]
    return field.description or DESCRIPTIONS.get(section.group, {}).get(name, "")


def _rows(section: Section) -> Iterator[list[str]]:
    assert section.model is not None
    for name in section.names:
        field = section.model.model_fields[name]
        text = description(section, name).replace("|", "\\|")
        yield [code(name), _type(field), _default(field), text]


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation is, or is where it isn't null, or of whose dictionary it is;
    else None.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is dict:
        return model_of(get_args(annotation)[1])
    if get_origin(annotation) is types.UnionType and types.NoneType in get_args(annotation):
        return model_of(get_args(annotation)[0])
    return None


def _type(field: FieldInfo) -> str:
    bounds = _bounds(field.metadata)
    word = _word(field.annotation)
    return f"{word}{bounds}".replace("|", "\\|")


def _bounds(metadata: Any) -> str:
    """The bounds of a number: " > 0", " from 0 to 1"."""
    found: dict[str, str] = {}
    for constraint in metadata:
        for name in BOUNDS:
            value = getattr(constraint, name, None)
            if value is not None:
                found[name] = f"{value:g}"
    if found.keys() == {"ge", "le"}:
        return f" from {found['ge']} to {found['le']}"
    bounds = [f"{BOUNDS[name]}\u00a0{value}" for name, value in found.items()]
    return f" {', '.join(bounds)}" if bounds else ""


def _word(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if annotation is Any:
        return "any value"
    if model_of(annotation) is not None and origin is None:
        return "section"
    if origin is Annotated:
        metadata = [extra for item in arguments[1:] for extra in getattr(item, "metadata", [item])]
        return f"{_word(arguments[0])}{_bounds(metadata)}"
    if origin is Literal:
        return ", ".join(code(_yaml(choice) or '""') for choice in arguments)
    if origin in (types.UnionType, Union):
        words = [_word(member) for member in arguments if member is not types.NoneType]
        if types.NoneType in arguments:
            words.append("null")
        return " or ".join(words)
    if origin is tuple:
        return f"list of {_word(arguments[0])}"
    if origin is dict:
        return f"mapping to {_word(arguments[1])}"
    raise ValueError(f"no word for the type {annotation!r}")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined or isinstance(default, BaseModel):
        return ""
    text = _yaml(default)
    return code(text) if text else '`""`'


def _yaml(value: Any) -> str:
    """A value as it is written in params.yaml, on one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    return json.dumps(value)

"""`hf:NAME`: a text model of Hugging Face, by name or folder; one feature as the mean over the tokens.

Code that comes with a model is never run, and only .safetensors files are read. A trained model's folder holds the
tokenizer and the configuration that it needs (`save`).
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from umemma.encoders.weights import Upstream, online, without
from umemma.errors import UserError
from umemma.system.files import read_json, write_json
from umemma.types import InputSpec, TextInput

if TYPE_CHECKING:
    from collections.abc import Callable

MODALITIES = ("text",)
PRETRAINED = True
LENGTH = 128  # tokens, at most, unless settings say otherwise
SUFFIXES = (
    ".json",
    ".txt",
    ".model",
)  # of the files that a tokenizer and a configuration are made of
# What transformers writes of where a tokenizer or a configuration came from: it differs from machine to machine.
ORIGINS = {"name_or_path", "_name_or_path", "is_local", "local_files_only"}
ORIGINS |= {"vocab_file", "tokenizer_file", "special_tokens_map_file"}


def names() -> None:
    return None


def input_spec(variant: str, modality: str) -> InputSpec:
    tokens = _loaded(library().AutoTokenizer, variant)
    return TextInput(
        length=min(LENGTH, tokens.model_max_length),
        tokenizer=f"hf:{variant}",
        padding=padding(variant),
    )


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    config = _loaded(library().AutoConfig, variant)
    assert isinstance(spec, TextInput)
    if spec.length > (most := getattr(config, "max_position_embeddings", None) or spec.length):
        raise UserError(
            f"it takes {most} tokens, not {spec.length}",
            f"hf:{variant}",
            "Lower input.length.",
            usage=True,
        )
    return TextModel(_model(config, variant), spec.padding), config.hidden_size


def width(variant: str) -> int:
    return int(_loaded(library().AutoConfig, variant).hidden_size)


def source(variant: str) -> Upstream:
    return Upstream(variant, ("model.safetensors",))


def convert(
    state: dict[str, Tensor], module: nn.Module, variant: str, spec: InputSpec
) -> dict[str, Tensor]:
    """As transformers' from_pretrained does (old names, prefixes), without the heads that the module doesn't have."""
    from transformers.utils import logging

    model: Any = module.model
    if without(state, "model.").keys() == model.state_dict().keys():
        return {f"model.{key}": value for key, value in without(state, "model.").items()}
    before = logging.get_verbosity()
    logging.set_verbosity(50)  # what it would print is in the error, if it is one
    logging.disable_progress_bar()
    try:
        loaded, report = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_without_pooler(type(model)),
        )
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
    shapes = {key: state_shape for key, state_shape, _ in report["mismatched_keys"]}
    found = {
        key: value
        for key, value in loaded.state_dict().items()
        if key not in report["missing_keys"]
    }
    found |= {key: loaded.state_dict()[key].new_empty(size) for key, size in shapes.items()}
    if report["missing_keys"]:
        found |= {key: state[key] for key in report["unexpected_keys"] if key in state}
    return {f"model.{key}": value for key, value in found.items()}


def save(name: str, folder: Path, with_config: bool) -> None:
    """Write the tokenizer of `name`, and its configuration if `with_config`, into `folder`: no weights, no code, and the
    same bytes wherever they came from. UserError where they can't be had."""
    tokenizer = _loaded(library().AutoTokenizer, name)
    tokenizer.save_pretrained(folder)
    if with_config:
        _loaded(library().AutoConfig, name).save_pretrained(folder)
    for path in sorted(folder.iterdir()):
        if path.suffix not in SUFFIXES:
            path.unlink()  # a template of chats, say
        elif path.name in ("config.json", "tokenizer_config.json"):
            write_json(
                path,
                {key: value for key, value in read_json(path, "").items() if key not in ORIGINS},
            )


def library() -> ModuleType:
    """transformers. UserError where it isn't installed."""
    try:
        import transformers
    except ImportError:
        hint = "Install it: pip install 'umemma[transformers]'"
        raise UserError("this encoder needs transformers", "encoders.text", hint) from None
    return transformers


def padding(name: str) -> int:
    """The token that fills a text up: the tokenizer's, else the model's."""
    found = _loaded(library().AutoTokenizer, name).pad_token_id
    config = _loaded(library().AutoConfig, name)
    choices = (found, config.pad_token_id, config.eos_token_id, 0)
    return next(int(one) for one in choices if isinstance(one, int) and one >= 0)


def _loaded(auto: Any, name: str) -> Any:
    """AutoConfig or AutoTokenizer by a name or a folder: from this machine, else from the network, else a UserError soon."""
    try:
        return auto.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason: Exception = error
    if not Path(name).is_dir() and online():
        try:
            return auto.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = error
    raise UserError(
        f"no {auto.__name__.removeprefix('Auto').lower()}: {' '.join(str(reason).split())[:300]}",
        f"hf:{name}",
        "Check the name, or give a folder with config.json, the tokenizer's files and model.safetensors: hf:FOLDER.",
    ) from None


def _model(config: Any, variant: str) -> Any:
    transformers = library()
    auto = (
        transformers.AutoModelForTextEncoding
        if config.is_encoder_decoder
        else transformers.AutoModel
    )
    try:
        kind = auto._model_mapping[type(config)]
    except KeyError:
        raise UserError(
            f"{config.model_type} is no text encoder", f"hf:{variant}", usage=True
        ) from None
    config._attn_implementation = config._experts_implementation = (
        None  # a config may name code on the hub here
    )
    return auto.from_config(config, **_without_pooler(kind))


def _without_pooler(kind: Callable[..., Any]) -> dict[str, bool]:
    """A pooler would never be used, nor get a gradient."""
    return (
        {"add_pooling_layer": False}
        if "add_pooling_layer" in inspect.signature(kind).parameters
        else {}
    )


class TextModel(nn.Module):
    """(B, T) token numbers -> (B, D), the mean over those that aren't `padding`; of nothing but padding, of the first."""

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__()
        self.model, self.padding = model, padding

    def forward(self, tokens: Tensor) -> Tensor:
        real = tokens != self.padding
        real[:, 0] |= ~real.any(1)
        hidden = self.model(input_ids=tokens, attention_mask=real.long()).last_hidden_state
        return (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)

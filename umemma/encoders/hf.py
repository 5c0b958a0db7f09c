"""`hf:NAME`: a text model of Hugging Face, by name or folder. The feature is the mean over tokens.

Code that comes with a model is never run, and only .safetensors files are read. A trained model's
folder holds the tokenizer and the configuration that it needs (`save_tokenizer`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from umemma.encoders.weights import Upstream, is_online, strip_prefix
from umemma.errors import UserError
from umemma.system.files import read_json, write_json
from umemma.types import InputSpec, TextInput

MODALITIES = ("text",)
PRETRAINED = True
DEFAULT_LENGTH = 128  # tokens, unless the model or the settings say less or more
# The files that a tokenizer and a configuration consist of.
SUFFIXES = (".json", ".txt", ".model")
# Where a tokenizer or a configuration came from: transformers writes it, and it differs from
# machine to machine.
ORIGIN_KEYS = {
    "name_or_path",
    "_name_or_path",
    "is_local",
    "local_files_only",
    "vocab_file",
    "tokenizer_file",
    "special_tokens_map_file",
}
FATAL = 50  # the level of transformers' log that prints nothing


def names() -> None:
    return None


def input_spec(variant: str, modality: str) -> InputSpec:
    tokenizer = _load_tokenizer(variant)
    return TextInput(
        length=min(DEFAULT_LENGTH, tokenizer.model_max_length),
        tokenizer=f"hf:{variant}",
        padding=find_padding(variant),
    )


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    config = _load_config(variant)
    assert isinstance(spec, TextInput)
    max_length = getattr(config, "max_position_embeddings", None) or spec.length
    if spec.length > max_length:
        what = f"it takes {max_length} tokens, not {spec.length}"
        raise UserError(what, f"hf:{variant}", "Lower input.length.", usage=True)
    return TextModel(_build_model(config, variant), spec.padding), config.hidden_size


def width(variant: str) -> int:
    return int(_load_config(variant).hidden_size)


def source(variant: str) -> Upstream:
    return Upstream(variant, ("model.safetensors",))


def convert(
    state: dict[str, Tensor],
    module: nn.Module,
    variant: str,
    spec: InputSpec,
) -> dict[str, Tensor]:
    """Convert old names and prefixes as transformers' from_pretrained does.

    The heads that the module lacks are left out.
    """
    model: Any = module.model
    stripped = strip_prefix(state, "model.")
    if stripped.keys() != model.state_dict().keys():
        stripped = _convert_published(state, model)
    return {f"model.{key}": value for key, value in stripped.items()}


def _convert_published(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Return a published state in the names of `model`.

    So that the error of loading lists what differs: weights that the state lacks are left out,
    those of another shape keep that shape, and unexpected ones are kept where any is missing.
    """
    with _silence_transformers():
        loaded, report = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_options_without_pooler(type(model)),
        )
    loaded_state = loaded.state_dict()
    converted: dict[str, Tensor] = {}
    for key, value in loaded_state.items():
        if key not in report["missing_keys"]:
            converted[key] = value
    for key, published_shape, _ in report["mismatched_keys"]:
        converted[key] = loaded_state[key].new_empty(published_shape)
    if report["missing_keys"]:
        for key in report["unexpected_keys"]:
            if key in state:
                converted[key] = state[key]
    return converted


@contextlib.contextmanager
def _silence_transformers() -> Iterator[None]:
    """Suppress what transformers prints: if it is an error, the error of umemma says it."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(FATAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def save_tokenizer(name: str, folder: Path, with_config: bool) -> None:
    """Write the tokenizer of `name`, and its configuration if `with_config`, into `folder`.

    No weights and no code are written, and the bytes do not depend on where the files came from.
    UserError where they are unavailable.
    """
    _load_tokenizer(name).save_pretrained(folder)
    if with_config:
        _load_config(name).save_pretrained(folder)
    for path in sorted(folder.iterdir()):
        if path.suffix not in SUFFIXES:
            path.unlink()  # a template of chats, say
        elif path.name in ("config.json", "tokenizer_config.json"):
            content = read_json(path, "")
            portable = {key: value for key, value in content.items() if key not in ORIGIN_KEYS}
            write_json(path, portable)


def import_transformers() -> ModuleType:
    """Return transformers. UserError where it is not installed."""
    try:
        import transformers
    except ImportError:
        hint = "Install it: pip install 'umemma[transformers]'"
        raise UserError("this encoder needs transformers", "encoders.text", hint) from None
    return transformers


def find_padding(name: str) -> int:
    """Return the number of the padding token: the tokenizer's, else the model's."""
    tokenizer = _load_tokenizer(name)
    config = _load_config(name)
    for token in (tokenizer.pad_token_id, config.pad_token_id, config.eos_token_id):
        if isinstance(token, int) and token >= 0:
            return int(token)
    return 0


def _load_tokenizer(name: str) -> Any:
    return _load_auto(import_transformers().AutoTokenizer, name)


def _load_config(name: str) -> Any:
    return _load_auto(import_transformers().AutoConfig, name)


def _load_auto(auto: Any, name: str) -> Any:
    """Load an AutoConfig or AutoTokenizer by a name or a folder.

    It comes from this machine, else from the network. UserError, without a long wait, where neither
    has it.
    """
    try:
        return auto.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason: Exception = error
    if not Path(name).is_dir() and is_online():
        try:
            return auto.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = error
    kind = auto.__name__.removeprefix("Auto").lower()
    text = " ".join(str(reason).split())
    hint = (
        "Check the name, or give a folder with config.json, the tokenizer's files and "
        "model.safetensors: hf:FOLDER."
    )
    raise UserError(f"no {kind}: {text[:300]}", f"hf:{name}", hint) from None


def _build_model(config: Any, variant: str) -> Any:
    transformers = import_transformers()
    auto = transformers.AutoModel
    if config.is_encoder_decoder:
        auto = transformers.AutoModelForTextEncoding
    try:
        model_class = auto._model_mapping[type(config)]
    except KeyError:
        what = f"{config.model_type} is no text encoder"
        raise UserError(what, f"hf:{variant}", usage=True) from None
    # A configuration may name code on the hub here.
    config._attn_implementation = None
    config._experts_implementation = None
    return auto.from_config(config, **_options_without_pooler(model_class))


def _options_without_pooler(model_class: Callable[..., Any]) -> dict[str, bool]:
    """Return the options of a model without a pooler: it would be unused and get no gradient."""
    if "add_pooling_layer" in inspect.signature(model_class).parameters:
        return {"add_pooling_layer": False}
    return {}


class TextModel(nn.Module):
    """(B, T) token numbers -> (B, D), the mean over the tokens that are not `padding`.

    Of padding alone it is the feature of the first token.
    """

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__()
        self.model = model
        self.padding = padding

    def forward(self, tokens: Tensor) -> Tensor:
        is_token = tokens != self.padding
        is_token[:, 0] |= ~is_token.any(1)
        output = self.model(input_ids=tokens, attention_mask=is_token.long())
        hidden = output.last_hidden_state
        return (hidden * is_token[..., None]).sum(1) / is_token.sum(1, keepdim=True)

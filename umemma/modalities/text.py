"""Text: UTF-8 in the shards; decoded by a tokenizer, (length,) int64 token numbers."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umemma.errors import UserError, unknown_name
from umemma.modalities.limits import Packed, read_file
from umemma.modalities.sampling import SampleDraws, Share, sample_uniform
from umemma.system.files import write_json
from umemma.types import Media, Packing, Plain, TextInput

if TYPE_CHECKING:
    import numpy as np
    import torch

SUFFIXES = ("txt",)
MAX_BYTES = 2**20
# The Python functions that clean a text before CLIP's byte-pair encoding, and the pattern of the
# words that are then encoded. The pattern is open_clip's, in which case does not count: so the long
# s, U+017F, is an s, and the mark U+0345 is in none.
CLEAN = ["ftfy.fix_text", "html.unescape", "html.unescape", "' '.join(text.split())", "str.lower"]
WORDS = r"'[s\u017f]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}\u0345]+"

Tokenize = Callable[[str, int], list[int]]  # (text, length) -> at most `length` tokens


# Packing and decoding. ----------------------------------------------------------------------------


def pack(media: Media, packing: Packing) -> Packed | None:
    """Return a text, or a UTF-8 file of one, without outer white space; None if it is empty."""
    if isinstance(media, Path):
        media = read_file(media)
    if isinstance(media, bytes):
        try:
            media = media.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError("text that is not UTF-8") from None
    if not isinstance(media, str):
        raise ValueError("not a text")
    try:
        data = media.strip().encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which a JSON escape can hold
        raise ValueError("text that is not UTF-8") from None
    if len(data) > MAX_BYTES:
        raise ValueError("text over the size bound")
    if not data:
        return None
    return Packed("txt", data)


def decode(data: bytes, spec: TextInput) -> torch.Tensor:
    """Return (length,) int64: the tokens and marks of the tokenizer, then `spec.padding`.

    Tokens beyond the length are cut off. Raises UserError for a tokenizer that is unknown or
    unavailable.
    """
    import torch

    tokenize = _get_tokenizer(spec.tokenizer)
    try:
        tokens = tokenize(data.decode(), spec.length)
    except UnicodeDecodeError:
        raise ValueError("text that is not UTF-8") from None
    padding = [spec.padding] * (spec.length - len(tokens))
    return torch.tensor(tokens + padding)


def is_cut(text: str, spec: TextInput) -> bool:
    """Return whether a text has more tokens than the input takes."""
    return len(_get_tokenizer(spec.tokenizer)(text, spec.length + 1)) > spec.length


def make_blank(spec: TextInput) -> torch.Tensor:
    """Return the tokens of the empty text."""
    return decode(b"", spec)


def finish(x: torch.Tensor, spec: TextInput) -> torch.Tensor:
    """Return x unchanged: (B, length) int64."""
    return x


# Augmentation. ------------------------------------------------------------------------------------


class Augment(Plain):
    """The augmentation of text in training.

    dropout: the probability that a token is deleted; the rest moves up. The first and the last
    token, which are marks if the tokenizer sets any, are never deleted, and of those between at
    least one stays.

    Reference: random deletion in Wei & Zou, EDA: Easy Data Augmentation Techniques, EMNLP 2019,
    arXiv 1901.11196.
    """

    dropout: Share = 0.0


def check(options: Augment, spec: TextInput) -> None:
    """Accept every option."""


def draw(options: Augment, numbers: np.ndarray, spec: TextInput) -> SampleDraws:
    """Draw dropout: (B, length) in [0, 1); a token is deleted if its number is below the option."""
    if not options.dropout:
        return {}
    return {"dropout": sample_uniform(numbers, "dropout", spec.length)}


def augment(
    x: torch.Tensor,
    spec: TextInput,
    options: Augment,
    drawn: SampleDraws,
) -> torch.Tensor:
    """Delete tokens of (B, length) int64."""
    import torch

    if "dropout" not in drawn:
        return x
    index = torch.arange(spec.length, device=x.device)
    # The number of the padding may also be a token inside the text, so the last token counts.
    last = (index * (x != spec.padding)).amax(1, keepdim=True)
    is_between = (index > 0) & (index < last)
    numbers = torch.from_numpy(drawn["dropout"]).to(x.device, non_blocking=True)
    highest = numbers.where(is_between, -1.0).amax(1, keepdim=True)
    keep = ~is_between | (numbers >= highest.clamp(max=options.dropout))
    order = (~keep).int().argsort(dim=1, stable=True)
    return x.where(keep, spec.padding).gather(1, order)


# Tokenizers. --------------------------------------------------------------------------------------


@functools.cache
def _get_tokenizer(name: str) -> Tokenize:
    """Load a tokenizer. Raises UserError if it is unknown or unavailable."""
    library, _, model = name.partition(":")
    if name != "clip" and not (model and library in ("open_clip", "hf")):
        raise unknown_name(
            "tokenizer",
            name,
            ("clip", "open_clip:MODEL", "hf:NAME"),
            "input.tokenizer",
        )
    try:
        if library == "hf":
            return _load_hf_tokenizer(model)
        return _load_open_clip_tokenizer(model)
    except ImportError as error:
        raise UserError(
            f"tokenizer {name!r}: {error}",
            "input.tokenizer",
            f"Install {error.name}.",
        ) from None
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"tokenizer {name!r} is unavailable: {reason}",
            "input.tokenizer",
            "Give the folder of a tokenizer, or get its files into the cache of Hugging Face while "
            "there is a network.",
        ) from None


def _load_hf_tokenizer(name: str) -> Tokenize:
    """Load a tokenizer of transformers, by name or folder."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    # A call sets the length in the tokenizer before it reads the text: threads have to take turns.
    lock = threading.Lock()

    def tokenize(text: str, length: int) -> list[int]:
        with lock:
            tokens: list[int] = tokenizer(text, truncation=True, max_length=length)["input_ids"]
        return tokens

    return tokenize


def _load_open_clip_tokenizer(model: str) -> Tokenize:
    """Load the tokenizer of a model of open_clip; "" is CLIP's tokenizer."""
    import open_clip

    if model and open_clip.get_model_config(model) is None:  # get_tokenizer would return CLIP's
        raise unknown_name("model of open_clip", model, open_clip.list_models(), "input.tokenizer")
    tokenizer: Any = open_clip.get_tokenizer(model) if model else open_clip.SimpleTokenizer()
    padding = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", 0)

    def tokenize(text: str, length: int) -> list[int]:
        tokens = tokenizer(text, context_length=length)[0].tolist()
        while tokens and tokens[-1] == padding:
            del tokens[-1]
        return tokens

    return tokenize


# Preparing a text without umemma. -----------------------------------------------------------------


def make_recipe(spec: TextInput, packing: Packing) -> dict[str, Any]:
    """Describe how a text becomes the input without umemma; `write_tokenizer` writes the files."""
    library, _, model = spec.tokenizer.partition(":")
    steps = ["Strip the white space around the text. An empty text is absent."]
    if library == "hf":
        steps += [
            "transformers.AutoTokenizer.from_pretrained(tokenizer_files)"
            f"(text, truncation=True, max_length={spec.length})['input_ids'].",
            f"Fill it up to {spec.length} numbers with {spec.padding}.",
        ]
        return {"tokenizer": "hf", "steps": steps}
    if library == "open_clip":
        steps += [
            f"open_clip.get_tokenizer({model!r})(text, context_length={spec.length}).",
            f"Its own filling at the end, if it has any, becomes {spec.padding}.",
        ]
        return {"steps": steps}
    steps += [
        "Clean it with the Python functions of `clean`, one after another; ftfy is a package.",
        "tokenizers.Tokenizer.from_file(tokenizer_files + '/tokenizer.json').encode(text).ids, "
        f"which sets the marks, cuts and fills up to {spec.length} numbers.",
    ]
    return {"clean": CLEAN, "steps": steps}


def write_tokenizer(spec: TextInput, folder: Path) -> bool:
    """Write the files of the tokenizer into a new `folder`.

    Returns False for a tokenizer that only open_clip can make.
    """
    library, _, source = spec.tokenizer.partition(":")
    if library == "hf":
        shutil.copytree(source, folder)  # from the model's folder, where predictor.load found it
    elif library == "clip":
        folder.mkdir()
        write_json(folder / "tokenizer.json", _clip_json(spec))
    return library != "open_clip"


def _clip_json(spec: TextInput) -> dict[str, Any]:
    """Return CLIP's tokenizer, from the cleaned text on, as the library `tokenizers` reads it.

    It gives the same numbers as open_clip, except for a text that spells out a mark right behind a
    sign, "!<end_of_text>", which here is a mark too.
    """
    import open_clip

    clip = open_clip.SimpleTokenizer()
    marks = [clip.decoder[clip.sot_token_id], clip.decoder[clip.eot_token_id]]
    return {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": spec.length,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": spec.length},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": spec.padding,
            "pad_type_id": 0,
            "pad_token": clip.decoder[spec.padding],
        },
        "added_tokens": [_added_token(mark, clip.encoder[mark]) for mark in marks],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(),
        "post_processor": _post_processor(marks, clip.encoder),
        "decoder": None,
        "model": _byte_pair_model(clip),
    }


def _added_token(mark: str, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "content": mark,
        "special": True,
        "normalized": False,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
    }


def _pre_tokenizer() -> dict[str, Any]:
    split_words = {
        "type": "Split",
        "pattern": {"Regex": WORDS},
        "behavior": "Removed",
        "invert": True,
    }
    split_bytes = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {"type": "Sequence", "pretokenizers": [split_words, split_bytes]}


def _post_processor(marks: list[str], numbers: Mapping[str, int]) -> dict[str, Any]:
    """Set the start mark and the end mark around a text."""
    start, end = ({"SpecialToken": {"id": mark, "type_id": 0}} for mark in marks)
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second_text = {"Sequence": {"id": "B", "type_id": 0}}
    special_tokens = {}
    for mark in marks:
        special_tokens[mark] = {
            "id": mark,
            "ids": [numbers[mark]],
            "tokens": [mark],
        }
    return {
        "type": "TemplateProcessing",
        "single": [start, text, end],
        "pair": [start, text, end, second_text, end],
        "special_tokens": special_tokens,
    }


def _byte_pair_model(clip: Any) -> dict[str, Any]:
    """Return the vocabulary and the merges of open_clip's SimpleTokenizer."""
    merges = sorted(clip.bpe_ranks, key=clip.bpe_ranks.__getitem__)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": "</w>",
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": clip.encoder,
        "merges": [list(pair) for pair in merges],
    }

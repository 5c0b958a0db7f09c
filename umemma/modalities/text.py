"""Text: UTF-8 in the shards, (length,) int64 token numbers when decoded."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umemma.errors import UserError, unknown
from umemma.modalities.limits import Packed, read_file
from umemma.modalities.sampling import Drawn, Share, uniform
from umemma.system.files import write_json
from umemma.types import Media, Packing, Plain, TextInput

if TYPE_CHECKING:
    import numpy as np
    import torch

SUFFIXES = ("txt",)
MOST_BYTES = 2**20
# What a text goes through before CLIP's byte pairs, in Python, and the words that they are then looked for in. The pattern
# is open_clip's, in which case doesn't count: so the long s, U+017F, is an s, and the mark U+0345 is in none.
CLEAN = ["ftfy.fix_text", "html.unescape", "html.unescape", "' '.join(text.split())", "str.lower"]
WORDS = r"'[s\u017f]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}\u0345]+"


def pack(media: Media, packing: Packing) -> Packed | None:
    """A text, or a UTF-8 file of one, without the white space around it; None where nothing remains."""
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
    except UnicodeEncodeError:  # half of a surrogate pair, as a JSON escape can hold
        raise ValueError("text that is not UTF-8") from None
    if len(data) > MOST_BYTES:
        raise ValueError("text over the size bound")
    return Packed("txt", data) if data else None


def decode(data: bytes, spec: TextInput) -> torch.Tensor:
    """(length,) int64: the tokens and marks of the spec's tokenizer, cut to the length or with `spec.padding` after them.

    UserError for a tokenizer that isn't known or can't be had.
    """
    import torch

    try:
        tokens = _tokenizer(spec.tokenizer)(data.decode(), spec.length)
    except UnicodeDecodeError:
        raise ValueError("text that is not UTF-8") from None
    return torch.tensor(tokens + [spec.padding] * (spec.length - len(tokens)))


def blank(spec: TextInput) -> torch.Tensor:
    """The empty text."""
    return decode(b"", spec)


class Augment(Plain):
    """dropout: how likely each token is to be deleted; the rest moves up. Never the first and the last one, which are marks
    where a tokenizer sets any, nor all of those between.

    Reference: random deletion in Wei & Zou, EDA: Easy Data Augmentation Techniques, EMNLP 2019, arXiv 1901.11196.
    """

    dropout: Share = 0.0


def check(options: Augment, spec: TextInput) -> None:
    """Every option fits."""


def draw(options: Augment, numbers: np.ndarray, spec: TextInput) -> Drawn:
    """dropout: (B, length) numbers in [0, 1), below which probability each token is deleted."""
    return {"dropout": uniform(numbers, "dropout", spec.length)} if options.dropout else {}


def augment(x: torch.Tensor, spec: TextInput, options: Augment, drawn: Drawn) -> torch.Tensor:
    """(B, length) int64."""
    import torch

    if "dropout" not in drawn:
        return x
    place = torch.arange(spec.length, device=x.device)
    last = (place * (x != spec.padding)).amax(
        1, keepdim=True
    )  # inside of a text its number may be a token's
    between = (place > 0) & (place < last)
    numbers = torch.from_numpy(drawn["dropout"]).to(x.device)
    luckiest = numbers.where(between, -1.0).amax(1, keepdim=True)
    keep = ~between | (numbers >= luckiest.clamp(max=options.dropout))
    order = (~keep).int().argsort(dim=1, stable=True)
    return x.where(keep, spec.padding).gather(1, order)


def finish(x: torch.Tensor, spec: TextInput) -> torch.Tensor:
    """As it is: (B, length) int64."""
    return x


@functools.cache
def _tokenizer(name: str) -> Callable[[str, int], list[int]]:
    """(text, length) -> at most so many tokens. UserError where it isn't known or can't be had."""
    library, _, model = name.partition(":")
    if name != "clip" and not (model and library in ("open_clip", "hf")):
        raise unknown("tokenizer", name, ("clip", "open_clip:MODEL", "hf:NAME"), "input.tokenizer")
    try:
        return _hf(model) if library == "hf" else _open_clip(model)
    except ImportError as error:
        raise UserError(
            f"tokenizer {name!r}: {error}", "input.tokenizer", f"Install {error.name}."
        ) from None
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        hint = "Give the folder of one, or get its files into the cache of Hugging Face while there is a network."
        raise UserError(
            f"tokenizer {name!r} can't be had: {reason}", "input.tokenizer", hint
        ) from None


def _hf(name: str) -> Callable[[str, int], list[int]]:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    return lambda text, length: tokenizer(text, truncation=True, max_length=length)["input_ids"]


def _open_clip(model: str) -> Callable[[str, int], list[int]]:
    """model: "" = CLIP's tokenizer."""
    import open_clip

    if model and open_clip.get_model_config(model) is None:  # get_tokenizer would take CLIP's
        raise unknown("model of open_clip", model, open_clip.list_models(), "input.tokenizer")
    tokenizer: Any = open_clip.get_tokenizer(model) if model else open_clip.SimpleTokenizer()
    padding = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", 0)

    def tokens(text: str, length: int) -> list[int]:
        found = tokenizer(text, context_length=length)[0].tolist()
        while found and found[-1] == padding:
            del found[-1]
        return found

    return tokens


# For whoever tokenizes without umemma. --------------------------------------------------------------------------------


def recipe(spec: TextInput, packing: Packing) -> dict[str, Any]:
    """How a text becomes the input without umemma; `write_tokenizer` gives the files."""
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
        "tokenizers.Tokenizer.from_file(tokenizer_files + '/tokenizer.json').encode(text).ids, which sets the marks, cuts and "
        f"fills up to {spec.length} numbers.",
    ]
    return {"clean": CLEAN, "steps": steps}


def write_tokenizer(spec: TextInput, folder: Path) -> bool:
    """Write the tokenizer's own files into a new `folder`; False for one that open_clip alone can make."""
    library, _, place = spec.tokenizer.partition(":")
    if library == "hf":
        shutil.copytree(place, folder)  # where predictor.load found it: in the model's folder
    elif library == "clip":
        folder.mkdir()
        write_json(folder / "tokenizer.json", _clip_json(spec))
    return library != "open_clip"


def _clip_json(spec: TextInput) -> dict[str, Any]:
    """open_clip's tokenizer, from the cleaned text on, as the library `tokenizers` reads it. The same numbers, except where a
    text spells out a mark right behind a sign, "!<end_of_text>", which here is a mark too."""
    import open_clip

    own = open_clip.SimpleTokenizer()
    marks = [own.decoder[number] for number in (own.sot_token_id, own.eot_token_id)]
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": True}
    as_bytes = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    start, end = ({"SpecialToken": {"id": mark, "type_id": 0}} for mark in marks)
    text = {"Sequence": {"id": "A", "type_id": 0}}
    ids = {mark: {"id": mark, "ids": [own.encoder[mark]], "tokens": [mark]} for mark in marks}
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
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
            "pad_token": own.decoder[spec.padding],
        },
        "added_tokens": [
            {"id": own.encoder[mark], "content": mark, "special": True, "normalized": False}
            | {"single_word": False, "lstrip": False, "rstrip": False}
            for mark in marks
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, as_bytes]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text, end],
            "pair": [start, text, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": ids,
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": own.encoder,
            "merges": [list(pair) for pair in merges],
        },
    }

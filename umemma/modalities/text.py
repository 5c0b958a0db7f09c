"""Text: UTF-8 in the shards, (length,) int64 token numbers when decoded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umemma.contracts import Media, Packing, Plain, TextInput
from umemma.errors import UserError, unknown
from umemma.modalities.chance import Drawn, Share, uniform
from umemma.modalities.packed import Packed, read_file

if TYPE_CHECKING:
    import numpy as np
    import torch

SUFFIXES = ("txt",)
MOST_BYTES = 2**20


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
    last = (place * (x != spec.padding)).amax(1, keepdim=True)  # inside of a text its number may be a token's
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
        raise UserError(f"tokenizer {name!r}: {error}", "input.tokenizer", f"Install {error.name}.") from None
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        hint = "Give the folder of one, or get its files into the cache of Hugging Face while there is a network."
        raise UserError(f"tokenizer {name!r} can't be had: {reason}", "input.tokenizer", hint) from None


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

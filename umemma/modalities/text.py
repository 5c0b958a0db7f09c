"""Text: UTF-8 in the shards, (length,) int64 token numbers in a batch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umemma.contracts import Media, Packing, TextInput
from umemma.modalities.packed import Packed, read_file

if TYPE_CHECKING:
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
    """(length,) int64: CLIP's byte-pair tokens between its start and end marks, cut or padded with 0."""
    try:
        return _tokenizer()(data.decode(), context_length=spec.length)[0]
    except UnicodeDecodeError:
        raise ValueError("text that is not UTF-8") from None


def blank(spec: TextInput) -> torch.Tensor:
    """The empty text."""
    return decode(b"", spec)


@functools.cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
